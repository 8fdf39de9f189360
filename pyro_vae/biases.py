r"""Biases that are added after products, where the compiler reads these anyway."""

__all__ = ["BiasesApart"]

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class BiasesApart(TorchFunctionMode):
    r"""Splits affine maps on the CPU into a product and a sum, while they are traced.

    .. math:: W x + b

    Together, the bias is first copied to each row, and then read again by the product; apart,
    it is added as the compiler's code reads the product. Maps of two dimensions the compiler
    would put together again.

    Example:
        >>> import torch
        >>> layer, x = torch.nn.Linear(3, 2), torch.ones(5, 4, 3)
        >>> with BiasesApart():
        ...     y = layer(x)
        >>> torch.allclose(y, layer(x))
        True
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        run = _affine if func is F.linear else func
        return run(*args, **(kwargs or {}))


def _affine(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if bias is None or input.dim() < 3 or input.device.type != "cpu":
        return F.linear(input, weight, bias)
    return F.linear(input, weight) + bias
