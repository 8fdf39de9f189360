r"""A function of tensors that runs as a compiled graph where that pays."""

__all__ = ["Captured"]

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyro_vae.arguments import Substitute, flatten
from pyro_vae.capturable import Mode, check_mode, examine
from pyro_vae.graph import Graph
from pyro_vae.lines import warn_user
from pyro_vae.programs import Program
from pyro_vae.uncapturable import Uncapturable

# planned calls below which all are eager: a compilation takes 7 to 21 s, of which a call of
# 2^22 elements saves 20 to 40 ms, a batch that is encoded or sampled 2 at most
# (benchmarks/evaluation.py, on two busy cores)
_WORTH = 1000
_LARGE, _SMALL = 2**22, 1 / 40


class Captured:
    r"""A function of programs, without gradients, called again and again.

    The sizes of its first call have a graph; calls of other sizes, as the last of a loop, are
    eager, and so are all where there are few. What programs read in Python must not change
    between calls, since nothing looks at it again.

    Arguments:
        function: A function of tensors, numbers and strings that returns a tree of tensors, and
            looks at no value.
        programs: The programs that it runs, by the names that messages use.
        mode: Whether it runs as a graph; ``"auto"``: where there are many calls, and nothing
            is in the way, which is said otherwise.
        calls: How many calls of the sizes of the first there will be.
        elements: How many the largest tensor of a call has, where time goes with them: on the
            CPU.
        blind: What stands for a function that looks at values: it looks at none, and returns
            the same wherever all that it returns is finite; elsewhere it counts for nothing.

    Raises:
        ValueError: If the mode is none.
        Uncapturable: When called, if it cannot be a graph, and must be.

    Example:
        >>> import torch
        >>> double = Captured(lambda x: 2 * x, {}, "auto", calls=3)
        >>> double(torch.ones(2))
        tensor([2., 2.])
    """

    def __init__(
        self,
        function: Callable[..., Any],
        programs: Mapping[str, Program],
        mode: Mode,
        calls: int,
        *,
        elements: int = 0,
        blind: Callable[..., Any] | None = None,
    ) -> None:
        check_mode(mode)
        self.function, self.programs, self.mode = function, programs, mode
        self.blind = blind
        self.graph: Graph | None = None
        work = calls * max(elements / _LARGE, _SMALL)
        self._tries = work >= _WORTH if mode == "auto" else bool(mode)
        self._sizes: list[Any] = []

    def __call__(self, *args: Any) -> Any:
        r"""Calls the function, or its graph."""
        if self._tries:
            self._tries = False
            return self._first(*args)
        if self.graph is None or _sizes(args) != self._sizes:
            return self.function(*args)
        return self._checked(self.graph(*args), args)

    def _first(self, *args: Any) -> Any:
        try:
            free = examine(self._substituted, self.programs, args, {})
            graph = Graph(self._substituted, free, self.programs)
            found = graph(*args)
        except Uncapturable as error:
            if self.mode != "auto":
                raise
            warn_user(f"this is not captured, but runs eagerly: {error}")
            return self.function(*args)
        self.graph, self._sizes = graph, _sizes(args)
        return self._checked(found, args)

    def _checked(self, found: Any, args: tuple[Any, ...]) -> Any:
        if self.blind is None or all(bool(leaf.isfinite().all()) for leaf in tree_leaves(found)):
            return found
        return self.function(*args)

    def _substituted(self, substitute: Substitute, *args: Any) -> Any:
        return (self.blind or self.function)(*args)


def _sizes(args: tuple[Any, ...]) -> list[Any]:
    leaves, _ = flatten(args, {})
    return [(leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
