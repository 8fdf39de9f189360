r"""What is kept of particles that come in chunks: moments, and sums of importance weights."""

__all__ = ["Moments", "Weights"]

import math

import torch
from torch import Tensor

from pyro_vae.evaluation.psis import pareto_shape, tail_size


class Moments:
    r"""Mean and spread of values, over particles, in double precision.

    Arguments:
        joint: Whether the data of a batch share what is random, so that their errors add up.

    References:
        | Updating Formulae and a Pairwise Algorithm for Computing Sample Variances
          (Chan, Golub & LeVeque, 1979)
        | http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773/CS-TR-79-773.pdf
    """

    def __init__(self, joint: bool = False) -> None:
        self.joint, self.count = joint, 0
        self.mean = self.squares = torch.zeros((), dtype=torch.float64)

    def update(self, values: Tensor) -> None:
        r"""Takes in values with shape :math:`(K, N)`."""
        values = values.double()
        count, mean = values.shape[0], values.mean(0)
        total = self.count + count
        change = mean - self.mean.to(mean.device)
        within = self._errors(values - mean).square().sum(0)
        between = self._errors(change).square() * (self.count * count / total)
        self.squares = self.squares.to(mean.device) + within + between
        self.mean = mean - change * (self.count / total)
        self.count = total

    @property
    def variance(self) -> float:
        r"""The variance of the sum over data of the means; NaN after a single particle."""
        if self.count == 1:
            return math.nan
        return float(self.squares.sum()) / (self.count - 1) / self.count

    def _errors(self, deviations: Tensor) -> Tensor:
        return deviations.sum(-1, keepdim=True) if self.joint else deviations


class Weights:
    r"""Sums of importance weights :math:`w_k` for each datum, in double precision.

    .. math::
        \log \hat p = \log \frac{1}{K} \sum_{k=1}^K w_k \qquad
        \text{ess} = \frac{(\sum_k w_k)^2}{\sum_k w_k^2} \qquad
        \text{Var}[\log \hat p] \approx \frac{K / \text{ess} - 1}{K - 1} \qquad
        \mathbb{E}[\log \hat p] - \log p \approx - \frac{1}{2} \text{Var}[\log \hat p]

    Arguments:
        particles: How many weights :math:`K` there will be: the largest few are kept.
    """

    def __init__(self, particles: int) -> None:
        self.particles, self.size = particles, tail_size(particles) + 1
        self.log_tail: Tensor | None = None

    def update(self, log_weights: Tensor) -> None:
        r"""Takes in logarithms of weights, with shape :math:`(K, N)`."""
        values = log_weights.double()
        if self.log_tail is None:
            self.log_tail = values[:0]
            self.log_sum = self.log_squares = torch.full_like(values[0], -math.inf)
        self.log_sum = torch.logaddexp(self.log_sum, values.logsumexp(0))
        self.log_squares = torch.logaddexp(self.log_squares, (2 * values).logsumexp(0))
        known = torch.cat([self.log_tail, values])
        self.log_tail = known.topk(min(self.size, known.shape[0]), dim=0).values

    @property
    def log_mean(self) -> Tensor:
        r"""The logarithm of their mean, with shape :math:`(N)`."""
        return self.log_sum - math.log(self.particles)

    @property
    def ess(self) -> Tensor:
        r"""The effective sample size, with shape :math:`(N)`."""
        return (2 * self.log_sum - self.log_squares).exp()

    @property
    def variance(self) -> float:
        r"""The variance of the sum over data of :attr:`log_mean`; NaN for one particle."""
        return -2 * float(self.bias.sum())

    @property
    def bias(self) -> Tensor:
        r"""By how much :attr:`log_mean` is off on average, with shape :math:`(N)`; or NaN."""
        if self.particles == 1:
            return torch.full_like(self.log_sum, math.nan)
        spread = (self.particles / self.ess - 1).clamp(min=0)
        return -spread / (self.particles - 1) / 2

    @property
    def shape(self) -> Tensor:
        r"""The shape :math:`\hat k` of their tail, with shape :math:`(N)`."""
        assert self.log_tail is not None
        return pareto_shape(self.log_tail)
