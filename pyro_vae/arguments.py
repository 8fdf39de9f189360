r"""What programs are called with, as a list of leaves and back."""

__all__ = ["Substitute", "flatten", "unflatten"]

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

# from a tensor to the one that stands for it
Substitute = Callable[[Tensor], Tensor]


def flatten(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], int | TreeSpec]:
    r"""The leaves of all arguments, and how they are arranged.

    Of tensors by position, as nearly all batches are, that is their number: at every step, time
    counts.
    """
    if not kwargs and all(isinstance(argument, Tensor) for argument in args):
        return list(args), len(args)
    return tree_flatten((args, kwargs))


def unflatten(
    leaves: Sequence[Any], spec: int | TreeSpec
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    r"""What :func:`flatten` was given."""
    if isinstance(spec, int):
        return tuple(leaves), {}
    args, kwargs = tree_unflatten(leaves, spec)
    return args, kwargs
