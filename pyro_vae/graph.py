r"""A function of tensors as one compiled graph, whatever Python it consists of."""

__all__ = ["Graph", "Substitute"]

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

Substitute = Callable[[Tensor], Tensor]


class _Swap(TorchFunctionMode):
    r"""Puts other tensors in the place of some, by identity, wherever they are used."""

    def __init__(self, table: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.table = table

    def substitute(self, tensor: Tensor) -> Tensor:
        return self.table.get(id(tensor), tensor)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map_only(Tensor, self.substitute, (args, kwargs or {}))
        return func(*args, **kwargs)


class Graph:
    def __init__(
        self,
        function: Callable[..., Any],
        free: Sequence[Tensor],
        written: Sequence[Tensor],
        *,
        dynamic: bool = False,
        backend: str = "inductor",
        options: dict[str, Any] | None = None,
    ) -> None:
        self.function, self.free = function, list(free)
        marks = set(map(id, written))
        self.written = [id(t) in marks for t in free]
        self.traces = 0
        self._inputs = [t.detach() for t in self.free]
        self._specs: Any = None
        self._outputs: Any = None
        self._run = self._compile(dynamic, backend, options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, self._spec = tree_flatten((args, kwargs))
        with torch.no_grad():
            flat = self._run(self._inputs, leaves)
        return tree_unflatten(flat, self._outputs)

    def _trace(self, inputs: list[Tensor], leaves: list[Any]) -> tuple[list[Tensor], list[Tensor]]:
        self.traces += 1
        values = [t.clone() if w else t.detach() for t, w in zip(inputs, self.written)]
        for t, v in zip(self.free, values):
            v.requires_grad_(t.requires_grad)
        swap = _Swap({id(t): v for t, v in zip(self.free, values)})
        args, kwargs = tree_unflatten(leaves, self._spec)
        with swap, pyro.validation_enabled(False):
            outputs = self.function(swap.substitute, *args, **kwargs)
        flat, self._outputs = tree_flatten(outputs)
        return [t.detach() for t in flat], [v.detach() for v, w in zip(values, self.written) if w]

    def _compile(self, dynamic, backend, options):
        traced = torch.compiler.nonstrict_trace(lambda a, b: self._trace(a, b))
        targets = [t for t, w in zip(self._inputs, self.written) if w]
        written = self.written
        def run(inputs, leaves):
            outputs, new = traced(inputs, leaves)
            for t, v in zip([t for t, w in zip(inputs, written) if w], new):
                t.copy_(v)
            return outputs
        run = types.FunctionType(run.__code__.replace(), run.__globals__, "run", None, run.__closure__)
        return torch.compile(run, fullgraph=True, dynamic=dynamic, backend=backend, options=options)
