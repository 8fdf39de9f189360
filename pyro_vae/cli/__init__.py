r"""The command line: it parses, calls and prints."""

from pyro_vae.cli.main import main as main
