r"""Gaussian components with conjugate priors, whose predictive densities are Student's."""

__all__ = ["NormalInverseGamma", "NormalInverseWishart"]

from typing import final

import numpy as np
from scipy.special import gammaln

from pyro_vae.gibbs.conjugate import Array, Conjugate, Numbers, fits, numbers


@final
class NormalInverseGamma(Conjugate):
    r"""Gaussians with independent features, under their conjugate prior.

    .. math::
        \sigma^2_d \sim \text{InvGamma}(\nu / 2, \psi_d / 2), \qquad
        \mu_d \mid \sigma^2_d \sim \mathcal{N}(m_d, \sigma^2_d / \kappa), \qquad
        x_{nd} \sim \mathcal{N}(\mu_d, \sigma^2_d)

    The density of a further datum, after :math:`n`, is Student's, with :math:`\nu + n` degrees of
    freedom. The prior is that of :class:`pyro_vae.models.components.GaussianComponents` and of
    :class:`pyro_vae.em.GaussianMixture` with the same arguments.

    Arguments:
        mean_prior: The :math:`m`, in units of the data: a number or :math:`D` of them.
        mean_precision_prior: The :math:`\kappa > 0`: how many data the prior of a mean counts.
        degrees_of_freedom_prior: The :math:`\nu > 0`.
        covariance_prior: The :math:`\psi > 0`, in squared units of the data.

    Raises:
        ValueError: If an argument is out of range.

    References:
        | Conjugate Bayesian analysis of the Gaussian distribution (Murphy, 2007)
        | https://www.cs.ubc.ca/~murphyk/Papers/bayesGauss.pdf
    """

    def __init__(
        self,
        mean_prior: Numbers = 0.0,
        mean_precision_prior: Numbers = 0.1,
        degrees_of_freedom_prior: Numbers = 4.0,
        covariance_prior: Numbers = 1.0,
    ) -> None:
        self.mean_prior = numbers("mean_prior", mean_prior)
        self.mean_precision_prior = numbers("mean_precision_prior", mean_precision_prior, True)
        self.degrees_of_freedom_prior = numbers(
            "degrees_of_freedom_prior", degrees_of_freedom_prior, True
        )
        self.covariance_prior = numbers("covariance_prior", covariance_prior, True)

    def check(self, x: Array) -> None:
        for name, value in vars(self).items():
            fits(name, value, x)

    def statistics(self, x: Array) -> Array:
        u = x - self.mean_prior
        return np.concatenate([u, u**2], -1)

    def predictive(self, counts: Array, sums: Array) -> tuple[Array, ...]:
        n = counts[..., None]
        D = sums.shape[-1] // 2
        first, second = sums[..., :D], sums[..., D:]
        strength, degrees = self.mean_precision_prior + n, self.degrees_of_freedom_prior + n
        loc = self.mean_prior + first / strength
        squares = self.covariance_prior + second - first**2 / strength
        width = squares * (strength + 1) / strength
        constant = gammaln((degrees + 1) / 2) - gammaln(degrees / 2) - np.log(np.pi * width) / 2
        return loc, 1 / width, (degrees + 1) / 2, constant.sum(-1)

    def log_density(self, x: Array, predictive: tuple[Array, ...]) -> Array:
        loc, precision, power, constant = predictive
        found: Array = constant - (power * np.log1p((x - loc) ** 2 * precision)).sum(-1)
        return found


@final
class NormalInverseWishart(Conjugate):
    r"""Gaussians with covariances of any form, under their conjugate prior.

    .. math::
        \Sigma \sim \mathcal{W}^{-1}(\Psi, \nu), \qquad
        \mu \mid \Sigma \sim \mathcal{N}(m, \Sigma / \kappa), \qquad
        x_n \sim \mathcal{N}(\mu, \Sigma)

    In one dimension it is :class:`NormalInverseGamma` with the same arguments.

    Arguments:
        mean_prior: The :math:`m`, in units of the data: a number or :math:`D` of them.
        mean_precision_prior: The :math:`\kappa > 0`: how many data the prior of a mean counts.
        degrees_of_freedom_prior: The :math:`\nu > D - 1`.
        covariance_prior: The :math:`\Psi`, in squared units of the data: a positive definite
            matrix with shape :math:`(D, D)`, or the :math:`D` numbers of its diagonal, or one.

    Raises:
        ValueError: If an argument is out of range, or, for data, of another shape; if rounding
            leaves no covariance of data that are far from :math:`m`.

    References:
        | Conjugate Bayesian analysis of the Gaussian distribution (Murphy, 2007)
        | https://www.cs.ubc.ca/~murphyk/Papers/bayesGauss.pdf
    """

    def __init__(
        self,
        mean_prior: Numbers,
        mean_precision_prior: float,
        degrees_of_freedom_prior: float,
        covariance_prior: Numbers,
    ) -> None:
        self.mean_prior = numbers("mean_prior", mean_prior)
        self.mean_precision_prior = numbers("mean_precision_prior", mean_precision_prior, True, 0)
        self.degrees_of_freedom_prior = numbers(
            "degrees_of_freedom_prior", degrees_of_freedom_prior, True, 0
        )
        self.covariance_prior = numbers("covariance_prior", covariance_prior, ndim=2)

    def check(self, x: Array) -> None:
        D = x.shape[1]
        fits("mean_prior", self.mean_prior, x)
        if self.covariance_prior.ndim < 2:
            fits("covariance_prior", self.covariance_prior, x)
        elif self.covariance_prior.shape != (D, D):
            raise ValueError(
                f"expected covariance_prior with shape ({D}, {D}) for data of {D} features, got "
                f"{self.covariance_prior.shape}"
            )
        if self.degrees_of_freedom_prior <= D - 1:
            raise ValueError(
                f"expected degrees_of_freedom_prior above D - 1 = {D - 1}, got "
                f"{self.degrees_of_freedom_prior:g}"
            )
        scatter = self._scatter(D)
        if (scatter != scatter.T).any() or np.linalg.eigvalsh(scatter)[0] <= 0:
            raise ValueError(
                "expected covariance_prior to be symmetric and positive definite, got "
                f"{self.covariance_prior}"
            )

    def _scatter(self, D: int) -> Array:
        full = self.covariance_prior
        return full if full.ndim == 2 else np.eye(D) * full

    def statistics(self, x: Array) -> Array:
        u = x - self.mean_prior
        squares = u[:, :, None] * u[:, None, :]
        return np.concatenate([u, squares.reshape(len(x), x.shape[1] ** 2)], -1)

    def predictive(self, counts: Array, sums: Array) -> tuple[Array, ...]:
        F = sums.shape[-1]
        D = int((np.sqrt(1 + 4 * F) - 1) / 2 + 0.5)  # F = D + D²
        first, second = sums[..., :D], sums[..., D:].reshape(*sums.shape[:-1], D, D)
        strength = (self.mean_precision_prior + counts)[..., None]
        degrees = self.degrees_of_freedom_prior + counts
        outer = first[..., :, None] * first[..., None, :]
        squares = self._scatter(D) + second - outer / strength[..., None]
        try:
            root = np.linalg.cholesky(squares * ((strength + 1) / strength)[..., None])
        except np.linalg.LinAlgError as error:
            raise ValueError(
                "expected data near mean_prior, got some so far that rounding leaves no "
                "covariance: give mean_prior=x.mean(0), or subtract it"
            ) from error
        half_log = np.log(np.diagonal(root, axis1=-2, axis2=-1)).sum(-1)
        constant = gammaln((degrees + 1) / 2) - gammaln((degrees + 1 - D) / 2)
        constant = constant - D / 2 * np.log(np.pi) - half_log
        loc = self.mean_prior + first / strength
        return loc, np.linalg.inv(root), (degrees + 1) / 2, constant

    def log_density(self, x: Array, predictive: tuple[Array, ...]) -> Array:
        loc, inverse, power, constant = predictive
        white = (inverse @ (x - loc)[..., None])[..., 0]
        found: Array = constant - power * np.log1p((white**2).sum(-1))
        return found
