r"""``pyro-vae completion``."""

__all__ = ["parser", "run"]

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Literal

from jsonargparse import ArgumentParser

from pyro_vae import __version__
from pyro_vae.cli.common import new_parser, say


def parser() -> ArgumentParser:
    r"""The options of ``completion``."""
    text = (
        "Print a script that completes commands and flags. For bash: "
        'eval "$(pyro-vae completion bash)" in ~/.bashrc.'
    )
    found = new_parser("completion", text, "SHELL")
    shells: Any = Literal["bash", "zsh", "tcsh"]
    found.add_argument("shell", type=shells, help="the shell")
    return found


def run(flags: Sequence[str]) -> int:
    r"""Prints the script; returns the exit code."""
    options = parser().parse_args(list(flags))
    say(_whole().get_completion_script(f"shtab-{options.shell}"))
    return 0


def _whole() -> ArgumentParser:
    r"""The parser of all commands, with the options of the parts that are taken by default."""
    from pyro_vae.cli.main import COMMANDS
    from pyro_vae.cli.options import PARTS, add_parts

    found = ArgumentParser(prog="pyro-vae", exit_on_error=False, version=__version__)
    commands = found.add_subcommands()
    for name, (module, text) in COMMANDS.items():
        one: ArgumentParser = import_module(f"pyro_vae.cli.{module}").parser()
        if name in ("fit", "check"):
            add_parts(one, parts=PARTS)
        commands.add_subcommand(name, one, help=text)
    return found
