r"""Families of mixture components, with priors of their parameters."""

__all__ = [
    "BernoulliComponents",
    "BinomialComponents",
    "CategoricalComponents",
    "Components",
    "FullGaussianComponents",
    "GaussianComponents",
    "Observation",
    "PoissonComponents",
    "SemiconjugateGaussianComponents",
]

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from pyro.ops.indexing import Vindex
from torch import Size, Tensor

from pyro_vae.counts import check_counts
from pyro_vae.distributions import Categorical

Prior = float | Sequence[float] | Tensor
Observation = Callable[[Tensor], TorchDistribution]


class Components(Protocol):
    r"""A family of components: a program that draws their parameters.

    It is called inside the plate ``components``, of size :math:`K` at dim -1, which the caller
    opens. What it returns maps indices of components, of any shape :math:`(*)` and enumerated or
    not, to a distribution over data with batch shape :math:`(*)`; particles stand left of the
    plate over data, which is at dim -1, too.

    Example:
        >>> with pyro.plate("components", 3, dim=-1):
        ...     component = PoissonComponents(features=2)()
        >>> component(torch.tensor([0, 2, 2, 1])).shape()
        torch.Size([4, 2])
    """

    @property
    def event_shape(self) -> Size: ...

    def __call__(self) -> Observation:
        r"""Draws the parameters of :math:`K` components."""
        ...


class _Family(PyroModule):
    r"""What has features, and priors that are buffers."""

    def __init__(self, features: int) -> None:
        super().__init__()
        check_counts(features=features)
        self.event_shape = Size([features])

    def _prior(self, name: str, value: Prior, *, positive: bool = False) -> None:
        r"""Keeps a number for each feature as a buffer with shape :math:`(D)`."""
        numbers = torch.as_tensor(value, dtype=torch.get_default_dtype())
        (features,) = self.event_shape
        if numbers.shape not in (Size([]), self.event_shape):
            raise ValueError(
                f"expected {name} to be a number or {features} of them, one for each feature, "
                f"got shape {tuple(numbers.shape)}"
            )
        valid = numbers.isfinite() & (numbers > 0) if positive else numbers.isfinite()
        if not valid.all():
            words = "positive finite" if positive else "finite"
            raise ValueError(f"expected {name} to be {words}, got {numbers[~valid][0]:g}")
        self.register_buffer(name, numbers.expand(self.event_shape).clone())

    def _pair(self, name: str, value: float | tuple[float, float]) -> None:
        r"""Keeps two positive numbers, or one twice, as a buffer with shape :math:`(2, D)`."""
        pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
        if len(pair) != 2:
            raise ValueError(f"expected {name} to be a positive number or two, got {value!r}")
        for number in pair:
            self._prior(name, number, positive=True)
        numbers = torch.tensor(pair, dtype=torch.get_default_dtype())
        self.register_buffer(name, numbers[:, None].repeat(1, *self.event_shape))


class GaussianComponents(_Family):
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


class SemiconjugateGaussianComponents(_Family):
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


class FullGaussianComponents(_Family):
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
        concentration = torch.as_tensor(
            correlation_concentration_prior, dtype=torch.get_default_dtype()
        )
        if concentration.shape or not 0 < concentration < math.inf:
            raise ValueError(
                "expected correlation_concentration_prior to be a positive number, got "
                f"{correlation_concentration_prior!r}"
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
            _taken(means, c, 1), scale_tril=_taken(factors, c, 2)
        )


class BernoulliComponents(_Family):
    r"""Independent binary features, whose probabilities have a beta prior.

    .. math::
        p_{kd} \sim \text{Beta}(a, b), \qquad x_{nd} \mid c_n \sim \text{Bernoulli}(p_{c_n d})

    Site: ``probabilities``, with event shape :math:`(D)`.

    Arguments:
        features: The number of features :math:`D`.
        probability_prior: The :math:`(a, b)`, both positive; one number is both.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, features: int, probability_prior: float | tuple[float, float] = 1.0) -> None:
        super().__init__(features)
        self._pair("probability_prior", probability_prior)

    def forward(self) -> Observation:
        r"""Draws the parameters of each component."""
        p = pyro.sample("probabilities", dist.Beta(*self.probability_prior).to_event(1))
        return lambda c: dist.Bernoulli(_taken(p, c, 1)).to_event(1)


class BinomialComponents(_Family):
    r"""Independent counts out of a known total, whose probabilities have a beta prior.

    .. math::
        p_{kd} \sim \text{Beta}(a, b), \qquad x_{nd} \mid c_n \sim \text{Binomial}(t, p_{c_n d})

    Site: ``probabilities``, with event shape :math:`(D)`.

    Arguments:
        features: The number of features :math:`D`.
        n_trials: The number of trials :math:`t`.
        probability_prior: The :math:`(a, b)`, both positive; one number is both.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self, features: int, n_trials: int, probability_prior: float | tuple[float, float] = 1.0
    ) -> None:
        super().__init__(features)
        check_counts(n_trials=n_trials)
        self._pair("probability_prior", probability_prior)
        self.register_buffer("n_trials", torch.tensor(float(n_trials)))

    def forward(self) -> Observation:
        r"""Draws the parameters of each component."""
        p = pyro.sample("probabilities", dist.Beta(*self.probability_prior).to_event(1))
        return lambda c: dist.Binomial(self.n_trials, _taken(p, c, 1)).to_event(1)


class PoissonComponents(_Family):
    r"""Independent counts, whose rates have a gamma prior.

    .. math::
        \lambda_{kd} \sim \text{Gamma}(a, b), \qquad
        x_{nd} \mid c_n \sim \text{Poisson}(\lambda_{c_n d})

    Site: ``rates``, with event shape :math:`(D)`.

    Arguments:
        features: The number of features :math:`D`.
        rate_prior: The shape :math:`a > 0` and the rate :math:`b > 0`, in inverse counts.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, features: int, rate_prior: tuple[float, float] = (1.0, 0.1)) -> None:
        super().__init__(features)
        self._pair("rate_prior", rate_prior)

    def forward(self) -> Observation:
        r"""Draws the parameters of each component."""
        rates = pyro.sample("rates", dist.Gamma(*self.rate_prior).to_event(1))
        return lambda c: dist.Poisson(_taken(rates, c, 1)).to_event(1)


class CategoricalComponents(_Family):
    r"""Independent codes, whose probabilities have a symmetric Dirichlet prior: latent classes.

    .. math::
        p_{kd} \sim \text{Dirichlet}(\beta, \dots, \beta), \qquad
        x_{nd} \mid c_n \sim \text{Categorical}(p_{c_n d})

    Site: ``probabilities``, with event shape :math:`(D, C)`.

    Arguments:
        features: The number of features :math:`D`.
        n_categories: The number of categories :math:`C`, the codes :math:`0, \dots, C - 1`.
        probability_prior: The :math:`\beta > 0`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, features: int, n_categories: int, probability_prior: float = 1.0) -> None:
        super().__init__(features)
        check_counts(n_categories=n_categories)
        self._prior("probability_prior", probability_prior, positive=True)
        self.register_buffer(
            "probability_prior", self.probability_prior[:, None].repeat(1, n_categories)
        )

    def forward(self) -> Observation:
        r"""Draws the parameters of each component."""
        p = pyro.sample("probabilities", dist.Dirichlet(self.probability_prior).to_event(1))
        return lambda c: _categorical(_taken(p, c, 2))


def _inverse_gamma(family: _Family) -> TorchDistribution:
    shape, rate = family.degrees_of_freedom_prior / 2, family.covariance_prior / 2
    return dist.InverseGamma(shape, rate).to_event(1)


def _normal(means: Tensor, variances: Tensor, c: Tensor) -> TorchDistribution:
    return dist.Normal(_taken(means, c, 1), _taken(variances, c, 1).sqrt()).to_event(1)


def _categorical(probs: Tensor) -> TorchDistribution:
    fn: TorchDistribution = Categorical(probs)
    return fn.to_event(1)


def _taken(values: Tensor, c: Tensor, event_dim: int) -> Tensor:
    r"""The parameters of components :math:`c`, with the shape of :math:`c` and the event."""
    if values.dim() > event_dim + 1:
        values = values.unsqueeze(-event_dim - 2)  # particles, left of the plate over data
    return Vindex(values)[(..., c, *[slice(None)] * event_dim)]
