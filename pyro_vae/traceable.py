r"""Pyro and torch without their looks at values, for as long as programs are traced."""

__all__ = ["traceable"]

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from math import isqrt
from typing import Any
from unittest import mock

import pyro
import torch
from pyro.infer import util
from torch import Tensor
from torch.distributions import Distribution, transforms
from torch.overrides import TorchFunctionMode

# these bind the functions under names of their own
_MODULES = [
    import_module(f"pyro.infer.{name}")
    for name in ("trace_elbo", "trace_mean_field_elbo", "traceenum_elbo", "tracetmc_elbo")
]


@contextmanager
def traceable() -> Iterator[None]:
    r"""Has Pyro validate nothing, turn no value into a number, and branch on none.

    Losses keep values and gradients: what became a number is detached, and terms of probability
    zero, which ``TraceEnum_ELBO`` leaves out, count zero.
    """
    with ExitStack() as stack:
        for module in _MODULES:
            for name, stand_in in (("warn_if_nan", _nothing), ("torch_item", _detached)):
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, stand_in))
        expectation = _without_branch(util.Dice.compute_expectation)
        stack.enter_context(mock.patch.object(util.Dice, "compute_expectation", expectation))
        stack.enter_context(mock.patch.object(util, "_fulldot", _dot_where_likely))
        # they index by a mask, of which a compiler does not know how many are true
        stack.enter_context(mock.patch.object(transforms, "vec_to_tril_matrix", _lower))
        stack.enter_context(mock.patch.object(transforms, "tril_matrix_to_vec", _of_lower))
        # also of distributions that were made before, as those of PyroSample
        stack.enter_context(mock.patch.object(Distribution, "_validate_sample", _nothing))
        stack.enter_context(pyro.validation_enabled(False))
        yield


def _nothing(*_: Any) -> None:
    pass


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


class _AllTrue(TorchFunctionMode):
    r"""Answers whether all are true with yes, which needs no value."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return True if func is Tensor.all else func(*args, **(kwargs or {}))


def _without_branch(expectation: Callable[..., Any]) -> Callable[..., Any]:
    def compute_expectation(self: Any, costs: Any) -> Any:
        with _AllTrue():
            return expectation(self, costs)

    return compute_expectation


def _dot_where_likely(prob: Tensor, cost: Tensor) -> Tensor:
    likely = prob > 0
    zero = prob.new_zeros(())
    return (prob.where(likely, zero) * cost.where(likely, zero)).sum()


def _lower(vec: Tensor, diag: int) -> Tensor:
    r"""A matrix with these numbers, row by row, up to a diagonal that is not above the main one."""
    size = (isqrt(8 * vec.shape[-1] + 1) - 1) // 2 - diag
    rows, columns = torch.tril_indices(size, size, diag, device=vec.device)
    matrix = vec.new_zeros(*vec.shape[:-1], size, size)
    matrix[..., rows, columns] = vec
    return matrix


def _of_lower(matrix: Tensor, diag: int) -> Tensor:
    r"""The numbers of a matrix up to a diagonal, row by row."""
    size = matrix.shape[-1]
    rows, columns = torch.tril_indices(size, size, diag, device=matrix.device)
    return matrix[..., rows, columns]
