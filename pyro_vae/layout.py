r"""What one run of a pair shows of its structure: plates, kinds of sites, where a KL is exact."""

__all__ = [
    "PARTICLES",
    "Layout",
    "check_pooled",
    "frames",
    "inspect",
    "latent_sites",
    "plate_dims",
    "sample_sites",
    "undrawn",
]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.inspect import TrackProvenance
from pyro.ops.provenance import get_provenance
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample

from pyro_vae.distributions import has_kl, innermost, is_point
from pyro_vae.programs import Program, unchanged
from pyro_vae.stopped import Detached, stopped_log_prob

PARTICLES = "_particles"

Site = Any  # a message of pyro.poutine.runtime


@dataclass(frozen=True)
class Layout:
    r"""The structure of a model and guide, as one run on a batch shows it.

    Arguments:
        nesting: How many dimensions plates take: the deepest stands at dim ``-nesting``.
        plate: The data plate's name, or ``None`` where the whole batch is one datum.
        enumerated: Model sites that are summed out.
        imputed: Unobserved parts of ``obs_mask`` sites that the guide does not draw.
        passed_on: Those of them that other sites depend on.
        analytic: Guide sites at which :math:`\text{KL}(q \| p)` may stand for its estimate.
        shared: Sites outside the data plate: global latents, drawn once for all data.
        pooled: Auxiliary guide sites outside the data plate that sites inside are made of.
        chained: Guide sites whose density depends on what the guide drew before, or cannot be
            had with its parameters stopped.
        moved: Guide sites that are functions with parameters of auxiliary sites.
        conditional: Latents whose prior depends on other latents.
        varying: Guide sites, where some are chained, whose density of the same values differs
            from run to run.
    """

    nesting: int
    plate: str | None
    enumerated: frozenset[str]
    imputed: frozenset[str]
    passed_on: frozenset[str]
    analytic: frozenset[str]
    shared: frozenset[str]
    pooled: frozenset[str]
    chained: frozenset[str]
    moved: frozenset[str]
    conditional: frozenset[str]
    varying: frozenset[str]


def frames(site: Site) -> list[Any]:
    r"""The vectorised plates around a site, outermost first."""
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized]


def plate_dims(site: Site) -> dict[str, int]:
    r"""The dimension of each vectorised plate around a site."""
    return {frame.name: frame.dim for frame in frames(site)}


def sample_sites(trace: Trace) -> dict[str, Site]:
    r"""The random sites of a trace: neither subsampling nor ``pyro.deterministic``."""
    sites: dict[str, Site] = dict(trace.nodes)
    return {
        name: site
        for name, site in sites.items()
        if site["type"] == "sample"
        and not site_is_subsample(site)
        and not site["infer"].get("_deterministic")
    }


def latent_sites(trace: Trace) -> dict[str, Site]:
    r"""The random sites of a trace that are not observed."""
    return {name: site for name, site in sample_sites(trace).items() if not site["is_observed"]}


def inspect(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    data_plate: str | None = None,
) -> Layout:
    r"""Runs the guide and the replayed model once and reads off how they are built.

    The random state and the buffers are restored.

    Raises:
        ValueError: If a model site is neither drawn by the guide, nor observed, nor enumerated;
            if a guide site is neither in the model nor auxiliary; if the data plate is not in
            the programs, holds a site in one of them only, or an enumerated site lies outside it.
    """
    with torch.no_grad(), unchanged(model, guide), poutine.block():
        q = poutine.trace(guide).get_trace(*args, **kwargs)
        replayed = poutine.replay(model, trace=q)
        p = poutine.trace(replayed).get_trace(*args, **kwargs)
        parents, fed = _upstream(model, p, args, kwargs), _upstream(guide, q, args, kwargs)
        unstopped, moved = _unstopped(guide, fed, args, kwargs)
        chained = frozenset(n for n in latent_sites(q) if fed.get(n)) | unstopped
        varying = _varying(guide, q, args, kwargs) if chained else frozenset()

    enumerated, imputed = _match(q, p)
    plate = _data_plate(q, p, data_plate)
    sites = {**sample_sites(q), **sample_sites(p)}
    local = {name for name, site in sites.items() if plate in plate_dims(site)}
    if plate is not None:
        _check_plate(plate, q, p, enumerated - local)
    around = [frame for site in sites.values() for frame in frames(site)]
    return Layout(
        nesting=max((-frame.dim for frame in around), default=0),
        plate=plate,
        enumerated=frozenset(enumerated),
        imputed=frozenset(imputed),
        passed_on=frozenset(imputed & set().union(*parents.values())),
        analytic=frozenset(
            name for name in latent_sites(q) if _is_analytic(name, q, p, parents, fed, enumerated)
        ),
        shared=frozenset(sites) - local if plate is not None else frozenset(),
        pooled=_pooled(q, local, fed),
        chained=chained,
        moved=moved,
        conditional=frozenset(n for n in latent_sites(p) if parents.get(n)),
        varying=varying,
    )


def check_pooled(layout: Layout, batch_size: int, data_size: int) -> None:
    r"""Refuses a part of the data where one site holds the latents of all.

    Raises:
        ValueError: If it does: the density of a global site cannot be weighed as local ones are.
    """
    if layout.pooled and batch_size != data_size:
        raise ValueError(
            f"expected the whole data in one batch for a guide that draws local latents inside "
            f"{sorted(layout.pooled)}, outside the data plate {layout.plate!r}, got {batch_size} "
            f"of {data_size} data: their density is one number and cannot be weighed by datum; "
            "use AutoNormal or an amortised guide, or give the whole data"
        )


def undrawn(q: Trace, p: Trace) -> tuple[set[str], set[str], set[str]]:
    r"""The model's latents that the guide lacks: to be summed out, left to the model, missing."""
    drawn, observed = latent_sites(q), set(sample_sites(p)) - set(latent_sites(p))
    lacking = {name: site for name, site in latent_sites(p).items() if name not in drawn}
    enumerated = {n for n, s in lacking.items() if s["infer"].get("enumerate") == "parallel"}
    imputed = {n for n in lacking if n.removesuffix("_unobserved") + "_observed" in observed}
    return enumerated, imputed - enumerated, set(lacking) - enumerated - imputed


def _match(q: Trace, p: Trace) -> tuple[set[str], set[str]]:
    r"""The model's latents that are summed out, and those that are left to it."""
    latents, drawn = latent_sites(p), latent_sites(q)
    enumerated, imputed, missing = undrawn(q, p)
    if missing:
        raise ValueError(
            f"expected the guide to draw every latent of the model, got none of {sorted(missing)}: "
            "add pyro.sample statements with these names to the guide, or mark a discrete site "
            'infer={"enumerate": "parallel"} in the model to have it summed out'
        )
    extra = {n for n, s in drawn.items() if n not in latents and not s["infer"].get("is_auxiliary")}
    if extra:
        raise ValueError(
            f"expected every guide site to be a latent of the model, got {sorted(extra)} besides: "
            f"the model draws {sorted(latents)}; rename or remove the site, or mark a helper "
            'infer={"is_auxiliary": True}'
        )
    return enumerated, imputed


def _data_plate(q: Trace, p: Trace, data_plate: str | None) -> str | None:
    r"""The plate asked for, else the one named ``data``, else the only one that holds all data."""
    names = {f.name for t in (q, p) for site in sample_sites(t).values() for f in frames(site)}
    if data_plate is not None and data_plate not in names:
        raise ValueError(
            f"expected the data plate to be one of {sorted(names)}, got {data_plate!r}"
        )
    if data_plate is not None or "data" in names:
        return data_plate or "data"
    sites = sample_sites(p).values()
    observed = [set(plate_dims(site)) for site in sites if site["is_observed"]]
    common = set.intersection(*observed) if observed else set()
    return common.pop() if len(common) == 1 else None


def _check_plate(plate: str, q: Trace, p: Trace, outside: set[str]) -> None:
    around = [f for t in (q, p) for s in sample_sites(t).values() for f in frames(s)]
    sizes = {f.full_size or f.size for f in around if f.name == plate}
    if len(sizes) > 1:
        raise ValueError(
            f"expected the data plate {plate!r} to have one size in both programs, got "
            f"{sorted(sizes)}: take it from the data, as x.shape[0]"
        )
    drawn = latent_sites(q)
    for name, site in latent_sites(p).items():
        inside = plate in plate_dims(site)
        if name in drawn and inside != (plate in plate_dims(drawn[name])):
            here, there = ("model", "guide") if inside else ("guide", "model")
            raise ValueError(
                f"expected site {name!r} inside plate {plate!r} in both programs, found it there "
                f"in the {here} only: move the {there}'s pyro.sample({name!r}, …) into "
                f'`with pyro.plate("{plate}", …)`'
            )
    if outside:
        raise ValueError(
            f"expected enumerated sites inside the data plate {plate!r}, got {sorted(outside)} "
            "outside: what all data share cannot be summed out per datum; draw it in the guide"
        )


def _upstream(
    program: Program, trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, set[str]]:
    r"""The sites that each site's distribution depends on."""
    try:
        with TrackProvenance(), pyro.validation_enabled(False):
            sites = sample_sites(poutine.trace(program).get_trace(*args, **kwargs))
        found = {
            name: get_provenance((site["value"], site["fn"].log_prob(site["value"])))
            for name, site in sites.items()
        }
    except Exception:  # provenance cannot be tracked through everything: assume the worst
        order = list(sample_sites(trace))
        return {name: set(order[:i]) for i, name in enumerate(order)}
    latents = {name for name, site in sites.items() if not site["is_observed"]}
    return {name: (latents & above) - {name} for name, above in found.items()}


def _unstopped(
    guide: Program,
    fed: Mapping[str, set[str]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[frozenset[str], frozenset[str]]:
    r"""Guide sites of which some parameter was not stopped, and those that parameters move."""
    with torch.enable_grad(), Detached(), pyro.validation_enabled(False):
        sites = latent_sites(poutine.trace(guide).get_trace(*args, **kwargs))
    with torch.enable_grad():
        densities = {n: stopped_log_prob(site["fn"], site["value"]) for n, site in sites.items()}
    helpers = {name for name, site in sites.items() if site["infer"].get("is_auxiliary")}
    moved = {
        name
        for name, site in sites.items()
        if is_point(site["fn"])
        and innermost(site["fn"]).v.requires_grad
        and fed.get(name, set()) & helpers
    }
    return frozenset(n for n, term in densities.items() if term.requires_grad), frozenset(moved)


def _varying(
    guide: Program, q: Trace, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> frozenset[str]:
    r"""Guide sites whose density of the same values is another in a second run."""
    again = poutine.trace(poutine.replay(guide, trace=q)).get_trace(*args, **kwargs)
    others, found = latent_sites(again), set()
    for name, site in latent_sites(q).items():
        before = site["fn"].log_prob(site["value"])
        after = others[name]["fn"].log_prob(site["value"]) if name in others else before
        # sums may be taken in another order, on a GPU say
        if not torch.allclose(before, after, rtol=1e-3, atol=1e-3, equal_nan=True):
            found.add(name)
    return frozenset(found)


def _pooled(q: Trace, local: set[str], fed: Mapping[str, set[str]]) -> frozenset[str]:
    drawn = latent_sites(q)
    helpers = {name for name, site in drawn.items() if site["infer"].get("is_auxiliary")}
    inside = [fed.get(name, set()) for name in local & set(drawn)]
    return frozenset((helpers - local) & set().union(*inside)) if local else frozenset()


def _is_analytic(
    name: str,
    q: Trace,
    p: Trace,
    parents: Mapping[str, set[str]],
    fed: Mapping[str, set[str]],
    enumerated: set[str],
) -> bool:
    r"""Whether the KL given earlier latents is an unbiased part of the bound.

    It is not if the prior depends on what the guide draws later from this very site, nor if
    discrete neighbours are summed out, nor if the guide's density is one of a transformed helper.
    """
    site, prior = sample_sites(q)[name], sample_sites(p).get(name)
    if prior is None or is_point(site["fn"]):
        return False
    drawn = latent_sites(q)
    order = list(drawn)
    latent_parents = parents.get(name, set()) & (set(drawn) | enumerated)
    children = {n for n, above in parents.items() if name in above}
    return (
        not (latent_parents | children) & enumerated
        and all(order.index(n) < order.index(name) for n in latent_parents)
        and not any(
            drawn[n]["infer"].get("is_auxiliary") for n in fed.get(name, set()) & set(drawn)
        )
        and has_kl(site["fn"], prior["fn"])
    )
