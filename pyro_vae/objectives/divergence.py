r"""How far the guide is from the prior, by site and by dimension."""

__all__ = ["KL", "check_kl", "kl_dimensions", "kl_terms"]

from typing import Literal, get_args

from torch import Tensor

from pyro_vae.distributions import factors, kl_divergence
from pyro_vae.draws import Draw
from pyro_vae.layout import Site, sample_sites

KL = Literal["auto", "analytic", "sampled"]


def check_kl(kl: str) -> None:
    r"""Raises unless it is a way to have a divergence."""
    if kl not in get_args(KL):
        raise ValueError(f"expected kl to be one of {get_args(KL)}, got {kl!r}")


def kl_terms(draw: Draw, kl: KL = "auto", stopped: bool = False) -> dict[str, Tensor]:
    r"""The divergence of guide from prior by site, with shape :math:`(K, N)`.

    Their sum, each with its share (:meth:`Draw.combine`), is an unbiased estimate of
    :math:`\text{KL}(q \| p)`. Sites of the guide that share a prior term stand together.

    Arguments:
        draw: A draw.
        kl: ``"auto"`` takes the closed form at each site where it exists and is right,
            ``"sampled"`` nowhere, ``"analytic"`` raises where it is not.
        stopped: Whether the guide's parameters count as constants in what is sampled.

    Raises:
        ValueError: If ``kl="analytic"``, and a site has no closed form that is right.
    """
    analytic = {} if kl == "sampled" else dict(draw.kl)
    log_guide = draw.stopped_log_guide if stopped else draw.log_guide
    if kl == "analytic" and (rest := sorted(set(log_guide) - set(analytic))):
        raise ValueError(
            f"expected a closed form of KL(q || p) at every guide site, got none that is right at "
            f'{rest}: use kl="auto", which samples there'
        )
    terms = dict(analytic)
    for name in log_guide:
        if name not in analytic:
            key = _group(draw, name)
            terms[key] = terms.get(key, 0.0) + log_guide[name]
    for name in draw.log_prior:
        if name not in analytic:
            terms[name] = terms.get(name, 0.0) - draw.log_prior[name]
    return terms


def kl_dimensions(draw: Draw, kl: KL = "auto") -> dict[str, Tensor]:
    r"""The divergence of guide from prior by site and dimension, with shape :math:`(D, K, N)`.

    Raises:
        ValueError: If the dimensions of a site are not independent in both programs.
    """
    q, p = sample_sites(draw.guide_trace), sample_sites(draw.model_trace)
    found = {}
    for name, site in q.items():
        prior = p.get(name)
        ours, theirs = factors(site["fn"]), prior and factors(prior["fn"])
        if prior is None or name in draw.coupled_latents:
            why = "has no prior" if prior is None else "shares its prior with sites summed out"
            raise ValueError(
                f"expected guide sites with a prior of their own, got {name!r}, which {why}: take "
                'each site as a whole (groups="site")'
            )
        if ours is None or theirs is None:
            fn = site["fn"] if ours is None else prior["fn"]
            raise ValueError(
                f"expected independent dimensions in guide and prior, got {type(fn).__name__} at "
                f"{name!r}: take each site as a whole, or distributions such as "
                "Normal(loc, scale).to_event(1)"
            )
        if kl != "sampled" and name in draw.kl:
            terms = _leading(kl_divergence(ours, theirs), site)
            found[name] = draw.summed(terms, prior, terms.shape[0])
        else:
            q_terms = _leading(ours.log_prob(site["value"]), site)
            p_terms = _leading(theirs.log_prob(site["value"]), site)
            found[name] = draw.summed(q_terms, site, q_terms.shape[0]) - draw.summed(
                p_terms, prior, p_terms.shape[0]
            )
    return found


def _leading(densities: Tensor, site: Site) -> Tensor:
    r"""Those of a site's dimensions, flattened and put left of the plates."""
    events = site["fn"].event_dim
    if not events:
        return densities.unsqueeze(0)
    return densities.flatten(-events).movedim(-1, 0)


def _group(draw: Draw, name: str) -> str:
    return "+".join(draw.coupled_latents) if name in draw.coupled_latents else name
