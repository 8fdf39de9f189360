r"""Likelihoods of binary data, counts and levels."""

__all__ = ["Bernoulli", "Binomial", "Categorical", "Poisson"]

from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor

from pyro_vae import distributions
from pyro_vae.likelihoods.protocol import unflatten


@dataclass(frozen=True)
class Bernoulli:
    r"""Independent binary features.

    .. math:: x_f \sim \text{Bernoulli}(\sigma(o_f))

    Example:
        >>> Bernoulli()(torch.zeros(3, 64), Size([8, 8])).mean.shape
        torch.Size([3, 8, 8])
    """

    parameters_per_feature: ClassVar[int] = 1
    discrete: ClassVar[bool] = True

    def __call__(self, outputs: Tensor, event_shape: Size) -> TorchDistribution:
        r"""Maps outputs with shape :math:`(*, F)` to a distribution over ``event_shape``."""
        logits = unflatten(outputs, 1, event_shape)[0]
        return dist.Bernoulli(logits=logits).to_event(len(event_shape))


@dataclass(frozen=True)
class Binomial:
    r"""Independent counts out of a known total.

    .. math:: x_f \sim \text{Binomial}(n, \sigma(o_f))

    Arguments:
        total_count: The number of trials :math:`n`, the largest value that a feature can have.

    Raises:
        ValueError: If ``total_count`` is not a positive integer.

    Example:
        >>> Binomial(total_count=16)(torch.zeros(64), Size([64])).mean[0]
        tensor(8.)
    """

    total_count: int

    parameters_per_feature: ClassVar[int] = 1
    discrete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_count("total_count", self.total_count, least=1)

    def __call__(self, outputs: Tensor, event_shape: Size) -> TorchDistribution:
        r"""Maps outputs with shape :math:`(*, F)` to a distribution over ``event_shape``."""
        logits = unflatten(outputs, 1, event_shape)[0]
        # A number would be copied from the host at each call.
        total_count = logits.new_full((), self.total_count)
        return dist.Binomial(total_count, logits=logits).to_event(len(event_shape))


@dataclass(frozen=True)
class Poisson:
    r"""Independent counts without an upper bound.

    .. math:: x_f \sim \text{Poisson}(\lambda(o_f))

    The rate is :math:`\lambda(o) = e^o` up to :math:`e^{20}` (about 5e8), and from there on the
    tangent :math:`e^{20} (o - 19)`, so that neither it nor a gradient overflows.

    Example:
        >>> Poisson()(torch.zeros(64), Size([64])).mean[0]
        tensor(1.)
    """

    parameters_per_feature: ClassVar[int] = 1
    discrete: ClassVar[bool] = True

    def __call__(self, outputs: Tensor, event_shape: Size) -> TorchDistribution:
        r"""Maps outputs with shape :math:`(*, F)` to a distribution over ``event_shape``."""
        raw = unflatten(outputs, 1, event_shape)[0]
        log_rate = torch.where(raw > 20, 20 + (raw - 20).relu().log1p(), raw)
        fn: TorchDistribution = distributions.Poisson(log_rate)
        return fn.to_event(len(event_shape))


@dataclass(frozen=True)
class Categorical:
    r"""Independent levels without an order, such as those of 8-bit images.

    .. math:: x_f \sim \text{Categorical}(\text{softmax}(o_{1 f}, \dots, o_{L f}))

    Data are the integers :math:`0, \dots, L - 1`, in a tensor of floats or of integers.

    Arguments:
        levels: The number of levels :math:`L`, which is the parameters per feature :math:`P`.

    Raises:
        ValueError: If ``levels`` is not an integer of at least two.

    Example:
        >>> Categorical(levels=4)(torch.zeros(4 * 64), Size([64])).mean[0]
        tensor(1.5000)
    """

    levels: int = 256

    discrete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_count("levels", self.levels, least=2)

    @property
    def parameters_per_feature(self) -> int:
        r"""The number of levels."""
        return self.levels

    def __call__(self, outputs: Tensor, event_shape: Size) -> TorchDistribution:
        r"""Maps outputs with shape :math:`(*, L F)` to a distribution over ``event_shape``."""
        logits = unflatten(outputs, self.levels, event_shape).movedim(0, -1)
        fn: TorchDistribution = distributions.Categorical(logits=logits)
        return fn.to_event(len(event_shape))


def _check_count(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"expected {name} to be an integer of at least {least}, got {value!r}")
