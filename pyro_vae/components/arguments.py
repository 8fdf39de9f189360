r"""What a constructor takes: plain values of a type, or parts of a kind."""

__all__ = ["Argument", "arguments", "checked", "type_name"]

import collections.abc
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from inspect import Parameter, isclass, isfunction, signature
from types import SimpleNamespace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from pyro_vae.components.kinds import Kind
from pyro_vae.likelihoods import Likelihood
from pyro_vae.nn import FACTS
from pyro_vae.objectives import Objective
from pyro_vae.schedules import Schedule

# what is given when a part is used, not when it is described
_LATER: dict[Kind, frozenset[str]] = {
    "optimizer": frozenset({"params"}),
    "schedule": frozenset({"optimizer"}),
}
_PLAIN = (bool, int, float, str, type(None))
_CONTAINERS = (list, tuple, dict, Sequence, Mapping, Iterable)


@dataclass(frozen=True)
class Argument:
    r"""An argument of a constructor.

    Arguments:
        name: Its name.
        default: Its default, or ``inspect.Parameter.empty``.
        type: The type of its plain values, without what is no plain data; None if there are none.
        kind: The kind of part that it takes, if any; it may take plain values, too.
        makers: Whether a function that makes the part will do.
        fact: Whether :func:`pyro_vae.nn.make_network` fills it.
    """

    name: str
    default: Any
    type: Any
    kind: Kind | None = None
    makers: bool = True
    fact: bool = False

    @property
    def required(self) -> bool:
        r"""Whether it must be given."""
        return self.default is Parameter.empty and not self.fact


def arguments(thing: Callable[..., Any], kind: Kind) -> dict[str, Argument]:
    r"""The arguments by name that describe a part of a kind; a program that is a function has none.

    Example:
        >>> from pyro_vae.models import VAE
        >>> arguments(VAE, "model")["latents"]
        Argument(name='latents', default=16, type=<class 'int'>, kind=None, makers=True, fact=False)
        >>> arguments(VAE, "model")["decoder"].kind
        'network'
    """
    if kind in ("model", "guide") and isfunction(thing):
        return {}
    hints = _hints(thing)
    skipped = _LATER.get(kind, frozenset())
    found = {}
    for name, parameter in signature(thing).parameters.items():
        named = parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        if named and name not in skipped:
            annotation = hints.get(name, Any)
            part, makers = _part(annotation)
            fact = kind == "network" and name in FACTS
            found[name] = Argument(name, parameter.default, _plain(annotation), part, makers, fact)
    return found


def checked(argument: Argument, value: Any, owner: str) -> Any:
    r"""A plain value as the type of its argument.

    Raises:
        ValueError: If it is not of the type.
    """
    if argument.type is Any:
        return value
    if argument.type is None:
        raise ValueError(
            f"{owner}: expected {argument.name} to be given in Python, since it is no plain value "
            f"or part, got {value!r}"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=argument.type)
    try:
        if value is not None or type(None) in get_args(argument.type):
            return parser.parse_object({"value": deepcopy(value)}).value
    except ArgumentError:
        pass
    raise ValueError(
        f"{owner}: expected {argument.name} to be {type_name(argument.type)}, got {value!r}"
    )


def type_name(kind: Any) -> str:
    r"""A type in few words.

    Example:
        >>> type_name(Sequence[int]), type_name(int | None), type_name(Literal["a", "b"])
        ('Sequence[int]', 'int | None', "'a' | 'b'")
    """
    if kind is type(None):
        return "None"
    if get_origin(kind) in (Union, types.UnionType):
        return " | ".join(map(type_name, get_args(kind)))
    if get_origin(kind) is Literal:
        return " | ".join(map(repr, get_args(kind)))
    if kind is Ellipsis:
        return "…"
    inner = ", ".join(map(type_name, get_args(kind)))
    name = getattr(get_origin(kind) or kind, "__name__", str(kind))
    return f"{name}[{inner}]" if inner else name


def _hints(thing: Any) -> dict[str, Any]:
    function = thing.__init__ if isclass(thing) else thing
    raw = {name: p.annotation for name, p in signature(thing).parameters.items()}
    found: dict[str, Any] = {}
    for name, annotation in raw.items():
        # one by one, since torch has names that only type checkers know
        one = SimpleNamespace(__annotations__={name: annotation})
        scope = getattr(function, "__globals__", {})
        with suppress(NameError, TypeError):
            found |= get_type_hints(one, scope, vars(collections.abc))
    return {name: hint for name, hint in found.items() if hint is not Parameter.empty}


def _plain(annotation: Any) -> Any:
    r"""What is plain data of an annotation, or None.

    It is ``Any`` as soon as that is a part of it: where anything goes, the parser would import
    what a ``class_path`` names, and is not asked.
    """
    if annotation is Any or annotation in (list, tuple, dict):
        return Any
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in _PLAIN or origin is Literal:
        return annotation
    union = origin in (Union, types.UnionType)
    if not union and origin not in _CONTAINERS:
        return None
    found = [part if part is Ellipsis else _plain(part) for part in inner]
    parts = tuple(part for part in found if part is not None)
    if Any in parts:
        return Any
    if union:
        return Union[parts] if set(parts) - {type(None)} else None  # noqa: UP007
    return origin[parts] if None not in found else None


def _part(annotation: Any) -> tuple[Kind | None, bool]:
    r"""The kind of part that an annotation takes, and whether also what makes one."""
    inner = get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        found = [(kind, makers) for kind, makers in map(_part, inner) if kind]
        return (found[0][0], any(makers for _, makers in found)) if found else (None, True)
    if get_origin(annotation) is Callable or get_origin(annotation) is get_origin(
        Callable[[], int]
    ):
        makes = isclass(inner[1]) and issubclass(inner[1], nn.Module)
        return ("activation" if inner[0] == [] else "network") if makes else None, True
    if annotation is Likelihood:
        return "likelihood", False
    if annotation is Objective:
        return "objective", False
    if annotation is Schedule:
        return "annealing", False
    if isclass(annotation) and issubclass(annotation, nn.Module):
        return "network", False
    return None, True
