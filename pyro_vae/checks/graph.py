r"""What tensors are made of: the leaves of their graphs, and the parameters of distributions."""

__all__ = ["leaves", "parts"]

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from pyro_vae.distributions import innermost


def leaves(tensors: Iterable[Tensor]) -> dict[int, Tensor]:
    r"""The leaves that a gradient of the tensors would reach, by ``id``."""
    found = {id(t): t for t in tensors if t.requires_grad and t.is_leaf}
    waiting, seen = [t.grad_fn for t in tensors if t.grad_fn is not None], set()
    while waiting:
        node: Any = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found[id(leaf)] = leaf
        waiting += [above for above, _ in node.next_functions if above is not None]
    return found


def parts(fn: Any) -> dict[str, Tensor]:
    r"""The parameters of a distribution, as it was made, by name."""
    fn = innermost(fn)
    held = {name: vars(fn).get(name) for name in getattr(fn, "arg_constraints", {})}
    return {name: value for name, value in held.items() if isinstance(value, Tensor)}
