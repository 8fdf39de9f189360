r"""Runs of programs that leave nothing behind in Python, either."""

__all__ = ["Change", "Undone", "variables_kept"]

import pickle
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
from torch import nn

from pyro_vae.programs import Program, same_parameters, unchanged
from pyro_vae.reach import Table, equal, reach

_ABSENT = object()


@dataclass(frozen=True)
class Change:
    r"""A variable that programs wrote to.

    Arguments:
        table: Where it stands.
        name: Its name there.
        value: What stood there at the end.
    """

    table: Table
    name: Any
    value: Any

    def now(self) -> int:
        r"""Tells what stands there at this moment from what stands there at others."""
        return id(self.table.now().get(self.name, _ABSENT))


class Undone:
    r"""What runs inside changes no random state, buffer, parameter store or Python variable.

    At the end attributes and elements, closure variables and globals that the programs reach
    (:func:`pyro_vae.reach.reach`) are what they were, lazily computed properties of
    distributions too. Warnings, and what programs print, are dropped.

    Arguments:
        programs: The programs, by the names that messages use.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(2, 5)
        >>> with Undone(network=network) as undone:
        ...     network.last = torch.ones(3)
        >>> hasattr(network, "last"), undone.changes[0].name
        (False, 'last')
    """

    def __init__(self, **programs: Program) -> None:
        self._programs = programs
        self._stack = ExitStack()
        self.changes: list[Change] = []
        self.drew = False

    def __enter__(self) -> "Undone":
        with ExitStack() as stack:
            stack.enter_context(unchanged(*self._programs.values()))
            stack.enter_context(same_parameters(*self._programs.values()))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(redirect_stdout(StringIO()))
            self._take()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drew = self.randomness() != self._random
        for table, before in zip(self._tables, self._before, strict=True):
            after = table.now()
            names = [n for n in {**before, **after} if not _same(before, after, n)]
            self.changes += [Change(table, n, after.get(n)) for n in names]
        for restore in self._restores:
            restore()
        self._stack.close()

    def randomness(self) -> list[bytes]:
        r"""The states of Python's and NumPy's sources of random numbers that programs reach."""
        return [pickle.dumps(get()) for get, _ in self._sources]

    def _take(self) -> None:
        self._tables = list(reach(written=True, **self._programs))
        self._before = [table.now() for table in self._tables]
        self._sources = list(_sources(self._before))
        self._random = self.randomness()
        self._restores = [
            *_restores(self._tables),
            *(_restore_source(*source) for source in self._sources),
        ]


@contextmanager
def variables_kept(**programs: Program) -> Iterator[None]:
    r"""Restores, at the end, the Python variables that programs reach, and nothing else.

    Where a graph is traced inside, no tensor of the trace stays behind: neither a buffer that
    ``+=`` assigned, nor a property that a distribution computed lazily.
    """
    restores = _restores(list(reach(written=True, **programs)))
    try:
        yield
    finally:
        for restore in restores:
            restore()


Restore = Callable[[], None]


def _restores(tables: list[Table]) -> list[Restore]:
    owners = {id(t.owner): t.owner for t in tables if isinstance(t.owner, nn.Module)}
    return [
        *(_restore_items(table) for table in tables),
        # where torch and Pyro keep tensors, children and constraints
        *(_restore_dict(d) for m in owners.values() for d in vars(m).values() if _is_dict(d)),
    ]


def _restore_items(table: Table) -> Restore:
    values = table.values
    if isinstance(values, dict) and table.names is None:
        return _restore_dict(values)
    if isinstance(values, list):
        copied = list(values)
        return lambda: values.__setitem__(slice(None), copied)
    if isinstance(values, tuple):
        return lambda: None
    before, names = table.now(), table.names

    def restore() -> None:
        after = table.now()
        for name in {**before, **after} if names is None else names:
            if after.get(name, _ABSENT) is before.get(name, _ABSENT):
                continue
            if isinstance(values, MappingProxyType):
                setattr(table.owner, name, before[name])
            elif name in before:
                values[name] = before[name]
            else:
                del values[name]

    return restore


def _restore_dict(values: dict[Any, Any]) -> Restore:
    copied = dict(values)

    def restore() -> None:
        for name in [n for n in values if n not in copied]:
            del values[name]
        for name, value in copied.items():
            if values.get(name, _ABSENT) is not value:
                values[name] = value

    return restore


def _restore_source(get: Callable[[], Any], put: Callable[[Any], None]) -> Restore:
    state = get()
    return lambda: put(state)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _same(before: dict[Any, Any], after: dict[Any, Any], name: Any) -> bool:
    return equal(before.get(name, _ABSENT), after.get(name, _ABSENT))


Source = tuple[Callable[[], Any], Callable[[Any], None]]


def _sources(found: list[dict[Any, Any]]) -> Iterator[Source]:
    yield random.getstate, random.setstate
    yield lambda: np.random.get_state(legacy=False), np.random.set_state
    for value in [value for table in found for value in table.values()]:
        if isinstance(value, random.Random):
            yield value.getstate, value.setstate
        elif isinstance(value, np.random.RandomState):
            yield value.get_state, value.set_state
        elif isinstance(value, np.random.Generator):
            yield _source(value.bit_generator)


def _source(bits: Any) -> Source:
    return lambda: bits.state, lambda state: setattr(bits, "state", state)
