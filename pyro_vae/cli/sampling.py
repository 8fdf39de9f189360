r"""``pyro-vae sample``."""

__all__ = ["parser", "run"]

from collections.abc import Sequence

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from pyro_vae.cli.common import add_capture
from pyro_vae.cli.opened import add_out, open_run, run_parser


def parser() -> ArgumentParser:
    r"""The options of ``sample``."""
    text = "Draw data from a run's model: samples.npz, in the data's own units, and samples.png."
    found = run_parser("sample", text, "what is drawn")
    found.add_argument("--count", type=PositiveInt, default=64, help="draws")
    text = "means of the data given drawn latents, in place of draws"
    found.add_argument("--mean", action="store_true", help=text)
    add_capture(found, "batches")
    add_out(found)
    return found


def run(flags: Sequence[str]) -> int:
    r"""Draws samples; returns the exit code."""
    with open_run(parser(), flags) as opened:
        count, mean = opened.options["count"], opened.options["mean"]
        artist = opened.artist
        found = artist.samples(count, mean)
        arrays = found if isinstance(found, dict) else {"x": found}
        figures = {"samples": artist.draw_samples(found, mean)}
        opened.finish("samples", arrays, figures, {"count": count, "mean": mean})
    return 0
