r"""Data moved to the origin and scaled to about one, in which squares lose least."""

__all__ = ["Coordinates"]

from typing import NamedTuple

import torch
from torch import Tensor


class Coordinates(NamedTuple):
    r"""Coordinates :math:`u = (x - \text{shift}) \cdot \text{scale}`, in double precision.

    Arguments:
        shift: What is the origin, with shape :math:`(D)`.
        scale: Powers of two, with shape :math:`(D)`: no digit is lost by them.
    """

    shift: Tensor
    scale: Tensor

    @classmethod
    def of(
        cls, mean: Tensor, variance: Tensor, dtype: torch.dtype, common: bool = False
    ) -> "Coordinates":
        r"""Those in which mean and variance are about zero and one.

        Arguments:
            mean, variance: Those of the data, with shape :math:`(D)`.
            dtype: The type of the data, in which the shift is a number, too.
            common: Whether all features have one scale.
        """
        if common:
            variance = variance.mean().expand_as(variance)
        exponent = torch.where(variance > 0, variance, 1.0).log2().div(-2).round()
        # what float32 holds, with its square
        return cls(mean.to(dtype).double(), torch.exp2(exponent.clamp(-60, 60)))

    def enter(self, x: Tensor) -> Tensor:
        r"""Data with shape :math:`(B, D)`, in these coordinates."""
        return (x - self.shift.to(x.dtype)).mul_(self.scale.to(x.dtype))

    def leave(self, u: Tensor) -> Tensor:
        r"""The data that have the coordinates ``u``."""
        return u / self.scale + self.shift
