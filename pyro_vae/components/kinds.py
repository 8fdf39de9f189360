r"""Kinds of parts, and what there is of each under a short name."""

__all__ = ["HOMES", "Kind", "choices", "exported", "suggestion"]

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from inspect import Parameter, isabstract, isclass, isfunction, signature
from typing import Any, Literal, get_args

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_vae.nn import FACTS

Kind = Literal[
    "model",
    "guide",
    "objective",
    "likelihood",
    "network",
    "activation",
    "optimizer",
    "schedule",
    "annealing",
    "data",
]

# short names are those of the first home
HOMES: dict[Kind, tuple[str, ...]] = {
    "model": ("pyro_vae.models",),
    "guide": ("pyro_vae.guides",),
    "objective": ("pyro_vae.objectives",),
    "likelihood": ("pyro_vae.likelihoods",),
    "network": ("pyro_vae.nn", "torch.nn"),
    "activation": ("torch.nn",),
    "optimizer": ("torch.optim",),
    "schedule": ("torch.optim.lr_scheduler",),
    "annealing": ("pyro_vae.schedules",),
    "data": ("pyro_vae.data",),
}

_BASES: dict[str, type] = {
    "torch.nn": nn.Module,
    "torch.optim": Optimizer,
    "torch.optim.lr_scheduler": LRScheduler,
}


def choices(kind: Kind) -> dict[str, Any]:
    r"""The parts of a kind by short name: classes, or functions that make networks or data.

    Raises:
        ValueError: If there is no such kind.

    Example:
        >>> list(choices("data"))
        ['load']
        >>> choices("network")["mlp"](2, 3, hidden=())
        Sequential(
          (0): Linear(in_features=2, out_features=3, bias=True)
        )
    """
    if kind not in get_args(Kind):
        raise ValueError(f"expected a kind, one of {', '.join(get_args(Kind))}, got {kind!r}")
    return dict(exported(HOMES[kind][0], kind))


@cache
def exported(home: str, kind: Kind) -> dict[str, Any]:
    r"""What a module of the allow-list exports of a kind, by name in alphabetical order."""
    module = import_module(home)
    names = getattr(module, "__all__", vars(module))
    found: dict[str, Any] = {
        name: getattr(module, name, None) for name in names if not name.startswith("_")
    }
    if home in _BASES:
        base = _BASES[home]
        parts = {n: c for n, c in found.items() if isclass(c) and _is_torch(c, base)}
        if kind == "activation":
            parts = {n: c for n, c in parts.items() if _is_activation(c)}
    elif kind == "data":
        parts = {"load": found["load"]}
    else:
        parts = {n: p for n, p in found.items() if _is_ours(p, kind)}
    return dict(sorted(parts.items()))


def suggestion(name: str, names: Iterable[str]) -> str:
    r"""The end of an error's line: which of the names was meant, if one is close.

    Example:
        >>> suggestion("VAEE", ["HVAE", "VAE"])
        '; did you mean VAE?'
    """
    folded = {other.casefold(): other for other in names}
    near = get_close_matches(name.casefold(), folded, n=1)
    return f"; did you mean {folded[near[0]]}?" if near else ""


def _is_torch(found: type, base: type) -> bool:
    return issubclass(found, base) and found is not base and found.__module__.startswith("torch.")


def _is_activation(found: type) -> bool:
    r"""Whether torch counts a module among the activations, and it is made of nothing."""
    variadic = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return found is nn.Identity or (
        found.__module__ == "torch.nn.modules.activation"
        and all(
            parameter.default is not Parameter.empty or parameter.kind in variadic
            for parameter in signature(found).parameters.values()
        )
    )


def _is_ours(found: Any, kind: Kind) -> bool:
    r"""Whether something is a class to build, or makes networks: no protocol, no mere tuple."""
    if not getattr(found, "__module__", "").startswith("pyro_vae."):
        return False
    if isclass(found):
        abstract = getattr(found, "_is_protocol", False) or isabstract(found)
        return not abstract and not issubclass(found, tuple)
    if kind != "network" or not isfunction(found):
        return False
    made = found.__annotations__.get("return")
    needed = {
        name
        for name, parameter in signature(found).parameters.items()
        if parameter.default is Parameter.empty
    }
    return isclass(made) and issubclass(made, nn.Module) and needed <= set(FACTS)
