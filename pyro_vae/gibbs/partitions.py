r"""Partitions that were drawn, and what they say of the data."""

__all__ = ["Figures", "Partitions"]

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_vae.gibbs.conjugate import Array, Conjugate, as_data

_BLOCK = 2**24  # numbers of a matrix of memberships


class Figures(NamedTuple):
    r"""Posterior averages, and their Monte Carlo errors.

    Arguments:
        value: The averages over all chains.
        stderr: The standard deviation of the averages of chains, divided by the square root of
            their number; NaN with a single chain.
    """

    value: Array
    stderr: Array


@dataclass(frozen=True)
class Partitions:
    r"""Draws of the posterior over partitions of data.

    Arguments:
        labels: The cluster of each datum, 0, 1, … in the order in which they appear first, with
            shape :math:`(C, S, N)`, of :math:`S` draws of each of :math:`C` chains.
        concentration: The concentrations, with shape :math:`(C, S)`.
        x: The data, with shape :math:`(N, D)`.
        components: The family of the components.
    """

    labels: NDArray[np.int32]
    concentration: Array
    x: Array
    components: Conjugate

    @property
    def clusters(self) -> NDArray[np.int32]:
        r"""The number of clusters of each draw, with shape :math:`(C, S)`."""
        return self.labels.max(-1) + 1

    def number_of_clusters(self) -> Figures:
        r"""The posterior probabilities of 0, 1, 2, … clusters."""
        T = self.clusters
        return _figures((T[..., None] == np.arange(T.max() + 1)).mean(1))

    def co_clustering(self) -> Array:
        r"""The posterior probability of each pair of data to be in one cluster, :math:`(N, N)`."""
        draws = self._draws()
        together = np.zeros((draws.shape[1],) * 2)
        for H in self._memberships():
            together += H @ H.T
        return together / len(draws)

    def consensus(self) -> NDArray[np.int32]:
        r"""The draw whose clusters are nearest to :meth:`co_clustering` in least squares.

        References:
            | Model-Based Clustering for Expression Data via a Dirichlet Process Mixture Model
              (Dahl, 2006)
        """
        draws, P = self._draws(), self.co_clustering()
        top, best = np.inf, draws[0]
        for labels in np.unique(draws, axis=0):
            H = _one_hot(labels[None])
            distance = ((1 - 2 * P) * (H @ H.T)).sum()
            if distance < top:
                top, best = distance, labels
        return best

    def density(self, points: Any) -> Figures:
        r"""The posterior predictive density of points, of each of them alone.

        .. math::
            p(y \mid x) = \mathbb{E}\left[ \sum_t \frac{n_t}{\alpha + N} \, p(y \mid x_t)
                + \frac{\alpha}{\alpha + N} \, p(y) \right]

        Here :math:`x_t` are the data of cluster :math:`t`, whose parameters are integrated out.

        Arguments:
            points: With shape :math:`(M, D)`, an array or a tensor.

        Raises:
            ValueError: If they have another number of features, or are none of the family.
        """
        y = as_data(points, "points")
        if y.shape[1:] != self.x.shape[1:]:
            raise ValueError(
                f"expected points with shape (M, {self.x.shape[1]}), as the data, got {y.shape}"
            )
        self.components.check(y)
        counts, sums = self._sums()
        predictive = self.components.predictive(counts, sums)
        counts[:, :, -1] = self.concentration  # the cluster that none belongs to yet
        weights = counts / counts.sum(-1, keepdims=True)
        by_point = [
            (weights * np.exp(self.components.log_density(each, predictive))).sum(-1).mean(1)
            for each in y
        ]
        return _figures(np.stack(by_point, -1))

    def _sums(self) -> tuple[Array, Array]:
        r"""The clusters of each draw, and one more that is empty."""
        T = int(self.clusters.max()) + 1
        statistics = self.components.statistics(self.x)
        counts, sums = [], []
        for labels in self._draws():
            H = np.zeros((T, len(labels)))
            H[labels, np.arange(len(labels))] = 1
            counts.append(H.sum(1))
            sums.append(H @ statistics)
        shape = (*self.labels.shape[:2], T)
        return np.reshape(counts, shape), np.reshape(sums, (*shape, -1))

    def _draws(self) -> NDArray[np.int32]:
        return self.labels.reshape(-1, self.labels.shape[-1])

    def _memberships(self) -> Iterator[Array]:
        r"""Who is in which cluster, of some draws after the other."""
        draws = self._draws()
        step = max(1, _BLOCK // (draws.shape[1] * (int(draws.max()) + 1)))
        for start in range(0, len(draws), step):
            yield _one_hot(draws[start : start + step])


def _one_hot(draws: NDArray[np.int32]) -> Array:
    r"""Memberships with shape :math:`(N, B T)`, for labels with shape :math:`(B, N)`."""
    T = draws.max() + 1
    found: Array = (draws.T[:, :, None] == np.arange(T)).reshape(draws.shape[1], -1).astype(float)
    return found


def _figures(by_chain: Array) -> Figures:
    r"""The averages of values of chains, with shape :math:`(C, *)`."""
    C = len(by_chain)
    mean = by_chain.mean(0)
    if C == 1:
        return Figures(mean, np.full_like(mean, np.nan))
    return Figures(mean, by_chain.std(0, ddof=1) / np.sqrt(C))
