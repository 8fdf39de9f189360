r"""The evidence of independent features: what any latent-variable model should beat."""

__all__ = ["independent_evidence"]

from collections.abc import Callable, Iterator
from functools import reduce
from operator import add

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.data.lazy import chunks
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    Likelihood,
    Normal,
    NormalLearnedScale,
    NormalPredictedScale,
    Poisson,
)


def independent_evidence(
    likelihood: Likelihood, train: Tensor, test: Tensor, log_jacobians: Tensor | None = None
) -> Estimate:
    r"""The evidence :math:`\log p(x)` of test data under features that are independent.

    .. math:: \log p(x_n) = \sum_{f=1}^F \log p(x_{nf} \mid \hat \eta_f)

    Each feature has the likelihood's family and a fit of its own to the :math:`N` training data,
    smoothed so that no value that can occur is impossible:

    - Bernoulli, binomial out of :math:`n`, continuous Bernoulli: the mean is that of the data and
      of one more, which is half the greatest value;
    - Poisson: the mean is :math:`(\sum_n x_{nf} + 1/2) / N`;
    - categorical: each level counts half an observation more;
    - normal: mean and variance are those of the data, the variance with one observation more of
      the variance that features have on average.

    Arguments:
        likelihood: The likelihood, of which only the family counts; of the normal ones, the
            scale is fitted whatever they do.
        train: The training data, with shape :math:`(N, \text{event\_shape})`.
        test: The test data, with shape :math:`(M, \text{event\_shape})`.
        log_jacobians: What is added to each log-density, to have it in other units, with shape
            :math:`(M)`.

    Returns:
        The mean over the test data, in nats, with no Monte Carlo error.

    Raises:
        ValueError: If the shapes do not fit, or if no such fit is known for the likelihood.

    Example:
        >>> from pyro_vae.likelihoods import Bernoulli
        >>> x = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
        >>> print(independent_evidence(Bernoulli(), x, x))
        -0.77 ± 0.00 (Monte Carlo) ± 0.17 (data) nats
    """
    if train.shape[1:] != test.shape[1:] or 0 in (train.numel(), test.numel()):
        raise ValueError(
            f"expected rows of one shape to train and to test on, got {tuple(train.shape)} and "
            f"{tuple(test.shape)}"
        )
    fn = _fit(likelihood, train).to_event(1)
    found = Estimate.of(torch.cat([fn.log_prob(part) for part in _parts(test)]), stderr=0.0)
    return found if log_jacobians is None else found.shifted(log_jacobians)


def _fit(likelihood: Likelihood, x: Tensor) -> TorchDistribution:
    r"""The family's distribution of each feature of ``x``, with shape :math:`(N, *)`."""
    rows = x.shape[0]
    match likelihood:
        case Bernoulli():
            return dist.Bernoulli(_mean(x, 1))
        case Binomial():
            total = likelihood.total_count
            return dist.Binomial(total, _mean(x, total) / total)
        case ContinuousBernoulli():
            return distributions.ContinuousBernoulli(_logits(_mean(x, 1)))
        case Poisson():
            return distributions.Poisson(((_sum(x) + 0.5) / rows).log())
        case Categorical():
            levels = torch.arange(likelihood.levels, device=x.device)
            counts = _sum(x, lambda part: part[..., None] == levels)
            return distributions.Categorical(probs=counts + 0.5)
        case Normal() | NormalLearnedScale() | NormalPredictedScale():
            mean = _sum(x) / rows
            variance = _sum(x, lambda part: (part - mean).square()) / rows
            smoothed = (rows * variance + variance.mean()) / (rows + 1)
            return dist.Normal(mean, smoothed.sqrt())
    raise ValueError(
        "expected one of the likelihoods of pyro_vae.likelihoods, of which fits of independent "
        f"features are known, got {type(likelihood).__name__}"
    )


def _parts(x: Tensor) -> Iterator[Tensor]:
    r"""The rows, which need not be in memory, with shapes :math:`(B, F)`, in double precision."""
    return (part.reshape(part.shape[0], -1).double() for part in chunks(x))


def _sum(x: Tensor, function: Callable[[Tensor], Tensor] = torch.clone) -> Tensor:
    r"""The sum over rows of a function of each, with shape :math:`(F)`."""
    return reduce(add, (function(part).sum(0) for part in _parts(x)))


def _mean(x: Tensor, greatest: int) -> Tensor:
    return (_sum(x) + greatest / 2) / (x.shape[0] + 1)


def _logits(mean: Tensor) -> Tensor:
    r"""Solves for the logits of a continuous Bernoulli with a mean strictly within (0, 1)."""
    # far out, the nearer end is at a distance of 1 / |logits| from the mean
    low, high = -1 / mean, 1 / (1 - mean)
    for _ in range(100):
        middle = (low + high) / 2
        below = distributions.ContinuousBernoulli(middle).mean < mean
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2
