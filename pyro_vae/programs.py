r"""Programs from outside: whose parameters they use, and runs that leave nothing behind."""

__all__ = [
    "Program",
    "bare_program",
    "free_tensors",
    "isolated",
    "modules",
    "named_parameters",
    "owner",
    "same_parameters",
    "state",
    "unchanged",
]

import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.params.param_store import StateDict
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

Program = Callable[..., Any]

_states: WeakKeyDictionary[nn.Module, StateDict] = WeakKeyDictionary()


def owner(program: Program) -> nn.Module | None:
    r"""The module whose program it is: itself, or that of a bound method; else ``None``."""
    program = bare_program(program)
    module = getattr(program, "__self__", program)
    return module if isinstance(module, nn.Module) else None


def bare_program(program: Any) -> Any:
    r"""What ``functools.partial`` and Pyro's handlers (which are partials, too) were put around."""
    while isinstance(program, partial):
        handled = len(program.args) > 1 and isinstance(program.args[0], Messenger)
        program = program.args[1] if handled else program.func
    return program


def modules(program: Any) -> dict[str, nn.Module]:
    r"""The modules that a program runs: its owner, under ``""``, or those that a function names.

    A plain function names them in its closure or among its globals; they come by variable.
    """
    bound = program.keywords if isinstance(program, partial) else {}
    if bound:
        found = modules(bare_program(program))
        return {**found, **{k: m for k, m in bound.items() if isinstance(m, nn.Module)}}
    if (module := owner(program)) is not None:
        return {"": module}
    function = inspect.unwrap(bare_program(program))
    if not inspect.isroutine(function) or inspect.isbuiltin(function):
        return {}
    names = inspect.getclosurevars(getattr(function, "__func__", function))
    named = {**names.globals, **names.nonlocals}
    return {name: value for name, value in named.items() if isinstance(value, nn.Module)}


class _Isolated:
    r"""A ``PyroModule`` program that runs inside a parameter store of its own."""

    def __init__(self, program: Program, module: PyroModule) -> None:
        self.program, self.__self__ = program, module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        store = pyro.get_param_store()
        before = store.get_state()
        with store.scope(self._inner(before)) as after:
            result = self.program(*args, **kwargs)
        self._outer(before, after)
        return result

    def _inner(self, outer: StateDict) -> StateDict:
        r"""Its own parameters, and of those outside only what belongs to no module.

        A parameter of another module may bear the same name, and Pyro would read that one.
        """
        own = _states.setdefault(self.__self__, {"params": {}, "constraints": {}})
        now = {_bare(name): p for name, p in self.__self__.named_parameters()}
        for name, tensor in list(own["params"].items()):  # one may have been replaced
            if now.get(name.replace("$$$", "."), tensor) is not tensor:
                del own["params"][name], own["constraints"][name]
        free = {n: p for n, p in outer["params"].items() if not isinstance(p, nn.Parameter)}
        return {
            "params": {**free, **own["params"]},
            "constraints": {**outer["constraints"], **own["constraints"]},
        }

    def _outer(self, before: StateDict, after: StateDict) -> None:
        r"""Keeps what belongs to modules, hands on what ``pyro.param`` statements made."""
        own, free = _states[self.__self__], StateDict(params={}, constraints={})
        for name, tensor in after["params"].items():
            if isinstance(tensor, nn.Parameter):
                target = own
            elif before["params"].get(name) is not tensor:
                target = free
            else:
                continue
            target["params"][name] = tensor
            target["constraints"][name] = after["constraints"][name]
        if free["params"]:
            pyro.get_param_store().set_state(free)


def isolated(program: Program) -> Program:
    r"""The program, such that no two instances of a ``PyroModule`` share a parameter.

    In plain Pyro the second instance silently reads the ``PyroParam`` of the first, since
    both have the same name in the one parameter store. Here each ``PyroModule`` runs inside
    a store of its own; ``pyro.param`` statements still reach the global one. Plain functions
    are returned as they are.
    """
    module = owner(program)
    if isinstance(bare_program(program), GuideMessenger):
        # it runs the model itself, whose data it does not draw
        program = poutine.block(program, hide_types=["observe"])
    if isinstance(program, _Isolated) or not isinstance(module, PyroModule):
        return program
    return _Isolated(program, module)


@contextmanager
def unchanged(*programs: Program) -> Iterator[None]:
    r"""Restores, at the end, the random state and the buffers of the programs' modules."""
    found = [module for program in programs for module in modules(program).values()]
    buffers = [(b, b.detach().clone()) for module in found for b in module.buffers()]
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


@contextmanager
def same_parameters(*programs: Program) -> Iterator[None]:
    r"""Restores, at the end, Pyro's parameter store, and those that isolated programs run in."""
    owners = [module for program in programs if (module := owner(program)) is not None]
    kept = {
        m: StateDict(params=dict(s["params"]), constraints=dict(s["constraints"]))
        for m in owners
        if (s := _states.get(m)) is not None
    }
    store = pyro.get_param_store()
    try:
        with store.scope(store.get_state()):
            yield
    finally:
        for module in owners:
            _states.pop(module, None)
            if module in kept:
                _states[module] = kept[module]


class _Record(TorchFunctionMode):
    r"""Collects the tensors that are used and were not made while it was active."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, Tensor] = {}  # kept alive, so that no id comes twice
        self.free: dict[int, Tensor] = {}
        self.constants: dict[int, Tensor] = {}  # values before

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in _tensors((args, kwargs or {})):
            if id(tensor) not in self.made and id(tensor) not in self.free:
                self.free[id(tensor)] = tensor
                if not tensor.requires_grad and not tensor.is_meta:
                    self.constants[id(tensor)] = tensor.detach().clone()
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if id(tensor) not in self.free:
                self.made[id(tensor)] = tensor
        return result

    def restore(self) -> None:
        with torch.no_grad():
            # the oldest last, where some share memory; batch norm's keep their version
            for key, value in reversed(self.constants.items()):
                if not torch.equal(self.free[key], value):
                    self.free[key].copy_(value)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def free_tensors(program: Program, *args: Any, **kwargs: Any) -> list[Tensor]:
    r"""The tensors that a program uses and did not make: parameters, buffers, closures.

    The program runs once; the random state and every tensor that it wrote to are restored.
    Those of the batch are left out.
    """
    record = _Record()
    try:
        with unchanged(program), poutine.block(), record:
            program(*args, **kwargs)
    finally:
        record.restore()
    batch = {id(tensor) for tensor in _tensors((args, kwargs))}
    return [tensor for tensor in record.free.values() if id(tensor) not in batch]


def named_parameters(
    program: Program, tensors: Iterable[Tensor], before: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    r"""Those of the tensors that can be trained, by the name that a user would know.

    A parameter of a module is named as by ``named_parameters``, one of Pyro's store as there
    (``encoder$$$weight`` is ``encoder.weight``), any other ``tensor0``, ``tensor1``, …, after
    those that were named before.
    """
    known = {id(p): name for name, p in before.items()}
    stored = pyro.get_param_store().named_parameters()
    known |= {id(p): name.replace("$$$", ".") for name, p in stored}
    if (module := owner(program)) is not None:
        known |= {id(p): _bare(name) for name, p in module.named_parameters()}
    trained = [t for t in tensors if t.requires_grad and t.is_leaf]
    unknown = [id(t) for t in trained if id(t) not in known]
    taken = {*known.values(), *before}
    free = (name for i in count() if (name := f"tensor{i}") not in taken)
    known |= dict(zip(unknown, free, strict=False))
    return {known[id(t)]: t for t in trained}


def state(program: Program, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Every tensor that must be kept to have the program again, each once.

    Those are its parameters, by name, and the whole ``state_dict`` of its modules, since
    traces do not show all of it (the statistics of batch norm, say).
    """
    found = dict(parameters)
    seen = {id(tensor) for tensor in found.values()}
    for prefix, module in modules(program).items():
        for name, tensor in module.state_dict(keep_vars=True).items():
            if isinstance(tensor, Tensor) and id(tensor) not in seen:
                found[f"{prefix}.{_bare(name)}".lstrip(".")] = tensor
                seen.add(id(tensor))
    return found


def _bare(name: str) -> str:
    return name.removesuffix("_unconstrained")
