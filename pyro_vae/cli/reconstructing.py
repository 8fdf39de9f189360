r"""``pyro-vae reconstruct``."""

__all__ = ["parser", "run"]

from collections.abc import Sequence

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from pyro_vae.cli.common import add_capture
from pyro_vae.cli.opened import add_out, open_run, run_parser


def parser() -> ArgumentParser:
    r"""The options of ``reconstruct``."""
    text = "Encode and decode data: reconstructions.npz, in their own units, and a .png."
    found = run_parser("reconstruct", text, "which data")
    found.add_argument("--count", type=PositiveInt, default=16, help="data, drawn at random")
    add_capture(found, "batches")
    add_out(found)
    return found


def run(flags: Sequence[str]) -> int:
    r"""Reconstructs data; returns the exit code."""
    with open_run(parser(), flags) as opened:
        artist, options = opened.artist, opened.options
        data, found = artist.reconstructions(options["count"])
        rows = artist.order[: options["count"]]
        arrays = {"data": data, "reconstruction": found, "row": rows}
        figures = {"reconstructions": artist.draw_reconstructions(data, found)}
        facts = {"split": options["split"], "count": len(rows)}
        opened.finish("reconstructions", arrays, figures, facts)
    return 0
