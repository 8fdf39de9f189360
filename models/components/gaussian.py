r"""Components of reals."""

__all__ = ["FullGaussianComponents", "GaussianComponents", "SemiconjugateGaussianComponents"]

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae.counts import check_positive
from pyro_vae.models.components.family import Family, Observation, Prior, taken


class GaussianComponents(Family):
    r"""Gaussians with independent features, under their conjugate prior.

    .. math::
        \sigma^2_{kd} & \sim \text{InvGamma}(\nu / 2, \psi_d / 2) \\
        \mu_{kd} \mid \sigma^2_{kd} & \sim \mathcal{N}(m_d, \sigma^2_{kd} / \kappa) \\
        x_{nd} \mid c_n & \sim \mathcal{N}(\mu_{c_n d}, \sigma^2_{c_n d})

    The prior is that of :class:`pyro_vae.em.GaussianMixture` with ``covariance_type="diag"`` and
    the same arguments; the defaults suit features of mean 0 and variance 1.

    Sites: ``variances`` and ``means``, both with event shape :math:`(D)`.

    Arguments:
        features: The number of features :math:`D`.
        mean_prior: The :math:`m`, in units of the data: a number or :math:`D` of them.
        mean_precision_prior: The :math:`\kappa > 0`: how many data the prior of a mean counts.
        degrees_of_freedom_prior: The :math:`\nu > 0`.
        covariance_prior: The :math:`\psi > 0`, in squared units of the data.

    Raises:
        ValueError: If an argument is out of range or of another shape.

    References:
        | Machine Learning: A Probabilistic Perspective, section 4.6.3 (Murphy, 2012)
        | https://probml.github.io/pml-book/book0.html

    Example:
        The last feature has about three times the standard deviation of others.

        >>> with pyro.plate("components", 3, dim=-1):
        ...     of_component = GaussianComponents(4, covariance_prior=[1.0, 1.0, 1.0, 9.0])()
        >>> of_component(torch.tensor([0, 2])).sample().shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        features: int,
        mean_prior: Prior = 0.0,
        mean_precision_prior: Prior = 0.1,
        degrees_of_freedom_prior: Prior = 4.0,
        covariance_prior: Prior = 1.0,
    ) -> None:
        super().__init__(features)
        self._prior("mean_prior", mean_prior)
        self._prior("mean_precision_prior", mean_precision_prior, positive=True)
        self._prior("degrees_of_freedom_prior", degrees_of_freedom_prior, positive=True)
        self._prior("covariance_prior", covariance_prior, positive=True)

    def forward(self) -> Observation:
        r"""Draws the parameters of each component."""
        variances = pyro.sample("variances", _inverse_gamma(self))
        scale = (variances / self.mean_precision_prior).sqrt()
        means = pyro.sample("means", dist.Normal(self.mean_prior, scale).to_event(1))
        return lambda c: _normal(means, variances, c)


class SemiconjugateGaussianComponents(Family):
    r"""Gaussians with independent features, whose means and variances are independent a priori.

    .. math::
        \sigma^2_{kd} & \sim \text{InvGamma}(\nu / 2, \psi_d / 2) \\
        \mu_{kd} & \sim \mathcal{N}(m_d, s_d^2) \\
        x_{nd} \mid c_n & \sim \mathcal{N}(\mu_{c_n d}, \sigma^2_{c_n d})

    Sites: ``variances`` and ``means``, both with event shape :math:`(D)`.

    Arguments:
        features: The number of features :math:`D`.
        mean_prior: The :math:`m`, in units of the data: a number or :math:`D` of them.
        mean_scale_prior: The :math:`s > 0`, a standard deviation in units of the data.
        degrees_of_freedom_prior: The :math:`\nu > 0`.
        covariance_prior: The :math:`\psi > 0`, in squared units of the data.

    Raises:
        ValueError: If an argument is out of range or of another shape.

    References:
        | Marginal Likelihood from the Gibbs Output (Chib, 1995)
        | https://doi.org/10.1080/01621459.1995.10476635

    Example:
        Chib's priors of the galaxies' velocities, in 1000 km/s.

        >>> components = SemiconjugateGaussianComponents(1, 20.0, 10.0, 2 * 3.0, 2 * 20.0)
        >>> components.mean_scale_prior
        tensor([10.])
    """

    def __init__(
        self,
        features: int,
        mean_prior: Prior = 0.0,
        mean_scale_prior: Prior = 2.0,
        degrees_of_freedom_prior: Prior = 4.0,
        covariance_prior: Prior = 1.0,
    ) -> None:
        super().__init__(features)
        self._prior("mean_prior", mean_prior)
        self._prior("mean_scale_prior", mean_scale_prior, positive=True)
        self._prior("degrees_of_freedom_prior", degrees_of_freedom_prior, positive=True)
        self._prior("covariance_prior", covariance_prior, positive=True)

    def forward(self) -> Observation:
        r"""Draws the parameters of each component."""
        variances = pyro.sample("variances", _inverse_gamma(self))
        prior = dist.Normal(self.mean_prior, self.mean_scale_prior).to_event(1)
        means = pyro.sample("means", prior)
        return lambda c: _normal(means, variances, c)


class FullGaussianComponents(Family):
    r"""Gaussians whose scales and correlations have priors of their own.

    .. math::
        \sigma_{kd} & \sim \text{HalfNormal}(t_d), \qquad
        L_k \sim \text{LKJCholesky}(\eta), \qquad
        \mu_{kd} \sim \mathcal{N}(m_d, s_d^2) \\
        x_n \mid c_n & \sim \mathcal{N}(\mu_{c_n}, \Sigma_{c_n}), \qquad
        \Sigma_k = \text{diag}(\sigma_k) \, L_k L_k^\top \, \text{diag}(\sigma_k)

    Sites: ``scales`` and ``means``, with event shape :math:`(D)`, and ``correlations``, which is
    :math:`L`, with event shape :math:`(D, D)`.

    Arguments:
        features: The number of features :math:`D`, at least two.
        mean_prior: The :math:`m`, in units of the data: a number or :math:`D` of them.
        mean_scale_prior: The :math:`s > 0`, a standard deviation in units of the data.
        scale_prior: The :math:`t > 0`, in units of the data.
        correlation_concentration_prior: The :math:`\eta > 0`: with 1 all correlations are as
            probable, the larger it is the smaller are they.

    Raises:
        ValueError: If an argument is out of range or of another shape.

    References:
        | Generating random correlation matrices based on vines and extended onion method
          (Lewandowski, Kurowicka & Joe, 2009)
        | https://doi.org/10.1016/j.jmva.2009.04.008

    Example:
        >>> with pyro.plate("components", 3, dim=-1):
        ...     of_component = FullGaussianComponents(4, correlation_concentration_prior=2.0)()
        >>> of_component(torch.tensor([0, 2])).sample().shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        features: int,
        mean_prior: Prior = 0.0,
        mean_scale_prior: Prior = 2.0,
        scale_prior: Prior = 1.0,
        correlation_concentration_prior: float = 1.0,
    ) -> None:
        super().__init__(features)
        if features < 2:
            raise ValueError(
                f"expected at least 2 features, which can be correlated, got {features}: take "
                "SemiconjugateGaussianComponents"
            )
        self._prior("mean_prior", mean_prior)
        self._prior("mean_scale_prior", mean_scale_prior, positive=True)
        self._prior("scale_prior", scale_prior, positive=True)
        check_positive(correlation_concentration_prior=correlation_concentration_prior)
        concentration = torch.as_tensor(
            correlation_concentration_prior, dtype=torch.get_default_dtype()
        )
        self.register_buffer("correlation_concentration_prior", concentration)

    def forward(self) -> Observation:
        r"""Draws the parameters of each component."""
        (features,) = self.event_shape
        scales = pyro.sample("scales", dist.HalfNormal(self.scale_prior).to_event(1))
        correlation_prior = dist.LKJCholesky(features, self.correlation_concentration_prior)
        correlations = pyro.sample("correlations", correlation_prior)
        prior = dist.Normal(self.mean_prior, self.mean_scale_prior).to_event(1)
        means = pyro.sample("means", prior)
        factors = scales[..., None] * correlations  # (*, K, D, D)
        return lambda c: dist.MultivariateNormal(
            taken(means, c, 1), scale_tril=taken(factors, c, 2)
        )


def _inverse_gamma(family: Family) -> TorchDistribution:
    shape, rate = family.degrees_of_freedom_prior / 2, family.covariance_prior / 2
    return dist.InverseGamma(shape, rate).to_event(1)


def _normal(means: Tensor, variances: Tensor, c: Tensor) -> TorchDistribution:
    return dist.Normal(taken(means, c, 1), taken(variances, c, 1).sqrt()).to_event(1)
