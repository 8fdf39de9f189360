r"""Programs in each other's place."""

__all__ = ["check_roles"]

from collections.abc import Iterator
from typing import Any

from pyro.distributions import Unit
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyro_vae.checks.finding import Finding
from pyro_vae.checks.trial import Trial
from pyro_vae.layout import latent_sites, sample_sites


def check_roles(
    model: Trial, guide: Trial, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[Finding]:
    r"""Finds a guide that observes data, or else a model that is given data and observes none.

    Factors (``pyro.factor``) may stand in both, and count as what a model observes.
    """
    observed = [name for name, site in sample_sites(guide.trace).items() if _is_datum(site)]
    for name in observed:
        yield guide.finding(
            name,
            f"expected the guide to draw latents only, got {name!r}, which it observes",
            f"{_SWAPPED} if not, remove obs=… or the site from the guide",
        )
    given = any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs)))
    sites = sample_sites(model.trace).values()
    if observed or not given or model.error or any(site["is_observed"] for site in sites):
        return
    latents = sorted(latent_sites(model.trace))
    yield Finding(
        None,
        "error",
        f"expected the model to observe the data, got {latents or 'no site'} without obs=",
        f"{_SWAPPED} if not, write obs=… at the site of the data",
        "model",
    )


_SWAPPED = "were model and guide swapped? the model comes first;"


def _is_datum(site: Any) -> bool:
    return site["is_observed"] and not isinstance(site["fn"], Unit)
