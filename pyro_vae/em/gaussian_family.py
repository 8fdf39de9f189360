r"""Gaussian components: their densities by quadratic features, and their M-step."""

__all__ = ["GaussianFamily", "Gaussians"]

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.em.coordinates import Coordinates
from pyro_vae.em.covariances import Covariances
from pyro_vae.em.family import Family, Kernel, Sums
from pyro_vae.em.gaussian_kernel import GaussianKernel, recentred
from pyro_vae.em.missing import MissingKernel
from pyro_vae.em.priors import GaussianPrior
from pyro_vae.threads import few_threads


class Gaussians(NamedTuple):
    r"""Gaussian components, in coordinates.

    Arguments:
        means: With shape :math:`(K, D)`.
        covariances: With the shape of their form.
        factors: The factors of their inverses.
        regularized: How many were singular, and were not left so, in all M-steps so far.
    """

    means: Tensor
    covariances: Tensor
    factors: Tensor
    regularized: Tensor


class GaussianFamily(Family[Gaussians]):
    r"""Gaussian components with covariances of a form.

    Arguments:
        form: The form of the covariances.
        coordinates: Where components are.
        variances: The variances of the data there, with shape :math:`(D)`.
        floor: What is added to each variance there, with shape :math:`(D)`.
        prior: The prior of the components, in coordinates.
        missing: Whether entries that are NaN are missing.
    """

    def __init__(
        self,
        form: Covariances,
        coordinates: Coordinates,
        variances: Tensor,
        floor: Tensor,
        prior: GaussianPrior,
        missing: bool = False,
    ) -> None:
        self.form, self.coordinates, self.prior = form, coordinates, prior
        self.variances, self.floor, self.missing = variances, floor, missing

    def width(self, components: int, features: int) -> int:
        return self.form.width(components, features)

    def make(self, means: Tensor, covariances: Tensor) -> Gaussians:
        r"""Components with those means and covariances."""
        with few_threads(_work(means)):
            return Gaussians(means, *self.form.factor(covariances))

    def kernel(self, components: Gaussians, dtype: torch.dtype, exact: bool = False) -> Kernel:
        means, covariances, factors, _ = components
        if self.missing:
            return MissingKernel(self.form, self.coordinates, means, covariances)
        with few_threads(_work(means)):
            careful = self.form.narrow(means, factors, dtype) | exact
            return GaussianKernel(self.form, self.coordinates, means, factors, careful, dtype)

    def maximize(self, sums: Sums, components: Gaussians) -> Gaussians:
        counts, first, second = sums
        old = components.means
        means = self.prior.means(first + counts[:, None] * old, counts)
        # about the mean of the data first: what is left is small beside what is taken away
        shift = first / counts.clamp(min=_TINY)[:, None]
        second = second - self.form.outer(counts[:, None] * shift, shift)
        apart = old + shift - means
        second = second + self.form.outer(counts[:, None] * apart, apart)
        covariances = self.prior.covariances(second, counts, means)
        made = self.make(means, covariances + self.form.diagonal(self.floor, len(means)))
        return made._replace(regularized=components.regularized + made.regularized)

    def log_prior(self, components: Gaussians) -> Tensor:
        return self.prior.log_density(components.means, components.factors)

    def blank(self, number: int) -> Gaussians:
        D = self.variances.shape[0]
        return self.make(self.variances.new_zeros(number, D), self._broad(number))

    def seeded(self, points: Tensor) -> Gaussians:
        means = self.coordinates.enter(points.double())
        means = means.nan_to_num()  # missing entries are those of the mean
        return self.make(means, self._broad(len(points)))

    def _broad(self, number: int) -> Tensor:
        variances = torch.where(self.variances > 0, self.variances, 1e-6)
        return self.form.diagonal(variances + self.floor, number)

    def replaced(self, components: Gaussians, seeds: Gaussians, which: Tensor) -> Gaussians:
        means = components.means.clone()
        means[which] = seeds.means
        covariances = self.form.replaced(components.covariances, seeds.covariances, which)
        made = self.make(means, covariances)
        return made._replace(regularized=components.regularized + made.regularized)

    def expected(self, components: Gaussians, weights: Tensor) -> Sums:
        means, covariances = components.means, components.covariances
        mass = self.form.mass(weights, means.shape[1])
        return weights, torch.zeros_like(means), mass * covariances

    def recentred(self, sums: Sums, old: Gaussians, new: Gaussians) -> Sums:
        return recentred(self.form, sums, new.means - old.means)

    def sample(
        self, components: Gaussians, counts: np.ndarray, random: np.random.RandomState
    ) -> np.ndarray:
        means = components.means
        dense = self.form.dense(components.covariances, *means.shape)
        lower = torch.linalg.cholesky(dense)
        drawn = []
        for count, mean, root in zip(counts, means, lower, strict=True):
            noise = torch.from_numpy(random.standard_normal((int(count), len(mean)))).to(root)
            drawn.append(self.coordinates.leave(mean + noise @ root.T).cpu().numpy())
        return np.concatenate(drawn)


def _work(means: Tensor) -> int:
    r"""About how many multiplications a factorisation for each component takes."""
    components, features = means.shape
    return components * features**3


_TINY = torch.finfo(torch.float64).tiny
