r"""Dreams: what a model makes up, and how likely its guide finds the latents that made it."""

__all__ = ["Dreaming", "dream"]

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.poutine import Trace
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.utils._pytree import tree_map_only

from pyro_vae.distributions import is_point
from pyro_vae.draws import Draw
from pyro_vae.layout import latent_sites, sample_sites


class Dreaming(UnconditionMessenger):
    r"""Draws what is observed.

    Other than by Pyro's own messenger, what is computed (``pyro.deterministic``) keeps the value
    and the shape that it has.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["infer"].get("_deterministic") and not isinstance(msg["fn"], Unit):
            super()._pyro_sample(msg)


def dream(draw: Draw) -> Mapping[str, Tensor]:
    r"""The guide's log-densities of latents that the model drew with data of its own, by site.

    .. math:: \log q(z_s \mid x), \qquad (z, x) \sim p(z, x)

    As many data are made up as the batch has. A batch argument that a site observes is replaced
    by what the model draws there; other arguments stay. No gradient reaches the model.

    Arguments:
        draw: A draw of the pair on a batch.

    Returns:
        Tensors with shape :math:`(1, N)`, or :math:`(1, 1)` of sites that all data share.

    Raises:
        ValueError: If no argument is what a site observes, or several sites observe one, if the
            model has a factor, or if the guide has auxiliary sites or point estimates, which no
            model draws: names the site.

    Example:
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> from pyro_vae.pair import Pair
        >>> pair = Pair(VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2}))
        >>> dream(pair.draw((torch.ones(3, 4),), {}))["z"].shape
        torch.Size([1, 3])
    """
    _check(draw)
    with torch.no_grad(), poutine.block():
        rows = _only(draw.model_trace, subsamples(draw.model_trace))
        model = Dreaming()(poutine.replay(draw.model, trace=rows))
        made = poutine.trace(model).get_trace(*draw.args, **draw.kwargs)
    args, kwargs = _made_up(draw, made)
    with poutine.block():
        known = _only(made, latent_sites(draw.guide_trace))
        for name in subsamples(draw.guide_trace):
            known.add_node(name, **draw.guide_trace.nodes[name])
        guide = poutine.replay(draw.guide, trace=known)
        scored = sample_sites(poutine.trace(guide).get_trace(*args, **kwargs))
    return {name: draw.log_density(site)[:1] for name, site in scored.items()}


def subsamples(trace: Trace) -> list[str]:
    r"""The sites of a trace that draw which rows a plate holds."""
    nodes: dict[str, Any] = dict(trace.nodes)
    return [n for n, s in nodes.items() if s["type"] == "sample" and site_is_subsample(s)]


def _only(trace: Trace, names: Iterable[str]) -> Trace:
    kept = Trace()
    for name in names:
        kept.add_node(name, **trace.nodes[name])
    return kept


def _made_up(draw: Draw, made: Trace) -> tuple[tuple[Any, ...], dict[str, Any]]:
    r"""The arguments of the batch, where what is observed is what was made up."""
    observed = {
        id(site["value"]): sample_sites(made)[name]["value"]
        for name, site in sample_sites(draw.model_trace).items()
        if site["is_observed"]
    }
    found = [n for n, s in sample_sites(draw.model_trace).items() if s["is_observed"]]
    if len(observed) < len(found):
        raise ValueError(
            f"expected one site to observe each argument, got several that observe the same among "
            f"{sorted(found)}: dreams of them differ, and could not all be put in its place; use "
            "an objective without sleep"
        )
    given = draw.args, draw.kwargs
    replaced: list[Tensor] = []

    def replace(tensor: Tensor) -> Tensor:
        if id(tensor) not in observed:
            return tensor
        replaced.append(tensor)
        # a count may be drawn as float where data are integers, and a site have dimensions of
        # size 1 that the data lack
        return observed[id(tensor)].to(tensor.dtype).reshape(tensor.shape)

    args, kwargs = tree_map_only(Tensor, replace, given)
    missing = len({id(tensor) for tensor in replaced}) < len(observed)
    if missing:
        raise ValueError(
            f"expected each observed site to observe an argument of the programs as it is (obs=x), "
            f"which dreams are put in place of, got others among {sorted(found)}: prepare the "
            "data before they are given to the programs, or use an objective without sleep"
        )
    return args, kwargs


def _check(draw: Draw) -> None:
    sites = sample_sites(draw.model_trace)
    if factors := sorted(n for n, s in sites.items() if isinstance(s["fn"], Unit)):
        raise ValueError(
            f"expected a model that can be drawn from, got pyro.factor at {factors}: no data are "
            "drawn with it; use an objective without sleep"
        )
    if draw.layout.imputed:
        raise ValueError(
            f"expected data without obs_mask, got it at {sorted(draw.layout.imputed)}: what is "
            "missing in dreams would not be missing at random; use an objective without sleep"
        )
    for name, site in latent_sites(draw.guide_trace).items():
        point = is_point(site["fn"])
        if site["infer"].get("is_auxiliary") or point:
            raise ValueError(
                f"expected a guide that draws the model's latents only, got {name!r}, "
                f"{'a point' if point else 'an auxiliary site'}, which the model "
                "does not draw: dreams cannot score it; use another guide, or ELBO()"
            )
