r"""From a description to the part."""

__all__ = ["build"]

from collections.abc import Iterable, Mapping
from functools import partial
from inspect import Parameter, isclass, isfunction, signature
from typing import Any

from pyro_vae.components.arguments import Argument, arguments, checked
from pyro_vae.components.describe import describe, remember
from pyro_vae.components.find import find, full_name
from pyro_vae.components.kinds import Kind, suggestion
from pyro_vae.nn import FACTS

Spec = str | Mapping[str, Any]


def build(
    spec: Spec,
    kind: Kind,
    *,
    allow: Iterable[str] = (),
    files: Mapping[str, str] | None = None,
    known: Mapping[str, Any] | None = None,
) -> Any:
    r"""Builds a part of its description; what :func:`find` does not find is not built.

    A class is constructed, and a program that is a function is itself. Optimisers, schedules,
    and networks that wait for facts (:data:`pyro_vae.nn.FACTS`) become a
    :func:`functools.partial`; an activation is its class, or such a partial.

    Arguments:
        spec: A name, or ``{"class_path": name, "init_args": {…}}``; arguments that are parts are
            described in the same way.
        kind: What is to be built.
        allow: Packages and files that may be imported.
        files: The sha256 that each file must have, by absolute path; by default any.
        known: Values for arguments of these names where a constructor has them and the
            description gives none.

    Raises:
        FileNotFoundError: If a file is not there.
        TypeError: If the description is none.
        ValueError: If something is not found or not allowed (:func:`find`), was made in Python,
            or if an argument is unknown, lacking or of a wrong type.

    Example:
        >>> model = build({"class_path": "VAE", "init_args": {"latents": 2}}, "model",
        ...               known={"event_shape": (1, 8, 8)})
        >>> describe(model)
        {'class_path': 'pyro_vae.models.VAE',
         'init_args': {'latents': 2, 'event_shape': [1, 8, 8]}}
    """
    name, given = _parts(spec, kind)
    allow = tuple(allow)
    thing = find(name, kind, allow=allow, files=files)
    wanted = arguments(thing, kind)
    program = kind in ("model", "guide") and isfunction(thing)
    _check_names(name, wanted, given, variadic=not program and _variadic(thing))

    filled = {k: v for k, v in (known or {}).items() if k in wanted and given.get(k) is None}
    values = {
        key: _value(wanted.get(key), value, name, allow, files)
        for key, value in given.items()
        if key not in filled
    } | filled
    _check_complete(name, wanted, values)
    made = thing if program else _called(name, thing, kind, values)
    # a run has one model, whose description is not that of its guide
    own = {k: v for k, v in values.items() if (kind, k) != ("guide", "model") or k not in filled}
    init_args = {key: describe(value) for key, value in own.items()}
    remember(made, {"class_path": full_name(name, kind), "init_args": init_args})
    return made


def _parts(spec: Any, kind: Kind) -> tuple[str, Mapping[str, Any]]:
    r"""The name and the arguments that a description gives."""
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and set(spec) == {"given"}:
        raise ValueError(
            f"the run's {kind} ({spec['given']}) was made in Python, and its description does not "
            f"build it: make it again, and pass it as {kind}= or in the program that has it"
        )
    fits = isinstance(spec, Mapping) and "class_path" in spec
    if not fits or set(spec) - {"class_path", "init_args"}:
        raise TypeError(
            f"expected a {kind} as a name or as {{class_path: …, init_args: …}}, got {spec!r}"
        )
    given = spec.get("init_args")
    if given is not None and not (isinstance(given, Mapping) and all(map(_is_name, given))):
        raise TypeError(f"expected init_args of {spec['class_path']} by name, got {given!r}")
    return spec["class_path"], given or {}


def _is_name(key: Any) -> bool:
    return isinstance(key, str)


def _check_names(owner: str, wanted: Iterable[str], given: Iterable[str], variadic: bool) -> None:
    names = list(wanted)
    for name in () if variadic else given:
        if name not in names:
            takes = f"arguments among {', '.join(names)}" if names else "no arguments"
            raise ValueError(f"{owner}: expected {takes}, got {name!r}{suggestion(name, names)}")


def _check_complete(owner: str, wanted: Mapping[str, Argument], given: Mapping[str, Any]) -> None:
    lacking = [name for name, argument in wanted.items() if argument.required and name not in given]
    if lacking:
        raise ValueError(f"{owner}: expected a value of {', '.join(lacking)}, got none")


def _variadic(thing: Any) -> bool:
    parameters = signature(thing).parameters.values()
    return any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters)


def _value(
    argument: Argument | None,
    value: Any,
    owner: str,
    allow: tuple[str, ...],
    files: Mapping[str, str] | None,
) -> Any:
    r"""The value of an argument: a part is built, plain data checked, an object left alone."""
    plain = isinstance(value, bool | int | float | str | list | tuple | Mapping)
    if argument is None or (not plain and (value is not None or argument.default is None)):
        return value
    if argument.kind is None or (argument.type is not None and not _is_named(value)):
        return checked(argument, value, owner)
    part = build(value, argument.kind, allow=allow, files=files)
    if argument.kind == "network" and not argument.makers and isinstance(part, partial):
        _check_complete(owner, arguments(part, "model"), part.keywords)
        return part()
    return part


def _is_named(value: Any) -> bool:
    r"""Whether a value that may be plain is the description of a part."""
    return isinstance(value, str | Mapping)


def _called(name: str, thing: Any, kind: Kind, values: Mapping[str, Any]) -> Any:
    r"""What a constructor makes; an error of torch's or of a user's code says whose it is."""
    try:
        return _call(thing, kind, values)
    except (OSError, TypeError, ValueError):
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ValueError(f"{name}: expected to build it of {dict(values)}, got {reason}") from error


def _call(thing: Any, kind: Kind, values: Mapping[str, Any]) -> Any:
    if kind == "activation":
        return partial(thing, **values) if values else thing
    waits = not isclass(thing) or any(
        name in FACTS and name not in values for name in signature(thing).parameters
    )
    if kind in ("optimizer", "schedule") or (kind == "network" and waits):
        return partial(thing, **values)
    return thing(**values)
