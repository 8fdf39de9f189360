r"""Code that was written for numbers, run on the tensors that stand for them."""

__all__ = ["OnlyTensors"]

import traceback
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_vae.uncapturable import Uncapturable


class OnlyTensors(TorchFunctionMode):
    r"""Refuses a look at a tensor's value; takes a tensor where torch wants a number.

    Arguments:
        what: Whose code it is, in words.

    Raises:
        Uncapturable: Where that code makes a number, a truth value or an array of a tensor.

    Example:
        >>> x, rate = torch.ones(2), torch.tensor(0.5)
        >>> with OnlyTensors("an optimiser"):
        ...     x.add_(torch.ones(2), alpha=rate)
        tensor([1.5000, 1.5000])
    """

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _LOOKS:
            where = traceback.extract_stack(limit=2)[0]
            raise Uncapturable(
                "expected a step that never looks at a tensor's value, got that of "
                f"{self.what}, which calls Tensor.{func.__name__} at "
                f"{where.filename}:{where.lineno}: use another, such as torch.optim.Adam"
            )
        if func in _LISTS and not kwargs and isinstance(args[_LISTS[func]], Tensor):
            return _one_by_one(func, *args)
        if func in _SHARED and not kwargs and _are_numbers(args[1]):
            args = (args[0], _computed_once(args[1], args[0]))
        for factor in ("alpha", "value"):
            if func in _SCALED and isinstance((kwargs or {}).get(factor), Tensor):
                args, kwargs = _scaled(args, kwargs or {}, factor)
        return func(*args, **(kwargs or {}))


_LOOKS = frozenset(
    (Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__bool__, Tensor.__float__, Tensor.__int__)
)
_NAMES = [name + end for name in ("add", "sub", "addcmul", "addcdiv") for end in ("", "_")]
_SCALED = {getattr(Tensor, n) for n in _NAMES} | {getattr(torch, n) for n in _NAMES[::2]}
_LISTS = {torch._foreach_pow: 0, torch._foreach_add_: 1, torch._foreach_lerp_: 2}  # the number
_COPIES = 16  # more than the compiler unrolls
_SHARED = {torch._foreach_div_, torch._foreach_mul_, torch._foreach_div, torch._foreach_mul}


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(v, Tensor) for v in values)


def _computed_once(factors: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    r"""The factors, such that the compiler does not compute one, powers and all, per entry.

    It would put them into the loops; a maximum over copies it keeps.
    """
    if any(factor.dim() for factor in factors) or len({f.dtype for f in factors}) > 1:
        return list(factors)
    kept = torch.stack(list(factors)).unsqueeze(-1).expand(-1, _COPIES).amax(-1).unbind()
    # rounded as torch does, which promotes no tensor to the type of a number
    pairs = zip(kept, tensors, strict=True)
    return [factor.to(torch.result_type(tensor, factor)) for factor, tensor in pairs]


def _one_by_one(func: Any, *args: Any) -> list[Tensor]:
    if func is torch._foreach_pow:
        return [args[0] ** exponent for exponent in args[1]]
    if func is torch._foreach_add_:
        return [tensor.add_(args[1]) for tensor in args[0]]
    ends = zip(args[0], args[1], strict=True)
    return [start.lerp_(end, args[2].to(start.dtype)) for start, end in ends]


def _scaled(args: Any, kwargs: dict[str, Any], factor: str) -> tuple[Any, dict[str, Any]]:
    r"""The factor of the second tensor multiplied in, as torch does: after promotion."""
    left = {key: value for key, value in kwargs.items() if key != factor}
    second = args[1].to(torch.result_type(args[0], args[1])) * kwargs[factor]
    return (args[0], second, *args[2:]), left
