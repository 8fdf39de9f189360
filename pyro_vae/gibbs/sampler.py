r"""Collapsed Gibbs sampling of the partition of data, by many chains at once."""

__all__ = ["collapsed_gibbs"]

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from pyro_vae.counts import check_counts
from pyro_vae.distributions import canonical
from pyro_vae.gibbs.concentration import resample
from pyro_vae.gibbs.conjugate import Array, Conjugate, as_data, numbers, pair
from pyro_vae.gibbs.partitions import Partitions


def collapsed_gibbs(
    x: Any,
    components: Conjugate,
    *,
    concentration: float | tuple[float, float] = (1.0, 1.0),
    draws: int = 1000,
    burn_in: int = 200,
    chains: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> Partitions:
    r"""Draws partitions of data from the posterior of a Dirichlet-process mixture.

    .. math::
        c \sim \text{ChineseRestaurant}(\alpha), \qquad \theta_t \sim p(\theta), \qquad
        x_n \mid c_n \sim p(x_n \mid \theta_{c_n})

    Weights and parameters are integrated out. A sweep takes each datum out of its cluster and
    lets it join one, or be the first of a new one:

    .. math::
        p(c_n = t \mid c_{-n}, x) \propto \begin{cases}
            n_t \, p(x_n \mid x_t) & \text{for a cluster with data } x_t \\
            \alpha \, p(x_n) & \text{for a new one} \end{cases}

    This is the exact answer, up to Monte Carlo errors, for the model that
    :class:`pyro_vae.models.DirichletProcessMixture` truncates. Chains are independent and begin at
    clusters that they draw datum by datum, each sweep taking them in another order.

    Arguments:
        x: The data with shape :math:`(N, D)`, an array or a tensor.
        components: The family of the components, with its prior.
        concentration: The :math:`\alpha`; two numbers are the shape and the rate of a gamma prior,
            under which it is drawn as well.
        draws: The number of sweeps that are kept, of each chain.
        burn_in: The number of sweeps before.
        chains: The number of chains, which share the time that Python takes: 16 take far less
            than twice the time of 8.
        seed: What is drawn from.
        progress: Whether there is a progress bar.

    Returns:
        The partitions that were drawn, with the averages over them that one asks for.

    Raises:
        TypeError: If components are none of :mod:`pyro_vae.gibbs`; if a number of sweeps or of
            chains is no integer.
        ValueError: If data are not finite, of another shape or none of the family; if an argument
            is out of range.

    References:
        | Markov Chain Sampling Methods for Dirichlet Process Mixture Models, algorithm 3
          (Neal, 2000)
        | https://doi.org/10.1080/10618600.2000.10474879

    Example:
        >>> from pyro_vae.gibbs import NormalInverseGamma
        >>> x = torch.tensor([[-9.0], [-9.1], [8.8], [9.2], [9.0]])
        >>> found = collapsed_gibbs(x, NormalInverseGamma(), draws=50, seed=1)
        >>> found.consensus()
        array([0, 0, 1, 1, 1], dtype=int32)
    """
    check_counts(draws=draws, chains=chains)
    if burn_in < 0:
        raise ValueError(f"expected burn_in of at least 0, got {burn_in}")
    check_counts(burn_in=burn_in or None)
    if not isinstance(components, Conjugate):
        raise TypeError(
            f"expected components of pyro_vae.gibbs, as NormalInverseGamma(), got {components!r}"
        )
    data = as_data(x)
    components.check(data)
    random = np.random.default_rng(seed)
    fixed = np.ndim(concentration) == 0
    prior = (1.0, 1.0) if fixed else pair("concentration", concentration)
    given = numbers("concentration", concentration if fixed else prior[0] / prior[1], True)

    state = _Chains(data, components, np.full(chains, float(given)), random)
    labels, alphas = [], []
    sweeps = range(burn_in + draws)
    console = Console(stderr=True)
    for sweep in track(sweeps, "Gibbs sweeps", console=console, disable=not progress):
        state.sweep()
        if not fixed:
            state.alpha = resample(state.alpha, state.clusters, len(data), prior, random)
        if sweep >= burn_in:
            labels.append(_canonical(state.labels).astype(np.int32))
            alphas.append(state.alpha)
    return Partitions(np.stack(labels, 1), np.stack(alphas, 1), data, components)


class _Chains:
    r"""Where chains are: the clusters of the data, and what these tell of them.

    Each chain has room for :math:`K` clusters, of which one at least is empty; those of all
    chains stand one after the other.

    Arguments:
        x: The data.
        components: The family.
        alpha: The concentrations, with shape :math:`(C)`.
        random: What is drawn from.
    """

    def __init__(
        self, x: Array, components: Conjugate, alpha: Array, random: np.random.Generator
    ) -> None:
        self.x, self.components, self.alpha, self.random = x, components, alpha, random
        statistics = components.statistics(x)
        self.statistics = np.concatenate([np.ones((len(x), 1)), statistics], 1)  # counts first
        self.rows = np.arange(len(alpha))
        self.labels = np.full((len(alpha), len(x)), -1, dtype=np.int64)  # -1: in none yet
        self.began = False
        self.make_room(8)

    @property
    def clusters(self) -> NDArray[np.intp]:
        r"""The number of clusters of each chain, with shape :math:`(C)`."""
        found: NDArray[np.intp] = (self.sums[:, 0] > 0).reshape(len(self.rows), -1).sum(1)
        return found

    def make_room(self, K: int) -> None:
        r"""Has room for :math:`K` clusters, and sums anew: sums lose digits as data go."""
        self.starts = K * self.rows
        self.sums = np.zeros((K * len(self.rows), self.statistics.shape[1]))
        where = self.labels + self.starts[:, None]
        for labels, inside in zip(where, self.labels >= 0, strict=True):
            np.add.at(self.sums, labels[inside], self.statistics[inside])
        self.predictive = self.components.predictive(self.sums[:, 0], self.sums[:, 1:])

    def sweep(self) -> None:
        r"""Lets every datum leave its cluster and join one."""
        if self.began:
            self.labels = _canonical(self.labels)
            self.make_room(int(self.labels.max()) + 3)
        for n in self.random.permutation(len(self.x)):
            if self.began:
                self.add(n, -self.statistics[n])
            self.labels[:, n] = self.choose(n)
            self.add(n, self.statistics[n])
            if (K := len(self.sums) // len(self.rows)) == self.labels[:, n].max() + 1:
                self.make_room(2 * K)
        self.began = True

    def choose(self, n: int) -> NDArray[np.intp]:
        r"""The cluster that a datum joins, of each chain: its first empty one is the new one."""
        weights = self.sums[:, 0].reshape(len(self.rows), -1).copy()
        weights[self.rows, (weights == 0).argmax(1)] = self.alpha
        with np.errstate(divide="ignore"):  # other empty ones have the weight zero
            scores = np.log(weights)
        scores += self.components.log_density(self.x[n], self.predictive).reshape(scores.shape)
        return (scores + self.random.gumbel(size=scores.shape)).argmax(1)

    def add(self, n: int, statistics: Array) -> None:
        r"""Adds to the clusters that a datum is in."""
        where = self.starts + self.labels[:, n]
        sums = self.sums[where] + statistics
        sums *= sums[:, :1] > 0  # nothing is left of an empty one
        self.sums[where] = sums
        changed = self.components.predictive(sums[:, 0], sums[:, 1:])
        for old, new in zip(self.predictive, changed, strict=True):
            old[where] = new


def _canonical(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    return canonical(torch.from_numpy(labels)).numpy()
