r"""The Poisson distribution by its log-rate."""

__all__ = ["Poisson"]

from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint


class Poisson(TorchDistribution):
    r"""A Poisson distribution given by the logarithm of its rate.

    .. math:: \log p(x) = x \ell - e^\ell - \log x!

    Unlike :class:`pyro.distributions.Poisson`, which takes the rate, it knows what a rate was that
    is too small to be represented.

    Arguments:
        log_rate: The logarithm of the rate :math:`\ell`, of any shape.

    Example:
        >>> Poisson(torch.tensor(-1000.0)).log_prob(torch.tensor(1.0))
        tensor(-1000.)
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {"log_rate": constraints.real}
    support = constraints.nonnegative_integer

    def __init__(self, log_rate: Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "Poisson":
        r"""Returns the same distribution with batch shape ``batch_shape``."""
        return Poisson(self.log_rate.expand(batch_shape), self._validate_args)

    @property
    def mean(self) -> Tensor:
        return self.log_rate.exp()

    @property
    def variance(self) -> Tensor:
        return self.mean

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns :math:`\log p(x)`, with the shape that value and ``log_rate`` broadcast to."""
        if self._validate_args:
            self._validate_sample(value)

        return value * self.log_rate - self.log_rate.exp() - (value + 1).lgamma()

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws counts, without a gradient."""
        with torch.no_grad():
            return torch.poisson(self.mean.expand(self._extended_shape(Size(sample_shape))))
