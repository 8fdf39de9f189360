r"""What a part was made of, as plain data."""

__all__ = ["describe", "remember"]

import weakref
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from functools import partial
from inspect import isclass, isroutine
from typing import Any

from torch import Tensor

from pyro_vae.components import files
from pyro_vae.components.arguments import arguments
from pyro_vae.components.kinds import HOMES, Kind, exported
from pyro_vae.schedules import Constant

# by identity, since equal parts may have been made differently
_MADE: dict[int, tuple[weakref.ref[Any], dict[str, Any]]] = {}


def remember(thing: Any, description: dict[str, Any]) -> None:
    r"""Keeps the description of a part, as long as the part lives."""
    key = id(thing)
    with suppress(TypeError):  # what has slots cannot be watched, and counts as made in Python
        _MADE[key] = (weakref.ref(thing, lambda _: _MADE.pop(key, None)), description)


def describe(thing: Any) -> Any:
    r"""Describes a part such that :func:`build` makes another of the description.

    The description of what was built is ``{"class_path": …, "init_args": {…}}``, also of
    exported classes, of likelihoods and objectives that keep their arguments as attributes, and
    of a :func:`functools.partial` of these. Of other things made in Python it is
    ``{"given": their name}``, and plain data, and tensors of one number, describe themselves.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> describe(partial(torch.optim.Adam, lr=0.1))
        {'class_path': 'torch.optim.Adam', 'init_args': {'lr': 0.1}}
        >>> describe(torch.nn.Linear(2, 3))
        {'given': 'torch.nn.modules.linear.Linear'}
    """
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, list | tuple):
        return [describe(value) for value in thing]
    if isinstance(thing, Mapping):
        return {str(name): describe(value) for name, value in thing.items()}
    if (number := _number(thing)) is not None:
        return number
    return _made(thing) or _named(thing) or _partial(thing) or _attributes(thing) or _given(thing)


def _made(thing: Any) -> dict[str, Any] | None:
    _, description = _MADE.get(id(thing), (None, None))
    return deepcopy(description)


def _named(thing: Any) -> dict[str, Any] | None:
    r"""A class or function that has a name which :func:`find` finds."""
    path = _path(thing) if isclass(thing) or isroutine(thing) else None
    return None if path is None else {"class_path": path, "init_args": {}}


def _path(thing: Any) -> str | None:
    for kind, homes in HOMES.items():
        for home in homes:
            for name, value in exported(home, kind).items():
                if value is thing:
                    return f"{home}.{name}"
    return files.class_path(thing)


def _partial(thing: Any) -> dict[str, Any] | None:
    if not isinstance(thing, partial) or thing.args:
        return None
    named = isclass(thing.func) or isroutine(thing.func)
    maker = describe(thing.func) if named else {}
    if "class_path" not in maker:
        return None
    return {**maker, "init_args": {name: describe(value) for name, value in thing.keywords.items()}}


def _attributes(thing: Any) -> dict[str, Any] | None:
    r"""An instance of ours that keeps all its arguments as attributes of their names."""
    kinds: tuple[Kind, ...] = ("likelihood", "objective", "annealing")
    for kind in kinds:
        if type(thing) in exported(HOMES[kind][0], kind).values():
            names = arguments(type(thing), kind)
            if all(hasattr(thing, name) for name in names):
                values = {name: describe(getattr(thing, name)) for name in names}
                return {"class_path": _path(type(thing)), "init_args": values}
    return None


def _number(thing: Any) -> float | None:
    if isinstance(thing, Constant):
        thing = thing.number
    return thing.item() if isinstance(thing, Tensor) and thing.dim() == 0 else None


def _given(thing: Any) -> dict[str, Any]:
    while isinstance(thing, partial):
        thing = thing.func
    named = thing if isclass(thing) or isroutine(thing) else type(thing)
    return {"given": f"{named.__module__}.{named.__qualname__}"}
