r"""``pyro-vae completion``."""

__all__ = ["parser", "run"]

from collections.abc import Sequence
from importlib import import_module

from jsonargparse import ArgumentParser

from pyro_vae import __version__
from pyro_vae.cli.common import new_parser, parse_plain, say

SHELLS = ("bash", "zsh", "tcsh")


def parser() -> ArgumentParser:
    r"""The options of ``completion``."""
    text = (
        "Print a script that completes commands and flags. For bash: "
        'eval "$(pyro-vae completion bash)" in ~/.bashrc.'
    )
    found = new_parser("completion", text, "SHELL")
    # optional to the parser, which would not say what it may be
    text = ", ".join(SHELLS)
    found.add_argument("shell", nargs="?", type=str, metavar="SHELL", help=text)
    return found


def run(flags: Sequence[str]) -> int:
    r"""Prints the script; returns the exit code."""
    shell = parse_plain(parser(), flags).shell
    if shell not in SHELLS:
        got = "none" if shell is None else repr(shell)
        raise ValueError(f"expected a shell, one of {', '.join(SHELLS)}, got {got}")
    say(_whole().get_completion_script(f"shtab-{shell}"))
    return 0


def _whole() -> ArgumentParser:
    r"""The parser of all commands, with the options of the parts that are taken by default."""
    from pyro_vae.cli.main import COMMANDS
    from pyro_vae.cli.opened import DATA
    from pyro_vae.cli.options import PARTS, add_parts

    found = ArgumentParser(prog="pyro-vae", exit_on_error=False, version=__version__)
    commands = found.add_subcommands()
    for name, (module, text) in COMMANDS.items():
        one: ArgumentParser = import_module(f"pyro_vae.cli.{module}").parser()
        if name in ("fit", "check"):
            add_parts(one, parts=PARTS)
        elif name not in ("list", "completion"):
            add_parts(one, parts=DATA)
        commands.add_subcommand(name, one, help=text)
    return found
