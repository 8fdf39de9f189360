r"""Whether a function of programs can become a graph, and which tensors it uses."""

__all__ = ["Mode", "check_mode", "examine"]

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyro_vae.blockers import explain
from pyro_vae.compiler import require_compiler
from pyro_vae.programs import Program, free_tensors
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
    require_compiler()
    if reason := explain(function, programs, args, kwargs):
        raise Uncapturable(reason)
    return free_tensors(partial(function, _itself), *args, **kwargs)


def _itself(tensor: Tensor) -> Tensor:
    return tensor
