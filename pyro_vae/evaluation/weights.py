r"""Whether the weights of a pair are importance weights of each datum's evidence."""

__all__ = ["check_local", "check_scales", "check_weights"]

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine

from pyro_vae.distributions import is_point
from pyro_vae.draws import Draw
from pyro_vae.layout import Layout, Site, latent_sites, sample_sites
from pyro_vae.objectives.weights import is_scaled
from pyro_vae.programs import Program


def check_weights(draw: Draw, guide: Program, args: tuple[Any, ...], purpose: str) -> None:
    r"""Raises where the mean of a datum's weights is not its evidence.

    Arguments:
        draw: A draw of the pair.
        guide: The guide.
        args: What it was called with.
        purpose: What is asked for, as errors name it.

    Raises:
        ValueError: If there are global latents, a scale, or a guide site that is a point
            estimate: names the site.
    """
    check_local(draw.layout)
    check_scales(draw)
    if points := _point_estimates(latent_sites(draw.guide_trace), guide, args):
        raise ValueError(
            f"expected a guide that draws every latent for {purpose}, got point estimates "
            f"at {points}: a Delta has no density to weigh with; ask for metrics=('elbo',)"
        )


def check_local(layout: Layout) -> None:
    r"""Raises if there are latents that all data share: then no datum has evidence of its own."""
    if layout.shared:
        raise ValueError(
            f"expected local latents only for the evidence of data, got {sorted(layout.shared)} "
            f"outside the data plate {layout.plate!r}: the evidence of data that share "
            "latents is no sum over data; ask for metrics=('elbo',)"
        )


def check_scales(draw: Draw) -> None:
    r"""Raises where a ``poutine.scale`` makes densities none."""
    for trace in (draw.guide_trace, draw.model_trace):
        for name, site in sample_sites(trace).items():
            if is_scaled(draw, site) and bool((torch.as_tensor(draw.scale(site)) != 1).any()):
                raise ValueError(
                    f"expected no poutine.scale for the evidence of data, got {draw.scale(site)} "
                    f"at site {name!r}: scaled densities are no densities; evaluate the programs "
                    "without the scale, or ask for metrics=('elbo',)"
                )


def _point_estimates(sites: Mapping[str, Site], guide: Program, args: tuple[Any, ...]) -> list[str]:
    r"""The Delta sites that are no function of a random one: a second draw is the same."""
    deltas = sorted(name for name, site in sites.items() if is_point(site["fn"]))
    again = latent_sites(poutine.trace(guide).get_trace(*args)) if deltas else {}
    return [name for name in deltas if torch.equal(sites[name]["value"], again[name]["value"])]
