r"""What a guide alone draws, and its densities at latents of other data."""

__all__ = ["across", "check_densities", "guide_draw", "local_sites", "log_densities", "rows_of"]

from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_vae.distributions import is_point
from pyro_vae.draws import Draw
from pyro_vae.evaluation.rows import Given, check_rows, data_first
from pyro_vae.layout import Layout, Site, latent_sites, plate_dims
from pyro_vae.pair import Pair

Batch = tuple[Tensor, ...]


def guide_draw(pair: Pair, layout: Layout, batch: Batch, particles: int) -> Draw:
    r"""A draw of the guide, in which no model runs."""
    return Draw(_nothing, pair.guide, batch, {}, layout, particles)


def _nothing(*_: Tensor) -> None:
    pass


def local_sites(draw: Draw, purpose: str) -> dict[str, Site]:
    r"""The model's latents of each datum, as the guide draws them.

    Arguments:
        draw: A draw.
        purpose: What they are wanted for, as errors say it.

    Raises:
        ValueError: If there is no data plate, if its size is not the batch's, or if there are none.
    """
    plate = draw.layout.plate
    if plate is None:
        raise ValueError(
            f"expected a data plate, in which each datum has latents of its own, for {purpose}, "
            'got none: put the statements into `with pyro.plate("data", x.shape[0])`, or give '
            "data_plate="
        )
    check_rows(draw.guide_trace, plate, draw.batch_size)
    sites = latent_sites(draw.guide_trace)
    own = {n: s for n, s in sites.items() if not s["infer"].get("is_auxiliary")}
    local = {name: site for name, site in own.items() if not draw.is_shared(name)}
    if not local:
        found = f"{sorted(own)} outside the data plate {plate!r}" if own else "none"
        raise ValueError(
            f"expected a guide that draws latents of each datum, for {purpose}, got {found}: ask "
            "for other metrics"
        )
    return local


def check_densities(draw: Draw, purpose: str) -> None:
    r"""Raises unless the guide's densities at latents of other data are those of all it draws.

    Arguments:
        draw: A draw.
        purpose: What the densities are wanted for, as errors say it.

    Raises:
        ValueError: If there are global latents, point estimates, helpers or a scale: names the
            sites.
    """
    local, sites = local_sites(draw, purpose), latent_sites(draw.guide_trace)
    both = [*sites.items(), *latent_sites(draw.model_trace).items()]
    scaled = {n for n, s in both if bool((torch.as_tensor(draw.scale(s)) != 1).any())}
    wrong = {
        "outside the data plate": [name for name in sites if draw.is_shared(name)],
        "that the model does not have": [name for name in sites if name not in local],
        "that have no density": [n for n, s in local.items() if is_point(s["fn"])],
        "under poutine.scale": scaled,
    }
    for words, names in wrong.items():
        if names:
            raise ValueError(
                f"expected a guide that draws each datum's latents from densities, for {purpose}, "
                f"got the sites {sorted(names)} {words}: ask for other metrics"
            )


def rows_of(values: Tensor, site: Site, draw: Draw) -> Tensor:
    r"""What a site has for each datum and particle, with shape :math:`(N, K, D)`."""
    first = data_first(values, site, draw.layout.plate)
    return first.reshape(draw.batch_size, draw.particles, -1)


def across(draw: Draw, site: Site) -> Tensor:
    r"""A site's draws of all data as particles, which any data can be given.

    Their shape is :math:`(N K, *)`: datum by datum, with a dimension of size 1 where the data
    plate stands. There are several particles.
    """
    dim = plate_dims(site)[draw.layout.plate or ""] - site["fn"].event_dim
    return site["value"].movedim(dim, 0).flatten(0, 1).unsqueeze(dim)


def log_densities(
    pair: Pair, layout: Layout, batch: Batch, values: Mapping[str, Tensor], dims: Mapping[str, int]
) -> Tensor:
    r"""The densities of latents given each of some data, :math:`\log q(z_i \mid x_j)`.

    The guide runs with the latents in the place of particles: sites keep their parents.

    Arguments:
        pair: The model and the guide.
        layout: Their structure.
        batch: What the guide is called with, :math:`J` data.
        values: The latents by site, :math:`I` of those that :func:`across` returns.
        dims: Where the data plate stands in them.

    Returns:
        The densities, with shape :math:`(I, J)`.
    """
    rows, count = batch[0].shape[0], next(iter(values.values())).shape[0]
    placed = {}
    for name, value in values.items():
        shape = list(value.shape)
        shape[dims[name]] = rows
        placed[name] = value.expand(shape)
    draw = Draw(_nothing, Given(placed)(pair.guide), batch, {}, layout, count)
    return draw.combine(draw.log_guide.items())
