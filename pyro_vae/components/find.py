r"""From a name to what it names, if that may be built."""

__all__ = ["find", "full_name"]

from collections.abc import Iterable, Mapping
from importlib import import_module
from inspect import isclass, isfunction
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_vae.components.files import defined_names, import_file, split_file
from pyro_vae.components.kinds import HOMES, Kind, choices, exported, suggestion
from pyro_vae.schedules import Schedule

_ARTICLES: dict[Kind, str] = {
    "objective": "an",
    "activation": "an",
    "optimizer": "an",
    "annealing": "an",
    "data": "",
}
_BASES: dict[Kind, type] = {
    "network": nn.Module,
    "activation": nn.Module,
    "optimizer": Optimizer,
    "schedule": LRScheduler,
    "annealing": Schedule,
}
_FUNCTIONS: tuple[Kind, ...] = ("model", "guide", "network", "data")


def find(
    name: str,
    kind: Kind,
    *,
    allow: Iterable[str] = (),
    files: Mapping[str, str] | None = None,
) -> Any:
    r"""The class or function of a name; nothing that is not allowed is imported.

    A name is short (``"VAE"``, see :func:`choices`), a dotted path to what the same modules
    export (``"torch.nn.Linear"``) or to what a package in ``allow`` defines, or a file in
    ``allow`` and what it defines (``"my_file.py:MyModel"``). While a file is imported, those
    beside it can be, after everything installed; only the file itself has a checksum.

    Arguments:
        name: The name.
        kind: What it is to name.
        allow: Packages, and paths that end in ``.py``, that may be imported.
        files: The sha256 that each file must have, by absolute path; by default any.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If the name is not a string.
        ValueError: If there is nothing of that name and kind, it is not allowed, or its file is
            not the recorded one or cannot be imported.

    Example:
        >>> find("Adam", "optimizer")
        <class 'torch.optim.adam.Adam'>
        >>> find("Load", "data")
        Traceback (most recent call last):
            ...
        ValueError: expected one of pyro_vae.data (load), got 'Load'; did you mean load?
    """
    known = choices(kind)
    if not isinstance(name, str):
        raise TypeError(f"expected the name of {_a(kind)}, got {name!r}")
    if (parts := split_file(name)) is not None:
        path, attribute = parts
        module = import_file(path, allow, files)
        return _defined(module, str(path), attribute, kind, module.__name__)

    if name.endswith(".py"):
        listed = ", ".join(defined_names(name)) or "a class or function of it"
        raise ValueError(
            f"expected {_a(kind)}, got the file {name}: write {name}:NAME, one of {listed}"
        )
    home, _, attribute = name.rpartition(".")
    if not home or home in HOMES[kind]:
        home = home or HOMES[kind][0]
        found = exported(home, kind) if home != HOMES[kind][0] else known
        if attribute not in found:
            raise ValueError(
                f"expected one of {home} ({', '.join(found)}), got {name!r}"
                f"{suggestion(attribute, found)}"
            )
        return found[attribute]
    return _in_package(name, home, attribute, kind, allow)


def full_name(name: str, kind: Kind) -> str:
    r"""A name in full: a dotted path, or an absolute path of a file and what it defines.

    Example:
        >>> full_name("VAE", "model")
        'pyro_vae.models.VAE'
    """
    if (parts := split_file(name)) is not None:
        return f"{parts[0]}:{parts[1]}"
    return name if "." in name else f"{HOMES[kind][0]}.{name}"


def _in_package(name: str, home: str, attribute: str, kind: Kind, allow: Iterable[str]) -> Any:
    packages = [entry for entry in allow if not entry.endswith(".py")]
    above = [entry for entry in packages if home == entry or home.startswith(f"{entry}.")]
    public = all(part.isidentifier() and not part.startswith("_") for part in name.split("."))
    if not above or not public:
        raise ValueError(
            f"expected {_a(kind)} that may be imported, got {name!r}: that is a name that "
            f"{' or '.join(HOMES[kind])} exports, or one below a package of yours that "
            "--allow PACKAGE names (in Python: allow=)"
        )
    try:
        module = import_module(home)
    except Exception as error:
        raise ValueError(
            f"expected to import {home}, for {name!r}, got {type(error).__name__}: {error}"
        ) from error
    return _defined(module, home, attribute, kind, *above)


def _defined(module: Any, where: str, name: str, kind: Kind, *packages: str) -> Any:
    r"""What a module defines under a name: neither what it imported nor another kind."""
    own = {
        other: value
        for other, value in vars(module).items()
        if not other.startswith("_")
        and _is(value, kind)
        and any(f"{value.__module__}.".startswith(f"{package}.") for package in packages)
    }
    if name not in own:
        wanted = "a class or function" if kind in _FUNCTIONS else "a class"
        of = f", of {_BASES[kind].__name__}s," if kind in _BASES else ""
        raise ValueError(
            f"expected {wanted}{of} that {where} defines ({', '.join(own) or 'there is none'}), "
            f"got {name!r}{suggestion(name, own)}"
        )
    return own[name]


def _is(value: Any, kind: Kind) -> bool:
    if isfunction(value):
        return kind in _FUNCTIONS
    return isclass(value) and issubclass(value, _BASES.get(kind, object))


def _a(kind: Kind) -> str:
    return f"{_ARTICLES.get(kind, 'a')} {kind}".strip()
