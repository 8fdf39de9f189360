r"""Conjugate priors of Gaussian components."""

__all__ = ["GaussianPrior"]

import math

import torch
from torch import Tensor

from pyro_vae.em.covariances import Covariances


class GaussianPrior:
    r"""Normal means and inverse-Wishart covariances, or inverse-gamma variances.

    .. math::
        \mu_k \mid \Sigma_k \sim \mathcal{N}(m, \Sigma_k / \kappa), \qquad
        \Sigma_k \sim \mathcal{W}^{-1}(\Psi, \nu)

    A variance of its own, of a feature or of a component, has the prior
    :math:`\text{InvGamma}(\nu / 2, \Psi / 2)`, which is the same in one dimension.

    Arguments:
        form: The form of the covariances.
        mean: The :math:`m`, with shape :math:`(D)`.
        strength: The :math:`\kappa`; zero is no prior of the means.
        degrees: The :math:`\nu`; ``None`` is no prior of the covariances.
        scatter: The :math:`\Psi`, with the shape of a single covariance.
        scale: By what features are multiplied in these coordinates, with shape :math:`(D)`.
    """

    def __init__(
        self,
        form: Covariances,
        mean: Tensor,
        strength: float,
        degrees: float | None,
        scatter: Tensor,
        scale: Tensor,
    ) -> None:
        self.form, self.mean, self.strength = form, mean, strength
        self.degrees, self.scatter, self.scale = degrees, scatter, scale

    def means(self, sums: Tensor, counts: Tensor) -> Tensor:
        r"""The most probable means, for data with those sums about the origin."""
        shrunk = sums + self.strength * self.mean
        # a component without data and prior keeps no mean; the loop replaces it
        return shrunk / (counts + self.strength).clamp(min=_TINY)[:, None]

    def covariances(self, second: Tensor, counts: Tensor, means: Tensor) -> Tensor:
        r"""The most probable covariances, for data with those squares about the means."""
        apart = means - self.mean
        squares = second + self.form.outer(self.strength * apart, apart) + self.scatter
        mass = self.form.mass(counts, means.shape[1])
        return squares / (mass + self._more(means)).clamp(min=_TINY)

    def log_density(self, means: Tensor, factors: Tensor) -> Tensor:
        r"""The log density of all components in units of the data.

        Of a prior that is improper what cannot be normalised is left out: for matrices and
        :math:`\nu \leq D - 1` the multivariate gamma function, where :math:`\Psi` is singular its
        determinant.
        """
        if self.strength == 0 and self.degrees is None:
            return means.new_zeros(())
        apart = means - self.mean
        squares = self.form.outer(self.strength * apart, apart) + self.scatter
        power = self._more(means) * self.form.log_factors(factors)
        density = power - 0.5 * (squares * self.form.precisions(factors)).sum()
        return density + self._log_normal(means) + self._log_wishart(means)

    def _log_normal(self, means: Tensor) -> Tensor:
        r"""What the normals' densities have besides precisions and squares."""
        if self.strength == 0:
            return means.new_zeros(())
        constant = 0.5 * math.log(self.strength / (2 * math.pi))
        return len(means) * (constant + self.scale.log()).sum()

    def _log_wishart(self, means: Tensor) -> Tensor:
        r"""What the densities of the covariances have besides precisions and squares."""
        if self.degrees is None:
            return means.new_zeros(())
        K, D = means.shape
        p, _ = self.form.dimensions(K, D)
        matrices = math.prod(self.form.shape(K, D)) // p**2
        # of symmetric matrices, of which each entry is in the units of two features
        units = matrices * p / D * (p + 1) * self.scale.log().sum()
        constant = 0.5 * self.degrees * (self._log_scatter() - p * math.log(2))
        if self.degrees > p - 1:
            constant = constant - torch.tensor(self.degrees / 2).double().mvlgamma(p)
        return matrices * constant + units

    def _log_scatter(self) -> Tensor:
        r"""The log determinant of a single matrix, on average; zero if it has none."""
        log = self.scatter.logdet() if self.scatter.ndim == 2 else self.scatter.log().mean()
        return torch.where(log.isfinite(), log, 0.0)

    def _more(self, means: Tensor) -> float:
        r"""By how many squares the prior is worth more than the data of a matrix."""
        dimension, shared = self.form.dimensions(*means.shape)
        wishart = 0.0 if self.degrees is None else self.degrees + dimension + 1
        return wishart + (shared if self.strength > 0 else 0)


_TINY = torch.finfo(torch.float64).tiny
