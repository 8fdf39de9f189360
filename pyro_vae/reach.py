r"""The Python variables that programs read: attributes, elements, closures, globals."""

__all__ = ["Table", "equal", "fixed", "hashable", "reach"]

import argparse
import builtins
import dis
import functools
import inspect
import types
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro.infer
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.mask_messenger import MaskMessenger
from pyro.poutine.scale_messenger import ScaleMessenger
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.distributions.utils import lazy_property

from pyro_vae.lines import is_library

_LEAVES = (bool, int, float, complex, str, bytes, type(None))

# containers in containers and objects in objects, below a module, function or program
_DEPTH = 4

# a list of files, say, counts by identity: nobody wants to look through it at every step
_LONGEST = 100

# torch's own tables of a module: those of tensors are tables of ours, the others are hooks
_INTERNAL = frozenset(nn.Module().__dict__) - {"training"}

# what is entered although a library wrote the class; others of theirs are known by identity
_ENTERED = (
    Distribution,
    Transform,
    pyro.infer.ELBO,
    functools.partial,
    types.MethodType,
    types.SimpleNamespace,
    argparse.Namespace,
    MaskMessenger,
    ScaleMessenger,
)


@dataclass(frozen=True)
class Table:
    r"""Variables that stand together.

    Arguments:
        name: Whose they are, as in ``model.decoder``.
        kind: ``"attribute"``, ``"buffer"``, ``"element"``, ``"closure variable"`` or ``"global"``.
        values: The table itself, not a copy.
        names: Those of the variables that count; ``None`` for all, new ones too.
        owner: The object whose attributes they are, if they are.
    """

    name: str
    kind: str
    values: Any
    names: tuple[Any, ...] | None = None
    owner: Any = None

    def now(self) -> dict[Any, Any]:
        r"""The variables as they stand, by name."""
        if self.names is not None:
            return {key: self.values[key] for key in self.names if key in self.values}
        if isinstance(self.values, (list, tuple)):
            return dict(enumerate(self.values))
        return {k: v for k, v in self.values.items() if not _hidden(self.owner, k)}


class _Cells:
    r"""A function's closure, read like a dictionary."""

    def __init__(self, names: tuple[str, ...], cells: tuple[types.CellType, ...]) -> None:
        self.cells = dict(zip(names, cells, strict=True))

    def __contains__(self, name: str) -> bool:
        try:
            self.cells[name].cell_contents  # noqa: B018
        except ValueError:  # it is empty
            return False
        return True

    def __getitem__(self, name: str) -> Any:
        return self.cells[name].cell_contents

    def __setitem__(self, name: str, value: Any) -> None:
        self.cells[name].cell_contents = value

    def __delitem__(self, name: str) -> None:
        del self.cells[name].cell_contents


class _Members:
    r"""A set, read like a dictionary of its members."""

    def __init__(self, members: set[Any]) -> None:
        self.members = members

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, member: Any) -> bool:
        return member in self.members

    def __setitem__(self, member: Any, value: bool) -> None:
        self.members.add(member)

    def __delitem__(self, member: Any) -> None:
        self.members.discard(member)

    def items(self) -> list[tuple[Any, bool]]:
        return [(member, True) for member in self.members]


class _Slots:
    r"""An object without a dictionary, read like one."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def __contains__(self, name: str) -> bool:
        return hasattr(self.owner, name)

    def __getitem__(self, name: str) -> Any:
        return getattr(self.owner, name)

    def __setitem__(self, name: str, value: Any) -> None:
        object.__setattr__(self.owner, name, value)  # the class may be frozen

    def __delitem__(self, name: str) -> None:
        object.__delattr__(self.owner, name)


def fixed(value: Any) -> bool:
    r"""Whether a value is a number, a string or the like, or a tuple of such: it cannot change."""
    if isinstance(value, tuple):
        return all(map(fixed, value))
    return isinstance(value, _LEAVES)


class _Same:
    r"""An object that equals itself only; it lives on here, so that no id comes twice."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value


def hashable(value: Any) -> Hashable:
    r"""What equals itself as long as programs read the same value."""
    if isinstance(value, tuple) and fixed(value):
        return type(value), *map(hashable, value)
    if isinstance(value, (float, complex)):  # nan is nan, and -0.0 is not 0.0
        return type(value), repr(value)
    return (type(value), value) if fixed(value) else _Same(value)


def equal(a: Any, b: Any) -> bool:
    r"""Whether two values are the same to programs: of the same type and value, or one object."""
    return a is b or (fixed(a) and fixed(b) and hashable(a) == hashable(b))


def _cached(owner: Any, name: Any) -> bool:
    r"""Whether an attribute keeps a value that its object computes again when it lacks it."""
    made = inspect.getattr_static(type(owner), name, None) if isinstance(name, str) else None
    return isinstance(made, (lazy_property, functools.cached_property)) or (
        isinstance(owner, (Distribution, Transform)) and str(name).startswith("_cache")
    )


def reach(written: bool = False, **roots: Any) -> Iterator[Table]:
    r"""The tables of variables that programs and objects read, each once.

    Modules are followed into their children, functions into their closures, the globals that
    they name and the user's functions among these, other objects, lists and dictionaries a few
    levels deep. Hooks, and what torch and Pyro keep on modules for themselves, are left out.

    Arguments:
        written: Whether globals that functions only assign to count, too.
        roots: The programs and objects, by the names that tables start with.
    """
    walk = _Walk(written)
    for name, root in roots.items():
        yield from walk.enter(root, name, 0)


class _Walk:
    def __init__(self, written: bool) -> None:
        self.written = written
        self.seen: dict[int, Any] = {}  # kept alive, so that no id comes twice

    def enter(self, value: Any, name: str, depth: int) -> Iterator[Table]:
        if fixed(value) or id(value) in self.seen or _is_long(value):
            return
        if isinstance(value, nn.Module):
            yield from self._module(value, name)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value, name)
        elif isinstance(value, type):
            yield from self._class(value)
        elif depth < _DEPTH:
            yield from self._object(value, name, depth)

    def _module(self, module: nn.Module, name: str) -> Iterator[Table]:
        self.seen[id(module)] = module
        yield from self._table(Table(name, "attribute", vars(module), None, module), 0)
        yield Table(name, "buffer", module._buffers)
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            yield Table(name, "hook", hooks)
        if module._modules:
            yield Table(name, "module", module._modules, tuple(module._modules))
        yield from self._class(type(module))
        for child, part in module._modules.items():
            yield from self.enter(part, f"{name}.{child}", 0)

    def _function(self, function: types.FunctionType, name: str) -> Iterator[Table]:
        self.seen[id(function)] = function
        # of a library's function, such as a decorator's, only what it closes over is the user's
        own = _is_users(function.__module__ or "")
        if read := _globals(function.__code__, self.written) if own else ():
            yield from self._table(Table(name, "global", function.__globals__, read), 0)
            yield from self._imported(function, read)
        free = function.__code__.co_freevars
        if free:
            cells = _Cells(free, function.__closure__ or ())
            yield from self._table(Table(name, "closure variable", cells, free), 0)
        for defaults in (function.__defaults__, function.__kwdefaults__) if own else ():
            yield from self.enter(defaults, f"{name}'s defaults", 0)
        if vars(function):
            yield from self._table(Table(name, "attribute", vars(function), None, function), 0)

    def _imported(self, function: types.FunctionType, read: tuple[str, ...]) -> Iterator[Table]:
        r"""What a function looks up in the user's own Python modules, as in ``settings.beta``."""
        names = _attributes(function.__code__)
        for module in (function.__globals__.get(name) for name in read):
            if isinstance(module, types.ModuleType) and _is_users(module.__name__):
                looked = tuple(name for name in names if name in vars(module))
                yield from self._table(
                    Table(module.__name__, "attribute", vars(module), looked, module), 0
                )

    def _class(self, kind: type) -> Iterator[Table]:
        r"""Class variables, and what methods read, of classes that the user wrote."""
        for base in kind.__mro__:
            if id(base) in self.seen or not _is_users(base.__module__):
                continue
            self.seen[id(base)] = base
            plain = tuple(k for k, v in vars(base).items() if _plain(k, v))
            if plain:
                yield from self._table(
                    Table(base.__name__, "attribute", vars(base), plain, base), 1
                )
            for member in vars(base).values():
                getter = getattr(member, "fget", None) or getattr(member, "func", None)
                method = getter or getattr(member, "__func__", member)
                if isinstance(method, types.FunctionType) and method.__name__ != "__init__":
                    yield from self.enter(method, f"{base.__name__}.{method.__name__}", 0)

    def _object(self, value: Any, name: str, depth: int) -> Iterator[Table]:
        self.seen[id(value)] = value
        if isinstance(value, (list, tuple, dict)):
            yield from self._table(Table(name, "element", value), depth)
        elif isinstance(value, set):
            yield Table(name, "element", _Members(value))
        elif isinstance(value, types.MethodType):
            yield from self.enter(value.__self__, name, depth)
            yield from self.enter(value.__func__, name, depth)
        elif isinstance(value, functools.partial):  # Pyro's handlers are partials, too
            for part in (value.func, *value.args, value.keywords):
                yield from self.enter(part, name, depth)
        elif isinstance(getattr(value, "__self__", None), nn.Module):
            yield from self.enter(value.__self__, name, depth)
        elif _entered(value):
            yield from self._class(type(value))
            if hasattr(value, "__dict__"):
                yield from self._table(Table(name, "attribute", vars(value), None, value), depth)
            if slots := _slots(type(value)):
                table = Table(name, "attribute", _Slots(value), slots, value)
                yield from self._table(table, depth)

    def _table(self, table: Table, depth: int) -> Iterator[Table]:
        yield table
        inside = {"element": "{}[{!r}]", "attribute": "{}.{}"}.get(table.kind, "{1}")
        for key, value in table.now().items():
            yield from self.enter(value, inside.format(table.name, key), depth + 1)


def _hidden(owner: Any, name: Any) -> bool:
    if isinstance(owner, nn.Module):
        # Pyro makes the plates of an autoguide anew in every run
        plates = name in ("plates", "_cond_indep_stacks") and isinstance(owner, AutoGuide)
        return name in _INTERNAL or name.startswith("_pyro_") or plates or _cached(owner, name)
    return owner is not None and _cached(owner, name)


def _is_long(value: Any) -> bool:
    return isinstance(value, (list, tuple, dict, set)) and len(value) > _LONGEST


def _entered(value: Any) -> bool:
    if isinstance(value, _ENTERED):
        return True
    if isinstance(value, (type, types.ModuleType, Tensor, torch.Generator)) or callable(
        getattr(value, "__torch_function__", None)
    ):
        return False
    home = type(value).__module__
    return home.startswith("pyro_vae.") or not is_library(home)


def _is_users(module: str) -> bool:
    # the programs of ours read constants only
    return not (is_library(module) or module.startswith("pyro_vae."))


def _plain(name: str, value: Any) -> bool:
    return not name.startswith("__") and isinstance(value, (*_LEAVES, Tensor, list, dict, tuple))


def _slots(kind: type) -> tuple[str, ...]:
    found = [getattr(base, "__slots__", ()) for base in kind.__mro__]
    names = [name for slots in found for name in ((slots,) if isinstance(slots, str) else slots)]
    return tuple(name for name in names if not name.startswith("__"))


def _globals(code: types.CodeType, written: bool) -> tuple[str, ...]:
    r"""The names that a function, and those inside it, look up among the globals."""
    kinds = ("LOAD_GLOBAL", "LOAD_NAME", *(("STORE_GLOBAL",) if written else ()))
    found = {i.argval for i in dis.get_instructions(code) if i.opname in kinds}
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    found |= {name for part in inner for name in _globals(part, written)}
    return tuple(sorted(found - vars(builtins).keys()))


def _attributes(code: types.CodeType) -> set[str]:
    r"""The names of attributes, and others, in a function and those inside it."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*map(_attributes, inner))
