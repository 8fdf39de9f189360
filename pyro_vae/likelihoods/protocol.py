r"""What a likelihood is."""

__all__ = ["Likelihood", "check_scale", "unflatten"]

import math
from typing import Protocol

from pyro.distributions import TorchDistribution
from torch import Size, Tensor

from pyro_vae.nn import check_width


class Likelihood(Protocol):
    r"""A map from a decoder's output to a distribution, and its parameters per feature.

    :attr:`parameters_per_feature` is :math:`P`, and :attr:`discrete` says whether the
    distribution is a mass function over the data's own levels, which bits per dimension need.
    """

    @property
    def parameters_per_feature(self) -> int: ...

    @property
    def discrete(self) -> bool: ...

    def __call__(self, outputs: Tensor, event_shape: Size) -> TorchDistribution:
        r"""Maps outputs with shape :math:`(*, P F)` to a distribution over ``event_shape``."""
        ...


def unflatten(outputs: Tensor, parameters: int, event_shape: Size) -> Tensor:
    r"""Splits what a decoder returned, with shape :math:`(*, P F) \to (P, *, \text{event})`.

    Arguments:
        outputs: What the decoder returned.
        parameters: The number of parameters per feature :math:`P`.
        event_shape: The shape of one datum, with :math:`F` features in all.

    Raises:
        ValueError: If the width of ``outputs`` is not :math:`P F`.
    """
    features = event_shape.numel()
    check_width(
        outputs,
        parameters * features,
        f"the decoder to return {parameters} x {features} outputs (parameters x features)",
    )

    shape = (*outputs.shape[:-1], parameters, *event_shape)
    return outputs.reshape(shape).movedim(outputs.dim() - 1, 0)


def check_scale(name: str, value: float) -> None:
    r"""Checks that a standard deviation is a positive finite number."""
    if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
        raise ValueError(f"expected {name} to be a positive finite number, got {value!r}")
