r"""A function of tensors as one compiled graph, whatever Python it consists of."""

__all__ = ["Graph"]

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from types import FunctionType, MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from pyro_vae.arguments import flatten, unflatten
from pyro_vae.biases import BiasesApart
from pyro_vae.compiler import removed_half_written
from pyro_vae.direct import Direct
from pyro_vae.programs import Program
from pyro_vae.traceable import traceable
from pyro_vae.uncapturable import Uncapturable
from pyro_vae.undone import variables_kept

# before torch 2.15 the name is not public
_public = getattr(torch.compiler, "nonstrict_trace", None)
_traced: Callable[..., Any] = _public or torch._dynamo.nonstrict_trace

# what the compiler would look at again at each call, and what no call changes
_OURS = {"TYPE_MATCH", "BUILTIN_MATCH", "CLOSURE_MATCH", "DICT_CONTAINS", "SEQUENCE_LENGTH"}
_OURS |= {"ID_MATCH", "CLASS_MATCH", "MODULE_MATCH", "DICT_KEYS_MATCH", "FUNCTION_MATCH"}

_COMPILERS = ("torch._dynamo", "torch._inductor")


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
    r"""A function that runs once, while it is traced; afterwards only tensors move.

    The function may use any tensors that are at hand, as parameters, buffers and closures are.
    All of them must be named; while it is traced others stand for them, by identity. Nothing
    guards the Python that it reads: whoever holds a graph must know when it is none any more.

    Random numbers follow torch's generators, but may be others than those of the function itself:
    elsewhere than on the CPU each call draws a seed from them, and on it independent ones may be
    drawn in another order.

    Arguments:
        function: Called with a map from a free tensor to the one that stands for it, and with
            the arguments of the call; returns a tree of tensors.
        free: Every tensor that it uses, and neither makes nor gets as an argument. It may write
            to them.
        programs: The programs that it runs, by name: what they assign while they are traced, as
            the value of a property that is computed once, is taken back.
        sizes: The sizes of other arguments: dimensions in which those of the first call differ
            from these may differ from call to call.
        backend: The compiler, as ``torch.compile`` takes it.
        options: The compiler's options.

    Raises:
        Uncapturable: When called, if it cannot be compiled, at first or for other sizes.

    Example:
        >>> total, x = torch.zeros(2), torch.ones(2)
        >>> def add(swap, x):
        ...     total.add_(x)
        ...     return total.sum()
        >>> graph = Graph(add, [total], backend="aot_eager")
        >>> [graph(x).item() for _ in range(3)], total
        ([2.0, 4.0, 6.0], tensor([3., 3.]))
    """

    def __init__(
        self,
        function: Callable[..., Any],
        free: Iterable[Tensor],
        programs: Mapping[str, Program] = MappingProxyType({}),
        *,
        sizes: Sequence[Sequence[int]] = (),
        backend: str = "inductor",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.function, self.programs = function, programs
        self.free = list({id(tensor): tensor for tensor in free}.values())
        self.sizes = sizes
        self.traces = 0  # several for each compilation
        self._is_compiled = self._is_watched = False
        self._direct: Direct | None = None
        self._bind()
        self._outputs: Any = None
        # what a graph depends on besides tensors is its holder's to know
        usual = _usual(self.free) if backend == "inductor" else {}
        chosen = {"guard_filter_fn": _only_tensors, **usual, **(options or {})}
        self._run: Callable[..., Any] = torch.compile(
            _own_code(self._step()),
            fullgraph=True,
            dynamic=False,
            backend=backend,
            options=chosen,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._given = leaves, _ = flatten(args, kwargs)
        if not all(map(Tensor.is_set_to, self.free, self._places)):
            self._bind()  # a module was moved: its parameters are the same, their memory is not
        batch = [_resolved(leaf) for leaf in leaves if isinstance(leaf, Tensor)]
        traces = self.traces
        try:
            with torch.no_grad():
                found = self._called(batch)
        except Exception as error:
            if traces == self.traces and not type(error).__module__.startswith(_COMPILERS):
                raise
            raise _refusal(error) from error
        return found if self._outputs is None else tree_unflatten(found, self._outputs)

    def again(self, batch: list[Any]) -> list[Tensor] | None:
        r"""What a call returns, flat, right after another one; None where only a call can tell.

        Nothing but the contents of tensors may have changed in between.
        """
        if self._direct is None or self._given[1] != len(batch):  # it had names, or trees
            return None
        with torch.no_grad():
            if not self._direct.fits(batch):
                return None
            return self._direct(self._inputs, batch)

    def _called(self, batch: list[Tensor]) -> list[Tensor]:
        if not self._is_compiled:
            return self._compiled(self._inputs, batch)
        if not self._is_watched:
            self._is_watched = True
            first, self._direct = Direct.watched(self._run, self._inputs, batch)
            return first
        if self._direct is not None and self._direct.fits(batch):
            return self._direct(self._inputs, batch)
        found: list[Tensor] = self._run(self._inputs, batch)
        return found

    def _compiled(self, inputs: list[Tensor], batch: list[Tensor]) -> list[Tensor]:
        pairs = zip_longest(batch, self.sizes)
        with warnings.catch_warnings():
            # the compiler's own deprecations; programs gave theirs when they were eager
            warnings.simplefilter("ignore")
            sized = [_free_sizes(*pair) for pair in pairs]
            try:
                found: list[Tensor] = self._run(inputs, sized)
            except Exception as error:
                if not removed_half_written(error):
                    raise
                found = self._run(inputs, sized)
        self._is_compiled = True
        return found

    def _bind(self) -> None:
        self._places = [tensor.detach() for tensor in self.free]
        # before torch 2.15 what is written to numbers in double precision is lost
        self._inputs = [t if t.dim() else t.view(1) for t in self._places]
        self._direct, self._is_watched = None, False

    def _step(self) -> Callable[..., Any]:
        traced = _traced(self._trace)

        def step(inputs: list[Tensor], batch: list[Tensor]) -> list[Tensor]:
            found: list[Tensor] = traced(inputs, batch)
            return found

        return step

    def _trace(self, inputs: list[Tensor], batch: list[Tensor]) -> list[Tensor]:
        self.traces += 1
        leaves, spec = self._given
        tensors = iter(batch)
        leaves = [next(tensors) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        args, kwargs = unflatten(leaves, spec)
        table = {}
        for tensor, value in zip(self.free, inputs, strict=True):
            stand_in = value.view(tensor.shape).detach()
            table[id(tensor)] = stand_in.requires_grad_(tensor.requires_grad)
        swap = _Swap(table)
        with variables_kept(**self.programs), swap, traceable():
            outputs = self.function(swap.substitute, *args, **kwargs)
        flat, self._outputs = tree_flatten(outputs)
        if isinstance(outputs, list) and len(outputs) == len(flat):
            self._outputs = None  # it is one list, as is returned
        return [tensor.detach() for tensor in flat]


def _usual(free: Iterable[Tensor]) -> dict[str, Any]:
    r"""The options for the CPU: torch draws noise, where the compiler draws numbers one by one."""
    if any(t.device.type != "cpu" for t in free):
        return {}
    return {"fallback_random": True, "post_grad_custom_post_pass": BiasesApart()}


def _only_tensors(guards: Sequence[Any]) -> list[bool]:
    r"""Which of the compiler's guards are looked at before each call: not those on our lists."""
    return [guard.guard_type not in _OURS for guard in guards]


def _resolved(tensor: Tensor) -> Tensor:
    # the compiler's code passes over signs that are still to be changed, as in z.conj().imag
    return tensor.resolve_conj().resolve_neg()


def _free_sizes(tensor: Tensor, sizes: Sequence[int] | None) -> Tensor:
    alias = tensor.detach()  # which is marked in its place
    for dim, size in enumerate(sizes or ()):
        if tensor.shape[dim] != size:
            torch._dynamo.maybe_mark_dynamic(alias, dim)
    return alias


def _own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    # the compiler keeps what it compiled by code object, and guards nothing that was traced
    made: Any = function
    return FunctionType(
        made.__code__.replace(), made.__globals__, made.__name__, None, made.__closure__
    )


def _refusal(error: Exception) -> Uncapturable:
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
