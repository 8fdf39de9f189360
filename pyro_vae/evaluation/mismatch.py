r"""How far encodings of data are from draws of the prior, by their means and variances."""

__all__ = ["prior_mismatch"]

import math

import pyro
import torch
from torch import Tensor

from pyro_vae.capturable import Mode
from pyro_vae.evaluation.chunks import Largest, batches, chunk_sizes, few
from pyro_vae.evaluation.encoded import guide_draw, local_sites, rows_of
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.rows import is_discrete
from pyro_vae.evaluation.streaming import Moments
from pyro_vae.layout import Layout
from pyro_vae.pair import Pair

Fields = tuple[Tensor, ...]


def prior_mismatch(
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
    r"""How far the latents of all data together are from the prior, by means and variances.

    .. math::
        M = \sum_d \text{KL}(\mathcal{N}(m_d, v_d) \| \mathcal{N}(m'_d, v'_d)) \qquad
        \text{KL}(q(z) \| p(z)) \geq M \text{ for a normal prior with independent features}

    The mean :math:`m_d` and the variance :math:`v_d` are those of a latent feature over the
    aggregate posterior :math:`q(z)`, and :math:`m'_d, v'_d` those under the prior; both are
    sampled. Unlike ``marginal_kl`` it does not know of shapes and correlations, but it needs no
    more data than a variance does, however far posteriors are apart.

    ``per_datum`` holds the share of each feature, with shape :math:`(D)`. By chance :math:`M` is
    too large by about one in :math:`N` for each feature.

    Arguments:
        pair, fields, place, batch_size, seed: As for :func:`pyro_vae.evaluate`.
        particles: The number of particles of each datum.
        data_size: Of no account: there are no global latents.
        capture: Nothing is captured.

    Raises:
        ValueError: If there is no data plate, or no latent inside that is a number.

    References:
        | ELBO surgery (Hoffman & Johnson, 2016)
        | http://approximateinference.org/accepted/HoffmanJohnson2016.pdf

    Example:
        >>> from pyro_vae.evaluation.setting import evaluating
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> x, model, guide = torch.eye(4), VAE((4,), 2), AmortizedNormal((4,), {"z": 2})
        >>> with evaluating(model, guide, rows=(x,)) as place:
        ...     found = prior_mismatch(
        ...         Pair(model, guide), (x,), place, particles=9, batch_size=None, data_size=4,
        ...         seed=0, capture=False)
        >>> found["prior_mismatch"].per_datum.shape
        torch.Size([2])
    """
    some = few(fields, place, batch_size)
    layout = pair.plan(some, {}).layout
    prior = Pair(pair.model, pair.model, pair.data_plate)
    with Largest() as largest:
        names = _numbers(pair, prior, layout, some)
    elements = math.ceil(largest.elements / (2 * some[0].shape[0]))
    size, chunk = chunk_sizes(elements, fields[0].shape[0], particles, batch_size, place)

    pyro.set_rng_seed(seed)  # whatever was drawn so far
    found = {}
    for key, programs in (("guide", pair), ("prior", prior)):
        moments = Moments()
        for batch in batches(fields, size, place):
            for start in range(0, particles, chunk):
                count = min(chunk, particles - start)
                moments.update(_values(programs, layout, batch, count, names))
        found[key] = (moments.mean.cpu(), (moments.squares / moments.count).cpu())
    each = _divergence(*found["guide"], *found["prior"])
    return {"prior_mismatch": Estimate(float(each.sum()), math.nan, math.nan, each, "nats", seed)}


def _numbers(pair: Pair, prior: Pair, layout: Layout, batch: Fields) -> list[str]:
    r"""The latents of each datum that both programs draw and that are numbers."""
    drawn = local_sites(guide_draw(pair, layout, batch, 2), "the mismatch of prior and guide")
    latent = local_sites(guide_draw(prior, layout, batch, 2), "the mismatch of prior and guide")
    names = [name for name in drawn if name in latent and not is_discrete(latent[name]["fn"])]
    if not names:
        raise ValueError(
            f"expected latents that are numbers, for the mismatch of prior and guide, got the "
            f"discrete sites {sorted(drawn)}: ask for other metrics"
        )
    return names


def _values(
    programs: Pair, layout: Layout, batch: Fields, particles: int, names: list[str]
) -> Tensor:
    r"""What a program draws of all data and particles, with shape :math:`(N K, D)`."""
    draw = guide_draw(programs, layout, batch, particles)
    sites = local_sites(draw, "the mismatch of prior and guide")
    return torch.cat([rows_of(sites[n]["value"], sites[n], draw).flatten(0, 1) for n in names], -1)


def _divergence(mean: Tensor, variance: Tensor, prior_mean: Tensor, prior: Tensor) -> Tensor:
    r"""The divergence of normal distributions from others, feature by feature."""
    ratio = variance / prior
    return ((mean - prior_mean).square() / prior + ratio - 1 - ratio.log()) / 2
