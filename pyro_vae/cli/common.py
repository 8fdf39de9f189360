r"""What commands share: options, floating types, and the way to the terminal."""

__all__ = [
    "CAPTURE",
    "PRODUCTS",
    "add_capture",
    "add_setting",
    "new_parser",
    "note",
    "only_json",
    "parse_plain",
    "precision",
    "say",
    "show",
    "show_json",
]

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from typing import Any, Literal, NoReturn, TextIO

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from rich.console import Console, RenderableType

from pyro_vae.cli.wording import Formatter, Seed, explained

Precision = Literal["float32", "float64"]

# where JSON goes while what others print is sent elsewhere
_STDOUT: ContextVar[TextIO] = ContextVar("stdout")


def new_parser(command: str, description: str, usage: str = "[OPTIONS]") -> ArgumentParser:
    r"""A parser for a command, which raises what is wrong."""
    return ArgumentParser(
        prog=f"pyro-vae {command}",
        usage=f"pyro-vae {command} {usage}",
        description=description,
        exit_on_error=False,
        formatter_class=Formatter,
    )


def add_setting(parser: ArgumentParser, seed: str, precision: Precision | None = None) -> None:
    r"""Adds the options that commands have in common.

    Arguments:
        parser: The parser of a command.
        seed: What the seed is of.
        precision: The floating type that is taken by default; ``None`` is the run's.
    """
    parser.add_argument("--seed", type=Seed, default=0, help=f"seed of {seed}")
    parser.add_argument("--device", default="auto", help="auto (CUDA if there is one), cpu, cuda")
    kind: Any = Precision | None if precision is None else Precision
    text = "floating type" if precision else "floating type (by default the run's)"
    parser.add_argument("--precision", type=kind, default=precision, help=text)
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else")


CAPTURE: Any = bool | Literal["auto"]
PRODUCTS: Any = Literal["float32", "bfloat16"]


def add_capture(parser: ArgumentParser, what: str) -> None:
    r"""Adds the option that says what runs as a compiled graph."""
    text = f"whether {what} run as a compiled graph (auto: where there are many)"
    parser.add_argument("--capture", type=CAPTURE, default="auto", help=text)


def parse_plain(parser: ArgumentParser, flags: Sequence[str]) -> Namespace:
    r"""Parses the flags of a command that has no parts to choose.

    Raises:
        ValueError: If one is unknown.
    """
    try:
        return parser.parse_args(list(flags))
    except ArgumentError as error:
        raise ValueError(explained(str(error), parser, {})) from error


@contextmanager
def precision(name: str) -> Iterator[None]:
    r"""Makes a floating type the default one."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError  # rich would exit with 1, which says that check found errors


def show(*things: RenderableType) -> None:
    r"""Prints tables and texts, as wide as the terminal allows."""
    console = _Console()
    for thing in things:
        console.print(thing, markup=False, highlight=False, soft_wrap=False)


def say(text: str) -> None:
    r"""Prints a text as it is."""
    sys.stdout.write(f"{text}\n")


def show_json(document: Mapping[str, Any]) -> None:
    r"""Prints a document as JSON."""
    text = json.dumps(document, indent=2, allow_nan=False)
    _STDOUT.get(sys.stdout).write(f"{text}\n")


@contextmanager
def only_json() -> Iterator[None]:
    r"""Sends what anything prints to the standard error, but for :func:`show_json`."""
    token = _STDOUT.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _STDOUT.reset(token)


def note(text: str) -> None:
    r"""Says on the standard error what the user should know and is no error."""
    with suppress(OSError):  # the terminal may be gone
        sys.stderr.write(f"pyro-vae: {' '.join(text.split())}\n")
