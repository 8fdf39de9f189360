r"""Single latent features: whether data move them, and what they cost."""

__all__ = ["THRESHOLD", "active_units", "kl_per_dimension"]

import math
from collections.abc import Callable

import pyro
import torch
from pyro.distributions import Delta, Independent, MaskedDistribution, TorchDistribution
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_vae.capturable import Mode
from pyro_vae.distributions import factors, kl_divergence, unwrapped
from pyro_vae.draws import Draw
from pyro_vae.evaluation.chunks import Largest, batches, chunk_sizes, few
from pyro_vae.evaluation.encoded import guide_draw, local_sites, rows_of
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.rows import is_discrete, stated
from pyro_vae.evaluation.streaming import Moments
from pyro_vae.layout import Site, sample_sites
from pyro_vae.pair import Pair

THRESHOLD = 0.01  # of the variance of an active unit (Burda et al., 2016)

Fields = tuple[Tensor, ...]
Draws = Callable[[Fields, int], Draw]
Score = Callable[[Draw], dict[str, Tensor]]


def active_units(
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
    r"""The number of latent features that data move.

    .. math::
        A_d = \text{Var}_x(\mathbb{E}_{q(z \mid x)}[z_d]) \qquad
        \text{active\_units} = \sum_d \mathbf{1}[A_d > 0.01]

    It is ``active_units``, and that of each site, such as ``active_units.z``, of which
    ``per_datum`` holds the variances :math:`A_d` in the order of the features, with shape
    :math:`(D)`. A variance has the unit of the feature squared: 0.01 is meant for priors of
    about unit scale.

    Where sites depend on others that the guide draws, and where a distribution does not know its
    mean, expectations are averages over particles, and the variance that averages have of their
    own is subtracted; a single particle does not show it.

    Arguments:
        pair: The model and the guide.
        fields: What both are called with, :math:`N` data.
        place: Where it is computed.
        particles: The number of particles where expectations are averages.
        batch_size: The most data in a batch, by default as many as memory allows.
        data_size: How many data share the global latents, which are not counted.
        seed: The seed of particles.
        capture: Nothing is captured: of one pass over the data, no graph would pay.

    Raises:
        ValueError: If there are not at least two data, if there is no data plate or no latent
            inside, or if one is categorical.

    References:
        | Importance Weighted Autoencoders (Burda et al., 2016)
        | https://arxiv.org/abs/1509.00519

    Example:
        >>> from pyro_vae.evaluation.setting import evaluating
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> x, model, guide = torch.eye(4), VAE((4,), 3), AmortizedNormal((4,), {"z": 3})
        >>> with evaluating(model, guide, rows=(x,)) as place:
        ...     found = active_units(
        ...         Pair(model, guide), (x,), place, particles=1, batch_size=None, data_size=4,
        ...         seed=0, capture=False)
        >>> found["active_units.z"].per_datum.shape
        torch.Size([3])
    """
    if (size := fields[0].shape[0]) < 2:
        raise ValueError(
            f"expected at least two data, of which the latents' variance is, got {size}"
        )

    def draws(batch: Fields, count: int) -> Draw:
        return guide_draw(pair, pair.plan(batch, {}).layout, batch, count)

    found = _moments(draws, _expectations, fields, place, particles, batch_size, seed)
    variances = {name: (m.var(0) - v.nan_to_num(0).mean(0)).cpu() for name, (m, v) in found.items()}
    counts = {f".{name}": (values > THRESHOLD).sum() for name, values in variances.items()}
    values = {"": torch.cat([*variances.values()]), **{f".{n}": v for n, v in variances.items()}}
    counts[""] = sum(counts.values(), torch.tensor(0))
    return {
        f"active_units{name}": Estimate(
            float(counts[name]), math.nan, math.nan, each, f"of {len(each)} units", seed
        )
        for name, each in values.items()
    }


def _expectations(draw: Draw) -> dict[str, Tensor]:
    r"""Expectations by site given what is drawn before, with shape :math:`(N, K, D)`."""
    found = {}
    for name, site in local_sites(draw, "active units").items():
        value = stated(site["fn"], "mean")
        known = value is not None and bool(value.isfinite().all())
        if is_discrete(site["fn"]) and not known:
            raise ValueError(
                f"expected latents that are numbers, for active units, got the categorical site "
                f"{name!r}, whose values have no mean: ask for other metrics"
            )
        chosen = value if value is not None and known else site["value"]
        found[name] = rows_of(chosen, site, draw)
    return found


def kl_per_dimension(
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
    r"""The share of each latent feature in the divergence of guide from prior.

    .. math::
        \mathbb{E}_x \mathbb{E}_q \text{KL}(q(z_d \mid x, z') \| p(z_d \mid z''))

    Given are the latents :math:`z'` that the guide draws before, and the site's parents
    :math:`z''` in the model. A feature's is ``kl.z[3]``; those of a site add up to the ``kl.z`` of
    :func:`pyro_vae.evaluate`. Each is in closed form where there is one that is right, else it is
    sampled. Masks and ``poutine.scale`` count as in the bound. For a table of many features there
    is :func:`pyro_vae.evaluation.folding.fold`.

    Arguments:
        pair, fields, place, batch_size, data_size, seed, capture: As for :func:`active_units`.
        particles: The number of particles where divergences are sampled, or depend on others.

    Raises:
        ValueError: If there is no data plate or no latent inside, or if the features of a site
            are not independent in both programs: then they have no shares. Names the site.

    Example:
        >>> from pyro_vae.evaluation.setting import evaluating
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> x, model, guide = torch.eye(4), VAE((4,), 2), AmortizedNormal((4,), {"z": 2})
        >>> with evaluating(model, guide, rows=(x,)) as place:
        ...     found = kl_per_dimension(
        ...         Pair(model, guide), (x,), place, particles=1, batch_size=None, data_size=4,
        ...         seed=0, capture=False)
        >>> list(found)
        ['kl.z[0]', 'kl.z[1]']
    """

    def draws(batch: Fields, count: int) -> Draw:
        return pair.draw(batch, {}, count, data_size)

    found = _moments(draws, _divergences, fields, place, particles, batch_size, seed)
    return {
        f"kl.{name}[{d}]": Estimate.of(m[:, d], float(v[:, d].sum().sqrt()) / len(m), seed=seed)
        for name, (m, v) in found.items()
        for d in range(m.shape[1])
    }


def _divergences(draw: Draw) -> dict[str, Tensor]:
    r"""The features' divergences by site, with shape :math:`(N, K, D)`."""
    found = {}
    priors = sample_sites(draw.model_trace)
    for name, site in local_sites(draw, "the divergence of each feature").items():
        prior = priors[name]
        for program, fn in (("guide", site["fn"]), ("model", prior["fn"])):
            if name in draw.coupled_latents or not _factorises(fn):
                raise ValueError(
                    f"expected latents with independent features in both programs, of which each "
                    f"has a divergence, got {type(fn).__name__} at {name!r} in the {program}"
                    f"{', summed out with others' * (name in draw.coupled_latents)}: "
                    "ask for the metric 'elbo', which gives that of the whole site"
                )
        found[name] = rows_of(_kl(draw, site, prior, name in draw.kl), site, draw)
    return found


def _kl(draw: Draw, site: Site, prior: Site, analytic: bool) -> Tensor:
    q, p = (unwrapped(fn, Independent) for fn in (site["fn"], prior["fn"]))
    z = site["value"]
    if analytic:
        return _weighed(kl_divergence(q, p).expand_as(z), draw, prior)
    return _weighed(q.log_prob(z), draw, site) - _weighed(p.log_prob(z), draw, prior)


def _weighed(terms: Tensor, draw: Draw, site: Site) -> Tensor:
    mask = site["mask"]
    if isinstance(mask, Tensor):
        mask = mask.reshape(*mask.shape, *(1 for _ in range(site["fn"].event_dim)))
    return scale_and_mask(terms, draw.scale(site), mask)


def _factorises(fn: TorchDistribution) -> bool:
    features = factors(fn)
    return features is not None and not isinstance(features, Delta | MaskedDistribution)


def _moments(
    draws: Draws,
    score: Score,
    fields: Fields,
    place: torch.device,
    particles: int,
    batch_size: int | None,
    seed: int,
) -> dict[str, tuple[Tensor, Tensor]]:
    r"""Averages over particles by site, and their variances, with shapes :math:`(N, D)`.

    Where all particles of a few data have the same, one is enough.
    """
    some = few(fields, place, batch_size)
    with Largest() as largest:
        probe = score(draws(some, 2))
    same = all(bool((values == values[:, :1]).all()) for values in probe.values())
    count = 1 if same else particles
    elements = math.ceil(largest.elements / (2 * some[0].shape[0]))
    batch, chunk = chunk_sizes(elements, fields[0].shape[0], count, batch_size, place)

    pyro.set_rng_seed(seed)  # whatever was drawn so far
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in probe}
    for rows in batches(fields, batch, place):
        for name, found in _summed(draws, score, rows, count, chunk).items():
            parts[name].append((found.mean, _variance(found, same)))
    return {
        name: (torch.cat([m for m, _ in found]), torch.cat([v for _, v in found]))
        for name, found in parts.items()
    }


def _summed(
    draws: Draws, score: Score, batch: Fields, count: int, chunk: int
) -> dict[str, Moments]:
    sums: dict[str, Moments] = {}
    for start in range(0, count, chunk):
        for name, values in score(draws(batch, min(chunk, count - start))).items():
            sums.setdefault(name, Moments()).update(values.movedim(1, 0))
    return sums


def _variance(found: Moments, same: bool) -> Tensor:
    r"""The variance of each mean, which is 0 if all particles are known to be the same."""
    if found.count > 1:
        return found.squares / (found.count - 1) / found.count
    return torch.full_like(found.mean, 0.0 if same else math.nan)
