r"""What the compiler made of a graph, called without all that happens around each call."""

__all__ = ["Direct"]

from collections.abc import Callable, Sequence
from threading import RLock
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch._C._dynamo.guards import GlobalStateGuard
from torch._inductor.output_code import CompiledFxGraph

Run = Callable[[list[Tensor], list[Tensor]], list[Tensor]]

_watching = RLock()


class Direct:
    r"""Calls the compiled code of a graph itself.

    At each call of a compiled function torch looks at every argument, puts them into the order of
    the code, and its results into that of the function: for a small network that takes as long
    as its products. Here that order is found once, by watching a call. What the compiler assumed
    of other arguments, of threads, and of torch's modes, is still looked at.

    Arguments:
        code: What the compiler made.
        order: The place of each argument of the code among the tensors of a call.
        results: The place of each result among those of the code.
        written: The places of tensors that the code writes to.
        batch: The tensors of a call that may be others at the next.
    """

    def __init__(
        self,
        code: CompiledFxGraph,
        order: Sequence[int],
        results: Sequence[int],
        written: Sequence[int],
        batch: Sequence[Tensor],
    ) -> None:
        self.code, self.order, self.results, self.written = code, order, results, written
        self.kinds = [_kind(tensor) for tensor in batch]
        self.modes = _modes()
        self.state = GlobalStateGuard()

    @classmethod
    def watched(
        cls, run: Run, inputs: list[Tensor], batch: list[Tensor]
    ) -> tuple[list[Tensor], Self | None]:
        r"""Runs a compiled function; returns its results, and what runs it from now on.

        That is None where the function is not one piece of code on the CPU whose arguments and
        results are those of the function, each once, as they are.
        """
        tensors = [*inputs, *batch]
        before = list(map(_version, tensors))
        calls: list[tuple[CompiledFxGraph, list[Any], list[Any]]] = []

        def watch(code: CompiledFxGraph, arguments: Any) -> Any:
            given = list(arguments)  # the code empties it
            found = call(code, arguments)
            calls.append((code, given, list(found)))
            return found

        with _watching:  # one thread at a time
            call = CompiledFxGraph.__call__
            with mock.patch.object(CompiledFxGraph, "__call__", watch):
                outputs = run(inputs, batch)
        distinct = len(set(map(id, tensors))) == len(tensors)
        on_cpu = {tensor.device.type for tensor in tensors} == {"cpu"}
        if len(calls) != 1 or not distinct or not on_cpu:
            return outputs, None
        code, given, found = calls[0]
        order, results = _places(given, tensors), _places(outputs, found)
        # any other result is what torch still writes to an argument
        if order is None or results is None or _places(found, outputs) is None:
            return outputs, None
        written = [i for i, t in enumerate(tensors) if _version(t) != before[i]]
        return outputs, cls(code, order, results, written, batch)

    def fits(self, batch: Sequence[Any]) -> bool:
        r"""Whether the code was made for such arguments, threads and modes."""
        return (
            [_kind(tensor) for tensor in batch] == self.kinds
            and _modes() == self.modes
            and self.state.check()
        )

    def __call__(self, inputs: list[Tensor], batch: list[Tensor]) -> list[Tensor]:
        r"""Runs the code."""
        tensors = [*inputs, *batch]
        run: Any = self.code.current_callable
        found = run([tensors[i] for i in self.order])
        torch.autograd.graph.increment_version([tensors[i] for i in self.written])
        return [found[i] for i in self.results]


def _kind(value: Any) -> tuple[Any, ...] | None:
    r"""What code is made for: besides sizes, the device, and signs that are still to be changed."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return None
    keys = torch._C._dispatch_keys(value)
    return type(value), value.shape, value.stride(), value.dtype, keys, value.requires_grad


def _modes() -> list[Any]:
    return [torch._C._get_function_stack_at(i) for i in range(torch._C._len_torch_function_stack())]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # where torch counts none


def _places(some: Sequence[Any], among: Sequence[Any]) -> list[int] | None:
    r"""The place of each object among others; None if one is not there."""
    places = {id(value): i for i, value in enumerate(among)}
    if any(id(value) not in places for value in some):
        return None
    return [places[id(value)] for value in some]
