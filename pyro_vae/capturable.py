r"""Whether a function of programs can become a graph, and which tensors it uses."""

__all__ = ["Mode", "check_mode", "examine", "refusal"]

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal
from unittest import mock

from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyro_vae.blockers import explain
from pyro_vae.compiler import require_compiler
from pyro_vae.programs import Program, free_tensors
from pyro_vae.reach import reach
from pyro_vae.traceable import traceable
from pyro_vae.uncapturable import Uncapturable

Mode = bool | Literal["auto"]


def check_mode(mode: Any) -> None:
    r"""Raises for what says not whether something is captured.

    Raises:
        ValueError: If it is neither a truth value nor ``"auto"``.
    """
    if not (isinstance(mode, bool) or mode == "auto"):
        raise ValueError(f"expected capture to be True, False or 'auto', got {mode!r}")


def examine(
    function: Callable[..., Any],
    programs: Mapping[str, Program],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> list[Tensor]:
    r"""The tensors that a function uses and did not make.

    It runs twice, with and without values; random states and what it wrote to are restored.

    Arguments:
        function: Called as a :class:`pyro_vae.graph.Graph` calls it.
        programs: The programs that it runs, by the names that messages use.
        args: Its arguments.
        kwargs: Those by keyword.

    Raises:
        Uncapturable: If something stands in the way of a graph.
    """
    for leaf in tree_leaves((args, kwargs)):
        if not isinstance(leaf, Tensor | bool | int | float | str | None):
            raise Uncapturable(
                "expected arguments of model and guide to be tensors, numbers and strings, got "
                f"{type(leaf).__name__}, which may change unseen: pass tensors"
            )
    for table in reach(False, **programs):
        for name, value in table.now().items():
            if hasattr(type(value), "__next__"):
                raise Uncapturable(
                    f"expected programs that advance nothing, got an iterator, {table.kind} "
                    f"{name!r} of {table.name}: pass what it gives as a tensor"
                )
    require_compiler()

    def traced(*args: Any, **kwargs: Any) -> Any:
        with traceable(), mock.patch("torch.manual_seed", _refuse_seed):
            return function(*args, **kwargs)

    if reason := explain(traced, programs, args, kwargs):
        raise Uncapturable(reason)
    return free_tensors(partial(function, _itself), *args, **kwargs)


def _refuse_seed(*_: Any) -> None:
    raise Uncapturable(
        "expected programs that leave the random state alone, got a seed that is set inside: set "
        "it before training"
    )


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def refusal(error: Exception) -> Uncapturable:
    r"""What the compiler raised, in words: the reason that was given while it traced, if any."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, Uncapturable):
        cause = cause.__cause__ or cause.__context__
    lines = [line.strip() for line in str(error).splitlines()]
    said = next((line for line in lines if line and not line.endswith(":")), "no reason given")
    return cause or Uncapturable(
        f"the compiler failed ({type(error).__name__}: {said}): look whether the C++ compiler "
        "(CXX) runs and the folder TORCHINDUCTOR_CACHE_DIR can be written to"
    )
