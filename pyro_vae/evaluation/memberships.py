r"""To which value of a site that the model sums out each datum belongs."""

__all__ = ["responsibilities"]

import torch
from torch import Tensor

from pyro_vae.counts import check_counts
from pyro_vae.data import Data
from pyro_vae.distributions import is_point
from pyro_vae.draws import Draw
from pyro_vae.evaluation.chunks import Largest, chunk_sizes
from pyro_vae.evaluation.fields import Rows, read
from pyro_vae.evaluation.generation import Cut, Device, Fields
from pyro_vae.evaluation.rows import check_rows
from pyro_vae.evaluation.setting import evaluating, parameter_dtype
from pyro_vae.layout import Layout, latent_sites, plate_dims
from pyro_vae.pair import Pair
from pyro_vae.programs import Program


def responsibilities(
    model: Program,
    guide: Program,
    *batch: Data | Rows,
    site: str | None = None,
    particles: int = 100,
    batch_size: int = 256,
    data_plate: str | None = None,
    device: Device = None,
    seed: int = 0,
) -> Tensor:
    r"""The posterior probabilities of a discrete site that the model sums out.

    .. math::
        r_{nk} = \frac{1}{S} \sum_{s=1}^S p(c_n = k \mid x_n, z_s), \qquad
        z_s \sim q(z \mid x)

    Given latents they are exact, and other sites that are summed out are summed out. Without
    latents, or with a point for each, so is :math:`r_{nk}`; otherwise it is an average over what
    the guide draws, which is as good as the guide is.

    Arguments:
        model, guide, batch: As for :func:`encode`. The guide of a model without other latents
            draws nothing.
        site: The name of the site, by default that of the only one that is summed out.
        particles: The number of draws :math:`S`.
        batch_size, data_plate, device, seed: As for :func:`encode`.

    Returns:
        The probabilities, with shape :math:`(N, K)`; of a site in more plates than the data's,
        these stand between :math:`N` and :math:`K`.

    Raises:
        TypeError: If the batch is no data.
        ValueError: If it has no rows, or rows that the programs do not take; if the model does
            not sum out such a site, in the data plate; if the data have no density at all.

    Example:
        >>> from pyro import poutine
        >>> from pyro.infer.autoguide import AutoDelta
        >>> from pyro_vae.models import BayesianGaussianMixture
        >>> model = BayesianGaussianMixture(features=2, n_components=3)
        >>> guide = AutoDelta(poutine.block(model, hide=["component"]))
        >>> responsibilities(model, guide, torch.randn(5, 2)).sum(1)
        tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000])
    """
    check_counts(particles=particles, batch_size=batch_size)
    fields = read(batch, seed, parameter_dtype(model, guide))
    with evaluating(model, guide, rows=fields, device=device, seed=seed) as place:
        pair = Pair(model, guide, data_plate)
        cut = Cut(fields, pair, batch_size, place)
        name = _name(cut.layout, site)
        return torch.cat([_averaged(pair, cut.layout, name, part, particles) for part in cut])


def _name(layout: Layout, site: str | None) -> str:
    known = sorted(layout.enumerated)
    if site in known or (site is None and len(known) == 1):
        return site or known[0]
    asked = "site=… to be one of them" if site is None else f"site={site!r} to be one of them"
    raise ValueError(
        f"expected {asked}, the sites that the model sums out, got {known or 'none'}: mark a "
        'discrete site infer={"enumerate": "parallel"} in the model, and draw it in no guide'
    )


def _averaged(pair: Pair, layout: Layout, name: str, batch: Fields, particles: int) -> Tensor:
    r"""The average over particles, with shape :math:`(N, *, K)`."""
    with Largest() as largest:
        draw = Draw(pair.model, pair.guide, batch, {}, layout)
        check_rows(draw.model_trace, layout.plate, batch[0].shape[0])
        total = _probabilities(draw, name)
    drawn = latent_sites(draw.guide_trace).values()
    if all(is_point(site["fn"]) for site in drawn):
        return total  # every particle would be the same
    rows = batch[0].shape[0]
    _, chunk = chunk_sizes(largest.elements // rows, rows, particles, rows, batch[0].device)
    for start in range(1, particles, chunk):
        number = min(chunk, particles - start)
        draw = Draw(pair.model, pair.guide, batch, {}, layout, number)
        total = total + number * _probabilities(draw, name)
    return total / particles


def _probabilities(draw: Draw, name: str) -> Tensor:
    r"""The mean over the particles of a draw, with the data first."""
    found = draw.posterior(name)
    if not bool((found.sum(-1) > 0.5).all()):  # it is one, or none, or NaN
        raise ValueError(
            "expected data with a density above zero for some value of "
            f"site {name!r}, got data without: take a prior under which none is impossible"
        )
    if draw.particles > 1:
        found = found.mean(0)
    dims = plate_dims(draw.model_trace.nodes[name])
    return found.movedim(dims[draw.layout.plate] - 1, 0) if draw.layout.plate else found
