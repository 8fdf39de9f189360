r"""Gaussian components of data of which entries are missing."""

__all__ = ["MissingKernel", "conditional_means"]

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.em.coordinates import Coordinates
from pyro_vae.em.covariances import Covariances
from pyro_vae.em.family import Kernel, Sums


class Pattern(NamedTuple):
    r"""Rows that lack the same entries, under every component.

    Arguments:
        rows: Which rows, with shape :math:`(M)`.
        there: Which entries are there, with shape :math:`(D)`.
        filled: The differences from each mean, those that are missing as they are expected,
            with shape :math:`(K, M, D)`.
        spread: The covariances of what is missing, with shape :math:`(K, D, D)`.
        log_density: That of what is there, with shape :math:`(K, M)`.
    """

    rows: Tensor
    there: Tensor
    filled: Tensor
    spread: Tensor
    log_density: Tensor


class MissingKernel(Kernel):
    r"""The exact E-step where entries that are NaN are missing at random.

    .. math::
        \mathbb{E}[x_m \mid x_o, k] = \mu_{km} + \Sigma_{kmo} \Sigma_{koo}^{-1} (x_o - \mu_{ko}),
        \qquad \text{Var}[x_m \mid x_o, k]
            = \Sigma_{kmm} - \Sigma_{kmo} \Sigma_{koo}^{-1} \Sigma_{kom}

    Arguments:
        form: The form of the covariances.
        coordinates: Where the components are.
        means: With shape :math:`(K, D)`, in double precision.
        covariances: With the shape of the form.

    References:
        | Supervised Learning from Incomplete Data via an EM Approach (Ghahramani & Jordan, 1994)
        | https://proceedings.neurips.cc/paper/1993/hash/f2201f5191c4e92cc5af043eebfd0946-Abstract.html
    """

    def __init__(
        self, form: Covariances, coordinates: Coordinates, means: Tensor, covariances: Tensor
    ) -> None:
        self.form, self.coordinates, self.means = form, coordinates, means
        self.dense = form.dense(covariances, *means.shape)

    def features(self, x: Tensor) -> tuple[Tensor, list[Pattern]]:
        return x, list(self._patterns(self.coordinates.enter(x.double())))

    def log_density(self, features: tuple[Tensor, list[Pattern]]) -> Tensor:
        x, patterns = features
        density = torch.empty(len(self.means), len(x), dtype=torch.float64, device=x.device)
        for pattern in patterns:
            units = self.coordinates.scale.log()[pattern.there].sum()
            density[:, pattern.rows] = pattern.log_density + units
        return density.to(x.dtype)

    def statistics(self, features: tuple[Tensor, list[Pattern]], r: Tensor) -> Sums:
        first = torch.zeros_like(self.means)
        second = torch.zeros_like(self.dense).contiguous()
        for rows, _, filled, spread, _ in features[1]:
            share = r[:, rows].double()
            first += torch.einsum("km,kmd->kd", share, filled)
            second += torch.einsum("km,kmd,kme->kde", share, filled, filled)
            second += share.sum(1)[:, None, None] * spread
        return r.sum(1).double(), first, self.form.of_dense(second)

    def _patterns(self, u: Tensor) -> Iterator[Pattern]:
        kinds, kind = u.isnan().unique(dim=0, return_inverse=True)
        for index, missing in enumerate(kinds):
            rows = (kind == index).nonzero()[:, 0]
            yield self._pattern(u[rows], rows, ~missing)

    def _pattern(self, u: Tensor, rows: Tensor, there: Tensor) -> Pattern:
        missing = ~there
        seen = u[:, there] - self.means[:, None, there]  # (K, M, O)
        lower = torch.linalg.cholesky(self.dense[:, there][:, :, there])
        white = torch.linalg.solve_triangular(lower, seen.mT, upper=False)  # (K, O, M)
        across = torch.linalg.solve_triangular(
            lower, self.dense[:, there][:, :, missing], upper=False
        )
        filled = u.new_zeros(len(self.means), *u.shape)
        filled[:, :, there] = seen
        filled[:, :, missing] = white.mT @ across
        spread = torch.zeros_like(self.dense).contiguous()
        left = self.dense[:, missing][:, :, missing] - across.mT @ across
        spread[:, missing.nonzero(), missing.nonzero()[:, 0]] = left
        normal = lower.diagonal(dim1=1, dim2=2).log().sum(1) + 0.5 * _LOG_2PI * seen.shape[2]
        density = -0.5 * white.square().sum(1) - normal[:, None]
        return Pattern(rows, there, filled, spread, density)


def conditional_means(kernel: MissingKernel, x: Tensor, log_weights: Tensor) -> Tensor:
    r"""Data whose missing entries are their means given all that is there.

    Arguments:
        kernel: The components.
        x: With shape :math:`(B, D)`.
        log_weights: Those of the components, with shape :math:`(K)`.
    """
    _, patterns = features = kernel.features(x)
    r = (kernel.log_density(features).double() + log_weights[:, None]).softmax(0)
    result = x.clone()
    for rows, there, filled, _, _ in patterns:
        mean = torch.einsum("km,kmd->md", r[:, rows], filled + kernel.means[:, None])
        expected = kernel.coordinates.leave(mean).to(x.dtype)
        result[rows] = torch.where(there, x[rows], expected)
    return result


_LOG_2PI = math.log(2 * math.pi)
