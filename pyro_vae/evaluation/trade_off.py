r"""What the last nat in the latents buys: the weight of the divergence that a guide behaves by."""

__all__ = ["FIT", "trade_off"]

import math
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.capturable import Mode
from pyro_vae.draws import Draw
from pyro_vae.evaluation.chunks import Largest, batches, chunk_sizes, few
from pyro_vae.evaluation.encoded import local_sites
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.free import Freed, offsets_of
from pyro_vae.layout import Layout, Site, latent_sites, plate_dims
from pyro_vae.pair import Pair

FIT = 0.5  # below it, the greater part of the gradients is not opposed
_DRAWS = 16  # each with a gradient of its own, so that products of them are unbiased

Fields = tuple[Tensor, ...]


def trade_off(
    pair: Pair,
    fields: Fields,
    place: torch.device,
    *,
    particles: int,
    batch_size: int | None,
    data_size: int,
    seed: int,
    capture: Mode,
) -> dict[str, Estimate]:
    r"""What one more nat of rate would save in distortion, as the guide stands.

    .. math::
        \hat \beta = - \frac{\langle \nabla D, \nabla R \rangle}{\langle \nabla R, \nabla R \rangle}
        \qquad R = \mathbb{E}_x \text{KL}(q(z \mid x) \| p(z)) \qquad
        D = -\mathbb{E}_x \mathbb{E}_{q(z \mid x)} \log p(x \mid z)

    Where each posterior is the best of its family for :math:`D + \beta R`, the gradients cancel,
    and :math:`\hat \beta` is that :math:`\beta`, which need not be known: 1 for the ELBO, more
    where latents are pressed to the prior, less where they are not. That holds of any family, of
    several sites, and whatever the prior has learned. The gradients are those for shifts that all
    data share of a parameter of the guide's distributions, mapped to real numbers, as (nearly) the
    last bias of an encoder makes them: then they cancel on average where an encoder is trained,
    though it misses the best of single data.

    ``trade_off.fit`` says whether any :math:`\beta` cancels them: it is 1 there, the squared cosine
    of the angle between :math:`\nabla D` and :math:`-\nabla R`, with its sign. Where it is far
    below, the guide minimises no such sum, and ``trade_off`` tells nothing. Of the parameters of
    a guide that for which it is at least a half and :math:`\hat \beta` the surest is taken, most
    often a scale: shifts of a location hardly change :math:`R`, if encodings surround the prior's
    mean already.

    Products are of gradients from different draws, which makes them unbiased. The error is
    the jackknife's over draws. Where the guide is the prior, there is no gradient of
    :math:`R`, and the figure is noise, as its error tells.

    Arguments:
        pair, fields, place, batch_size, data_size, seed: As for :func:`pyro_vae.evaluate`.
        particles: The number of particles, those of 16 draws together.
        capture: Nothing is captured.

    Raises:
        ValueError: If there is no data plate or no latent inside; if a guide site is not
            reparametrised, or no site has parameters of its own.

    References:
        | Fixing a Broken ELBO (Alemi et al., 2018)
        | https://arxiv.org/abs/1711.00464

    Example:
        >>> from pyro_vae.evaluation.setting import evaluating
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> x, model, guide = torch.eye(4), VAE((4,), 2), AmortizedNormal((4,), {"z": 2})
        >>> with evaluating(model, guide, rows=(x,)) as place:
        ...     found = trade_off(
        ...         Pair(model, guide), (x,), place, particles=64, batch_size=None, data_size=4,
        ...         seed=0, capture=False)
        >>> list(found)
        ['trade_off', 'trade_off.fit']
    """
    rows = few(fields, place, batch_size)
    layout = pair.plan(rows, {}).layout
    with Largest() as largest:
        draw = pair.draw(rows, {}, data_size=data_size)
        local_sites(draw, "the trade-off of rate and distortion")
        elements = math.ceil(largest.elements / draw.batch_size)
    if not offsets_of(latent_sites(draw.guide_trace)):
        raise ValueError(
            "expected a guide that draws latents, for the trade-off of rate and distortion, got "
            "points only: ask for other metrics"
        )
    each = math.ceil(particles / _DRAWS)
    size, _ = chunk_sizes(elements, fields[0].shape[0], each, batch_size, place)
    pyro.set_rng_seed(seed)  # whatever was drawn so far
    sums: dict[str, Tensor] = {}
    for batch in batches(fields, size, place):
        draws = [_gradients(pair, layout, batch, each, data_size) for _ in range(_DRAWS)]
        for name in draws[0]:
            found = torch.stack([draw[name] for draw in draws]).double().cpu()  # (S, 2, P)
            sums[name] = sums[name] + found if name in sums else found
    figures = [_figures(found, seed) for found in sums.values()]
    return min(figures, key=_doubt)


def _doubt(figures: Mapping[str, Estimate]) -> tuple[bool, float]:
    r"""How little a parameter tells: first those that fit none, then the most uncertain."""
    weight, fit = figures["trade_off"], figures["trade_off.fit"].value
    error = weight.stderr / max(abs(weight.value), 1.0)
    return not fit > FIT, math.inf if math.isnan(error) else error


def _gradients(
    pair: Pair, layout: Layout, batch: Fields, particles: int, data_size: int
) -> dict[str, Tensor]:
    r"""Gradients of distortion and rate by parameter, summed over data, with shape (2, P)."""
    sites = latent_sites(Draw(pair.model, pair.guide, batch, {}, layout).guide_trace)
    free = {name: _leaves(named) for name, named in offsets_of(sites).items()}
    keys = [(site, name) for site, named in free.items() for name in named]
    with torch.enable_grad():
        program = Freed(free)(pair.guide)
        draw = Draw(pair.model, program, batch, {}, layout, particles, data_size)
        rate = draw.combine(draw.log_guide.items()) - draw.combine(draw.log_prior.items())
        both = [term.mean(0).sum() for term in (-draw.log_likelihood, rate)]
    leaves: Any = [free[site][name] for site, name in keys]
    gradients = [
        torch.autograd.grad(term, leaves, retain_graph=True, materialize_grads=True)
        for term in both
    ]
    return {
        ".".join(key): torch.stack(
            [_over_data(part[i], sites[key[0]], layout) for part in gradients]
        )
        for i, key in enumerate(keys)
    }


def _leaves(offsets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: offset.clone().requires_grad_() for name, offset in offsets.items()}


def _over_data(gradient: Tensor, site: Site, layout: Layout) -> Tensor:
    r"""A parameter's gradient, summed over data, as a vector."""
    dim = plate_dims(site).get(layout.plate or "")
    if dim is not None:  # counted from the left: a parameter may have more dimensions
        gradient = gradient.sum(len(site["fn"].batch_shape) + dim)
    return gradient.flatten()


def _figures(gradients: Tensor, seed: int) -> dict[str, Estimate]:
    r"""The figures from products over pairs of different draws, with errors by the jackknife."""
    products = torch.einsum("sip,tjp->ijst", gradients, gradients)
    products.diagonal(dim1=-2, dim2=-1).zero_()

    def of(kept: Tensor) -> Tensor:
        both = products[..., kept, :][..., kept].sum((-2, -1))
        distortion, rate, cross = both[0, 0], both[1, 1], both[0, 1]
        return torch.stack([-cross / rate, cross * cross.abs() / (distortion * rate)])

    draws = torch.arange(len(gradients))
    value = of(draws)
    left = torch.stack([of(draws[draws != s]) for s in draws])
    errors = ((len(draws) - 1) * left.var(0, correction=0)).sqrt()
    return {
        "trade_off": _estimate(value[0], errors[0], "nats per nat", seed),
        "trade_off.fit": _estimate(-value[1], errors[1], "", seed),
    }


def _estimate(value: Tensor, error: Tensor, unit: str, seed: int) -> Estimate:
    return Estimate(float(value), float(error), math.nan, None, unit, seed)
