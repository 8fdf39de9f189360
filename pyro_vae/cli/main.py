r"""The command line: it parses, calls and prints."""

__all__ = ["COMMANDS", "main", "top"]

import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from pyro_vae import __version__
from pyro_vae.cli.common import only_json

# the module of each in this package, and what it does: importing one may take seconds
COMMANDS = {
    "fit": ("fitting", "train a model and its guide, evaluate and draw them"),
    "em": ("mixing", "fit a mixture by expectation-maximisation, evaluate and draw it"),
    "evaluate": ("evaluating", "estimate a run's bound and evidence on data"),
    "diagnose": ("diagnosing", "say in plain words what is wrong with a run, and what to try"),
    "sample": ("sampling", "draw data from a run's model"),
    "reconstruct": ("reconstructing", "encode and decode data"),
    "traverse": ("traversing", "move latent features, and decode them"),
    "encode": ("encoding", "latents of data, as arrays"),
    "check": ("checking", "say what is wrong with a model, a guide and data, before training"),
    "list": ("listing", "models, guides, objectives, likelihoods, networks and data there are"),
    "completion": ("completing", "print a script that completes commands in bash, zsh or tcsh"),
}


TRACEBACK = "PYRO_VAE_TRACEBACK"

_ADVICE = {
    errno.ENOSPC: "free some, or take another disk",
    errno.EDQUOT: "free some, or take another disk",
    errno.EACCES: "take a place that you may write to",
    errno.EROFS: "take a place that can be written to",
    errno.EEXIST: "take another place",
    errno.ENOTDIR: "take another place",
}


class Terminated(KeyboardInterrupt):
    r"""The process was asked to end by SIGTERM or SIGHUP, whose number is the argument."""


def main(arguments: Sequence[str] | None = None) -> int:
    r"""Runs ``pyro-vae``.

    Returns:
        The exit code: 0; 1 if ``check`` found errors; 2 for an error of the user's, which is one
        line on the standard error; 130 after Ctrl-C, 143 after SIGTERM and 129 after SIGHUP, and
        141 where nobody reads what is printed.

    Example:
        >>> main(["fit", "--model", "VAEE"])
        2
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _terminable(), _read(), warnings.catch_warnings():
            warnings.showwarning = _warn  # type: ignore[assignment]
            with only_json() if "--json" in words else nullcontext():
                return _run(words)
    except BrokenPipeError:
        return 141
    except Exception as error:
        if os.environ.get(TRACEBACK) == "1":
            traceback.print_exc()
        _complain("error: " + _line(error))
        return 2
    except KeyboardInterrupt as error:
        terminated = isinstance(error, Terminated)
        _complain("terminated" if terminated else "interrupted")
        return 128 + (error.args[0] if terminated else signal.SIGINT)


def _run(words: Sequence[str]) -> int:
    if words and words[0] in COMMANDS:
        module = import_module(f"pyro_vae.cli.{COMMANDS[words[0]][0]}")
        code: int = module.run(words[1:])
        return code
    _check_command(words)
    top().parse_args(words)
    return 0


def top() -> ArgumentParser:
    r"""The parser of what stands before a command, with commands that have no options yet."""
    parser = ArgumentParser(
        prog="pyro-vae",
        description=(
            "Trains and evaluates deep latent-variable models, written as Pyro programs. "
            f"An error is one line; with {TRACEBACK}=1 in the environment, also a traceback."
        ),
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
    r"""Has SIGTERM and SIGHUP raise :class:`Terminated`, so that what is open is closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM]
    # where there is one, and nohup does not have it ignored
    if signal.getsignal(hangup := getattr(signal, "SIGHUP", signal.SIGTERM)) != signal.SIG_IGN:
        numbers.append(hangup)
    before = {number: signal.signal(number, _terminate) for number in dict.fromkeys(numbers)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, *_: Any) -> NoReturn:
    raise Terminated(number)


@contextmanager
def _read() -> Iterator[None]:
    r"""Raises where nobody reads what was printed, of which Python would only complain at exit."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # what is left goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        advice = f"; {_ADVICE[error.errno]}" if error.errno in _ADVICE else ""
        return f"{where}{error.strerror}{advice}"
    text = " ".join(str(error).split())
    if isinstance(error, ArgumentError | OSError | TypeError | ValueError):
        return text
    return (
        f"expected parts that work together, got {type(error).__name__}: {text} "
        f"({TRACEBACK}=1 shows where)"
    )


def _warn(message: Warning | str, category: type[Warning], *_: Any) -> None:
    r"""Says what a library warns of as what is wrong is said: on one line, without its own."""
    _complain(f"warning: {' '.join(str(message).split())}")


def _complain(text: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        print(f"pyro-vae: {text}", file=sys.stderr)  # noqa: T201
