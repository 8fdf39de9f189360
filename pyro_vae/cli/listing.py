r"""``pyro-vae list``."""

__all__ = ["parser", "run"]

import inspect
import re
from collections.abc import Sequence
from difflib import get_close_matches

from jsonargparse import ArgumentParser
from rich.table import Table

from pyro_vae.cli.common import new_parser, show, show_json

# the kinds of parts under the names that they are listed by; those after None only if asked for
KINDS = {
    "models": "model",
    "guides": "guide",
    "objectives": "objective",
    "likelihoods": "likelihood",
    "networks": "network",
    "data": "data",
    "optimizers": "optimizer",
    "schedules": "schedule",
    "activations": "activation",
}
OURS = ("models", "guides", "objectives", "likelihoods", "networks", "data")


def parser() -> ArgumentParser:
    r"""The options of ``list``."""
    text = f"Say in a line each what there is. KIND is one of {', '.join(KINDS)}."
    found = new_parser("list", text, "[KIND] [OPTIONS]")
    found.add_argument("kind", nargs="?", type=str, default=None, help="by default all of ours")
    found.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    return found


def run(flags: Sequence[str]) -> int:
    r"""Lists what there is; returns the exit code."""
    options = parser().parse_args(list(flags))
    kinds = OURS if options.kind is None else (_kind(options.kind),)
    found = {kind: _described(kind) for kind in kinds}
    if options.json:
        show_json(found)
        return 0
    for kind, texts in found.items():
        table = Table(title=kind, title_justify="left", show_header=False, box=None)
        table.add_column(style="bold", overflow="fold")
        table.add_column(ratio=1)
        for name, text in texts.items():
            table.add_row(name, text)
        show(table, "")
    return 0


def _kind(name: str) -> str:
    known = {**{kind: kind for kind in KINDS}, **{one: kind for kind, one in KINDS.items()}}
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"expected a kind, one of {', '.join(KINDS)}, got {name!r}{hint}")
    return known[name]


def _described(kind: str) -> dict[str, str]:
    from pyro_vae.components import choices, summary

    if kind == "data":
        return _sources()
    part = KINDS[kind]
    return {name: summary(thing) for name, thing in choices(part).items()}  # type: ignore[arg-type]


def _sources() -> dict[str, str]:
    r"""What :func:`pyro_vae.data.load` takes, as the list in its docstring has it."""
    from pyro_vae.data import load

    text = inspect.getdoc(load) or ""
    items = re.split(r"\n- ", text.partition("\nArguments:")[0])[1:]
    found = {}
    for item in items:
        plain = re.sub(r":\w+:`([^`]*)`|\*\*", r"\1", " ".join(item.split()))
        head, _, rest = plain.replace("``", "").partition(":")
        short = len(head) < 60 and rest
        name = head.replace('"', "") if short else head.split(" ", 3)[-1]
        found[name if short else plain.split("``")[0][:0] or head] = rest.strip() if short else ""
    return found
