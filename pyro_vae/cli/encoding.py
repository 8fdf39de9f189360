r"""``pyro-vae encode``."""

__all__ = ["parser", "run"]

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from pyro_vae.cli.common import add_capture
from pyro_vae.cli.opened import add_out, open_run, run_parser


def parser() -> ArgumentParser:
    r"""The options of ``encode``."""
    text = "Means of the latents of data: latents.npz, in the data's order, and latents.png."
    found = run_parser("encode", text, "dynamic binarisation")
    add_capture(found, "batches")
    add_out(found)
    return found


def run(flags: Sequence[str]) -> int:
    r"""Encodes data; returns the exit code."""
    with open_run(parser(), flags) as opened:
        from pyro_vae.cli.pictures import MANY

        artist = opened.artist
        codes = artist.codes()
        labels = artist.fields.get("y")
        arrays = {**({} if labels is None or "y" in codes else {"y": labels}), **codes}
        shown = artist.order[:MANY]
        some = {n: code[shown] for n, code in codes.items() if len(code) == len(artist.order)}
        figures = {"latents": artist.draw_latents(some, None if labels is None else labels[shown])}
        shapes = {name: list(code.shape) for name, code in codes.items()}
        facts = {"split": opened.options["split"], "shapes": shapes}
        opened.finish("latents", arrays, figures, facts)
    return 0
