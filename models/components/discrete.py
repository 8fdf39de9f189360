r"""Components of bits, counts and codes."""

__all__ = [
    "BernoulliComponents",
    "BinomialComponents",
    "CategoricalComponents",
    "PoissonComponents",
]

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae.counts import check_counts
from pyro_vae.distributions import Categorical
from pyro_vae.models.components.family import Family, Observation, Pair, taken


class BernoulliComponents(Family):
    r"""Independent binary features, whose probabilities have a beta prior.

    .. math::
        p_{kd} \sim \text{Beta}(a, b), \qquad x_{nd} \mid c_n \sim \text{Bernoulli}(p_{c_n d})

    Site: ``probabilities``, with event shape :math:`(D)`.

    Arguments:
        features: The number of features :math:`D`.
        probability_prior: The :math:`(a, b)`, both positive; one number is both.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> with pyro.plate("components", 3, dim=-1):
        ...     of_component = BernoulliComponents(features=4, probability_prior=(1.0, 3.0))()
        >>> of_component(torch.tensor([0, 2])).sample().shape
        torch.Size([2, 4])
    """

    def __init__(self, features: int, probability_prior: Pair = 1.0) -> None:
        super().__init__(features)
        self._pair("probability_prior", probability_prior)

    def forward(self) -> Observation:
        r"""Draws the parameters of each component."""
        p = pyro.sample("probabilities", dist.Beta(*self.probability_prior).to_event(1))
        return lambda c: dist.Bernoulli(taken(p, c, 1)).to_event(1)


class BinomialComponents(Family):
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

    Example:
        >>> with pyro.plate("components", 3, dim=-1):
        ...     of_component = BinomialComponents(features=4, n_trials=10)()
        >>> of_component(torch.tensor([0, 2])).sample().shape
        torch.Size([2, 4])
    """

    def __init__(self, features: int, n_trials: int, probability_prior: Pair = 1.0) -> None:
        super().__init__(features)
        check_counts(n_trials=n_trials)
        self._pair("probability_prior", probability_prior)
        self.register_buffer("n_trials", torch.tensor(float(n_trials)))

    def forward(self) -> Observation:
        r"""Draws the parameters of each component."""
        p = pyro.sample("probabilities", dist.Beta(*self.probability_prior).to_event(1))
        return lambda c: dist.Binomial(self.n_trials, taken(p, c, 1)).to_event(1)


class PoissonComponents(Family):
    r"""Independent counts, whose rates have a gamma prior.

    .. math::
        \lambda_{kd} \sim \text{Gamma}(a, b), \qquad
        x_{nd} \mid c_n \sim \text{Poisson}(\lambda_{c_n d})

    Site: ``rates``, with event shape :math:`(D)`.

    Arguments:
        features: The number of features :math:`D`.
        rate_prior: The shape :math:`a > 0` and the rate :math:`b > 0`, in inverse counts; one
            number is both.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> with pyro.plate("components", 3, dim=-1):
        ...     of_component = PoissonComponents(features=4, rate_prior=(2.0, 0.1))()
        >>> of_component(torch.tensor([0, 2])).sample().shape
        torch.Size([2, 4])
    """

    def __init__(self, features: int, rate_prior: Pair = (1.0, 0.1)) -> None:
        super().__init__(features)
        self._pair("rate_prior", rate_prior)

    def forward(self) -> Observation:
        r"""Draws the parameters of each component."""
        rates = pyro.sample("rates", dist.Gamma(*self.rate_prior).to_event(1))
        return lambda c: dist.Poisson(taken(rates, c, 1)).to_event(1)


class CategoricalComponents(Family):
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

    Example:
        >>> with pyro.plate("components", 3, dim=-1):
        ...     of_component = CategoricalComponents(features=4, n_categories=5)()
        >>> of_component(torch.tensor([0, 2])).sample().shape
        torch.Size([2, 4])
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
        return lambda c: _categorical(taken(p, c, 2))


def _categorical(probs: Tensor) -> TorchDistribution:
    fn: TorchDistribution = Categorical(probs)
    return fn.to_event(1)
