r"""Means over the steps of training."""

__all__ = ["Average"]

import torch
from torch import Tensor, nn


class Average(nn.Module):
    r"""A moving average of a number.

    .. math:: m_t = m_{t-1} + \max(1 - d, \, 1 / t) \, (v_t - m_{t-1})

    It begins as the mean of all numbers, not at zero.

    Arguments:
        decay: The decay :math:`d`.

    Raises:
        ValueError: If the decay is not in :math:`[0, 1)`.

    Example:
        >>> average = Average(decay=0.9)
        >>> for number in (1.0, 2.0, 6.0):
        ...     average.update(torch.tensor(number))
        >>> average()
        tensor(3.)
    """

    mean: Tensor
    steps: Tensor

    def __init__(self, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"expected a decay of at least 0 and less than 1, got {decay}")
        self.decay = decay
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self) -> Tensor:
        r"""The average now, with shape ``()``."""
        return self.mean.clone()

    def update(self, number: Tensor) -> None:
        r"""Takes in a number, with shape ``()``."""
        self.steps.add_(1)
        self.mean.add_((1 / self.steps).clamp(min=1 - self.decay) * (number - self.mean))
