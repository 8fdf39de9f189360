r"""The maximum mean discrepancy between two samples."""

__all__ = ["Kernel", "check_kernel", "squared_mmd"]

from typing import Literal, get_args

from torch import Tensor

Kernel = Literal["rbf", "imq"]


def check_kernel(kernel: str) -> None:
    r"""Raises unless there is such a kernel."""
    if kernel not in get_args(Kernel):
        raise ValueError(f"expected kernel to be one of {get_args(Kernel)}, got {kernel!r}")


def squared_mmd(
    x: Tensor, y: Tensor, kernel: Kernel = "rbf", bandwidth: float | Tensor = 1.0
) -> Tensor:
    r"""An unbiased estimate of the squared maximum mean discrepancy.

    .. math::
        \text{MMD}^2 = \mathbb{E}[k(x, x')] - 2 \, \mathbb{E}[k(x, y)] + \mathbb{E}[k(y, y')],
            \qquad u = \frac{\|x - y\|^2}{2 D h^2}

    where :math:`x, x'` and :math:`y, y'` are independent, and :math:`k` is :math:`e^{-u}`
    (``"rbf"``) or :math:`1 / (1 + u)` (``"imq"``). It may be negative.

    Arguments:
        x: Draws of the first distribution, with shape :math:`(*, N, D)`, :math:`N \geq 2`.
        y: As many of the second.
        kernel: The kernel.
        bandwidth: Its bandwidth :math:`h`, in units of one dimension.

    Returns:
        A tensor with shape :math:`(*)`.

    References:
        | A Kernel Two-Sample Test (Gretton et al., 2012)
        | https://jmlr.org/papers/v13/gretton12a.html

    Example:
        >>> import torch
        >>> squared_mmd(torch.zeros(3, 2), torch.ones(3, 2))
        tensor(0.7869)
    """
    size = x.shape[-2]
    width = 2 * x.shape[-1] * bandwidth**2
    inside = _kernel(x, x, kernel, width) + _kernel(y, y, kernel, width)
    apart = inside.sum((-2, -1)) - inside.diagonal(dim1=-2, dim2=-1).sum(-1)
    between = _kernel(x, y, kernel, width).sum((-2, -1))
    return apart / (size * (size - 1)) - 2 * between / (size * size)


def _kernel(x: Tensor, y: Tensor, kernel: Kernel, width: float | Tensor) -> Tensor:
    u = (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1) / width  # (*, N, N)
    return (-u).exp() if kernel == "rbf" else 1 / (1 + u)
