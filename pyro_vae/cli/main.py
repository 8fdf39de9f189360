r"""The command line: it parses, calls and prints."""

__all__ = ["COMMANDS", "main", "top"]

import signal
import sys
import threading
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from pyro_vae import __version__

# the module of each in this package, and what it does: importing one may take seconds
COMMANDS = {
    "fit": ("fitting", "train a model and its guide, evaluate and draw them"),
    "evaluate": ("evaluating", "estimate a run's bound and evidence on data"),
    "sample": ("sampling", "draw data from a run's model"),
    "reconstruct": ("reconstructing", "encode and decode data"),
    "traverse": ("traversing", "move latent features, and decode them"),
    "encode": ("encoding", "latents of data, as arrays"),
    "check": ("checking", "say what is wrong with a model, a guide and data, before training"),
    "list": ("listing", "models, guides, objectives, likelihoods, networks and data there are"),
    "completion": ("completing", "print a script that completes commands in bash, zsh or tcsh"),
}


class Terminated(KeyboardInterrupt):
    r"""The process was asked to end by SIGTERM."""


def main(arguments: Sequence[str] | None = None) -> int:
    r"""Runs ``pyro-vae``.

    Returns:
        The exit code: 0; 1 if ``check`` found errors; 2 for an error of the user's, which is one
        line on the standard error; 130 after Ctrl-C and 143 after SIGTERM.

    Example:
        >>> main(["fit", "--model", "VAEE"])
        2
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _terminable(), warnings.catch_warnings():
            warnings.showwarning = _warn  # type: ignore[assignment]
            if words and words[0] in COMMANDS:
                module = import_module(f"pyro_vae.cli.{COMMANDS[words[0]][0]}")
                code: int = module.run(words[1:])
                return code
            _check_command(words)
            top().parse_args(words)
    except (ArgumentError, OSError, TypeError, ValueError) as error:
        _complain("error: " + _line(error))
        return 2
    except KeyboardInterrupt as error:
        terminated = isinstance(error, Terminated)
        _complain("terminated" if terminated else "interrupted")
        return 143 if terminated else 130
    return 0


def top() -> ArgumentParser:
    r"""The parser of what stands before a command, with commands that have no options yet."""
    parser = ArgumentParser(
        prog="pyro-vae",
        description="Trains and evaluates deep latent-variable models, written as Pyro programs.",
        exit_on_error=False,
        version=__version__,
    )
    commands = parser.add_subcommands(title="commands", metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        commands.add_subcommand(name, ArgumentParser(exit_on_error=False), help=text)
    return parser


def _check_command(words: Sequence[str]) -> None:
    name = next((word for word in words if not word.startswith("-")), None)
    if name is None and words:
        return
    near = get_close_matches(name or "", COMMANDS, n=1)
    got = "none" if name is None else repr(name)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"expected a command, one of {', '.join(COMMANDS)}, got {got}{hint}")


@contextmanager
def _terminable() -> Iterator[None]:
    r"""Has SIGTERM raise :class:`Terminated`, so that what is open is closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(*_: Any) -> NoReturn:
    raise Terminated


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror}"
    return " ".join(str(error).split())


def _warn(message: Warning | str, category: type[Warning], *_: Any) -> None:
    r"""Says what a library warns of as what is wrong is said: on one line, without its own."""
    _complain(f"warning: {' '.join(str(message).split())}")


def _complain(text: str) -> None:
    print(f"pyro-vae: {text}", file=sys.stderr)  # noqa: T201
