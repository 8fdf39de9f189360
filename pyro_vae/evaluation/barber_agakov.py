r"""What data tell of latents under the model: a lower bound, by the guide."""

__all__ = ["barber_agakov"]

import math

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.capturable import Mode
from pyro_vae.draws import Draw
from pyro_vae.dreams import Dreaming
from pyro_vae.evaluation.encoded import check_densities, local_sites
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.generation import Cut
from pyro_vae.evaluation.rows import Given, outputs
from pyro_vae.layout import Layout, latent_sites
from pyro_vae.objectives.divergence import kl_terms
from pyro_vae.pair import Pair

Fields = tuple[Tensor, ...]


def barber_agakov(
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
    r"""A lower bound on the information between data and latents under the model.

    .. math::
        I_p(x; z) = \mathbb{E}_{p(x, z)} \left[ \log \frac{p(z \mid x)}{p(z)} \right]
        \ge \mathbb{E}_{p(x, z)} [\log q(z \mid x) - \log p(z)]

    It is ``barber_agakov``. Data and latents are the model's, so that it says how much of its
    latents a decoder writes into what it makes, whatever the data; the bound is tight where the
    guide is the posterior of generated data, and below 0 where it is far from it.

    Of the data, only what the model does not observe counts, such as labels it is given.

    Arguments:
        pair: The model and the guide.
        fields: What both are called with.
        place: Where it is computed.
        particles: The number of draws from the model.
        batch_size: The most draws at once, by default 256.
        data_size: Of no account: there are no global latents.
        seed: The seed of draws.
        capture: Nothing is captured.

    Raises:
        ValueError: If there is no data plate or no latent inside; if a site of the guide is
            global, a point or a helper, or has a scale; if what the model observes is none of
            the fields, so that the guide cannot be given what is generated: names the site.

    References:
        | The IM Algorithm: A Variational Approach to Information Maximization
          (Barber & Agakov, 2003)
        | https://proceedings.neurips.cc/paper/2003/hash/a6ea8471c120fe8cc35a2954c9b9c595-Abstract.html

    Example:
        >>> from pyro_vae.evaluation.setting import evaluating
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> x, model, guide = torch.eye(4), VAE((4,), 2), AmortizedNormal((4,), {"z": 2})
        >>> with evaluating(model, guide, rows=(x,)) as place:
        ...     found = barber_agakov(
        ...         Pair(model, guide), (x,), place, particles=99, batch_size=None, data_size=4,
        ...         seed=0, capture=False)
        >>> found["barber_agakov"].unit
        'nats'
    """
    cut = Cut(fields, pair, min(batch_size or 256, fields[0].shape[0]), place)
    first = next(iter(cut))
    drawn = pair.draw(first, {})
    check_densities(drawn, "the Barber-Agakov bound")
    names = list(local_sites(drawn, "the Barber-Agakov bound"))
    observed = _observed(pair, first)
    pyro.set_rng_seed(seed)  # whatever was drawn so far
    parts = []
    for rows in torch.arange(particles).split(batch_size or 256):
        batch = tuple(field[rows % field.shape[0]].to(place) for field in fields)
        parts.append(_terms(pair, cut.layout, batch, names, observed))
    terms = torch.cat(parts)
    stderr = float(terms.std()) / math.sqrt(particles) if particles > 1 else math.nan
    return {"barber_agakov": Estimate(float(terms.mean()), stderr, math.nan, seed=seed)}


def _terms(
    pair: Pair, layout: Layout, batch: Fields, names: list[str], observed: dict[str, int]
) -> Tensor:
    r"""The bound's terms of what the model generates, with shape :math:`(N)`."""
    dream = poutine.trace(Dreaming()(pair.model)).get_trace(*batch)
    made, latents = outputs(dream), latent_sites(dream)
    places = {index: made[name]["value"] for name, index in observed.items()}
    # a site may have dimensions of size 1 that the data lack
    dreamed = tuple(
        places.get(i, field).to(field.dtype).reshape(field.shape) for i, field in enumerate(batch)
    )
    given = Given({name: latents[name]["value"] for name in names})
    draw = Draw(pair.model, given(pair.guide), dreamed, {}, layout)
    return draw.combine(kl_terms(draw, "sampled").items())[0].double().cpu()


def _observed(pair: Pair, batch: Fields) -> dict[str, int]:
    r"""Which argument is observed at each site."""
    found = {}
    for name, site in outputs(poutine.trace(pair.model).get_trace(*batch)).items():
        matches = [i for i, field in enumerate(batch) if site["value"] is field]
        if not matches:
            raise ValueError(
                f"expected the model to observe its arguments as they are, got another tensor at "
                f"{name!r}, in whose place the guide cannot be given what is generated: observe "
                "an argument, or ask for other metrics"
            )
        found[name] = matches[0]
    return found
