r"""``pyro-vae list``."""

__all__ = ["parser", "run"]

import inspect
import re
from collections.abc import Sequence
from difflib import get_close_matches

from jsonargparse import ArgumentParser
from rich.table import Table

from pyro_vae.cli.common import new_parser, parse_plain, say, show, show_json

# the kinds of parts under the names that they are listed by
KINDS = {
    "models": "model",
    "guides": "guide",
    "objectives": "objective",
    "likelihoods": "likelihood",
    "networks": "network",
    "data": "data",
    "optimizers": "optimizer",
    "schedules": "schedule",
    "annealings": "annealing",
    "activations": "activation",
}
PATHS = ("path", "pattern", "folder")
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
    options = parse_plain(parser(), flags)
    kinds = OURS if options.kind is None else (_kind(options.kind),)
    found = {kind: _described(kind) for kind in kinds}
    if options.json:
        show_json(found)
        return 0
    for kind, texts in found.items():
        table = Table(title=kind, title_justify="left", show_header=False, box=None)
        table.add_column(style="bold", max_width=30, overflow="fold")
        table.add_column(ratio=1, overflow="fold")
        for name, text in texts.items():
            table.add_row(name, text)
        show(table, "")
    if options.kind is None:
        others = [kind for kind in KINDS if kind not in OURS]
        say(f"There is more: pyro-vae list {', '.join(others[:-1])} or {others[-1]}")
    return 0


def _kind(name: str) -> str:
    known = {**{kind: kind for kind in KINDS}, **{one: kind for kind, one in KINDS.items()}}
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"expected a kind, one of {', '.join(KINDS)}, got {name!r}{hint}")
    return known[name]


def _described(kind: str) -> dict[str, str]:
    from pyro_vae.components import bias, choices, summary

    if kind == "data":
        return _sources()
    part = KINDS[kind]
    found = choices(part)  # type: ignore[arg-type]
    return {n: " ".join(filter(None, (summary(p), bias(p)))) for n, p in found.items()}


def _sources() -> dict[str, str]:
    r"""What :func:`pyro_vae.data.load` takes of names and paths, as its docstring lists them."""
    from pyro_vae.data import NAMES, load

    listed = (inspect.getdoc(load) or "").partition("\nArguments:")[0]
    found: dict[str, str] = {}
    for item in re.split(r"\n- ", listed)[1:]:
        text = re.sub(
            r" \(see [^)]*\)| \(``pyro_vae[^)]*\)|\*\*|``",
            "",
            " ".join(item.split("\n\n")[0].split()),
        )
        head, colon, rest = text.partition(": ")
        if text.startswith('"') and colon:
            known = ", ".join(found).split(", ")
            others = [name for name in NAMES if name not in known]
            name = ", ".join(others) if "…" in head else head.replace('"', "")
            found[name] = re.split(r"[.;] ", rest, maxsplit=1)[0].rstrip(".")
        elif (words := text.split())[1] in PATHS:
            found[words[1]] = " ".join(words[2:]).rstrip(".")
    return found
