r"""Positive numbers from a network's output."""

__all__ = ["positive"]

from torch import Tensor
from torch.nn.functional import softplus


def positive(raw: Tensor, floor: float = 1e-6) -> Tensor:
    r"""Maps real numbers to positive ones that neither overflow nor vanish.

    .. math:: f(r) = \log(1 + e^r) + \varepsilon

    Unlike :math:`e^r`, it grows linearly, and is bounded away from zero.

    Arguments:
        raw: The real numbers :math:`r`, of any shape.
        floor: The bound :math:`\varepsilon` from below.

    Example:
        >>> import torch
        >>> positive(torch.tensor([-1e4, 1e4]))
        tensor([1.0000e-06, 1.0000e+04])
    """
    return softplus(raw) + floor
