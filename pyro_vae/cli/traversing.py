r"""``pyro-vae traverse``."""

__all__ = ["parser", "run"]

from collections.abc import Sequence

from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt
from rich.table import Table

from pyro_vae.cli.opened import add_out, open_run, run_parser


def parser() -> ArgumentParser:
    r"""The options of ``traverse``."""
    text = (
        "Move latent features and decode them: one row each, in the order of their divergence "
        "from the prior, and a plane of two. Writes traversals.npz, traversals.png, plane.png."
    )
    found = run_parser("traverse", text, "which datum, and of draws for the divergences")
    for flag, kind, default, text in (
        ("--datum", NonNegativeInt, 0, "whose latents are moved, in random order"),
        ("--extent", PositiveFloat, 3.0, "how far rows reach, in standard deviations of the prior"),
        ("--steps", PositiveInt, 11, "values in a row"),
        ("--side", PositiveInt, 15, "values along each side of the plane"),
    ):
        found.add_argument(flag, type=kind, default=default, help=text)
    add_out(found)
    return found


def run(flags: Sequence[str]) -> int:
    r"""Traverses a run's latents; returns the exit code."""
    with open_run(parser(), flags) as opened:
        artist = opened.artist
        names = ("datum", "extent", "steps", "side")
        found = artist.traversal(**{name: opened.options[name] for name in names})
        table = Table(title="Latent features")
        for name in ("feature", "KL from the prior, nats"):
            table.add_column(name, justify="right" if "KL" in name else "left")
        for feature in found.features:
            table.add_row(str(feature), f"{feature.kl:.3f}")
        features = [{"site": f.site, "index": f.index, "kl": f.kl} for f in found.features]
        arrays = {
            "features": [str(feature) for feature in found.features],
            "kl": [feature.kl for feature in found.features],
            "values": found.values,
            "means": found.means,
        }
        if found.plane is not None:
            arrays["plane_features"] = [str(feature) for feature in found.plane.features]
            arrays["plane_values"] = found.plane.values
            arrays["plane_means"] = found.plane.means
        figures = artist.draw_traversal(found)
        opened.finish("traversals", arrays, figures, {"features": features}, table)
    return 0
