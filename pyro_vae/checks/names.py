r"""Latents that only one of the programs draws."""

__all__ = ["check_names"]

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from pyro_vae.checks.finding import Finding
from pyro_vae.checks.trial import Trial
from pyro_vae.layout import latent_sites, sample_sites, undrawn


def check_names(model: Trial, guide: Trial) -> Iterator[Finding]:
    r"""Finds latents that the guide lacks, or has besides those of the model."""
    drawn = latent_sites(guide.trace)
    extra = {
        name
        for name, site in drawn.items()
        if name not in latent_sites(model.trace) and not site["infer"].get("is_auxiliary")
    }
    _, _, lacking = undrawn(guide.trace, model.trace)
    for name in (name for name in latent_sites(model.trace) if name in lacking):
        near = _nearest(name, extra)
        extra.discard(near or "")
        yield model.finding(name, *_lacks(name, near, drawn))
    if model.error is None:
        for name in sorted(extra):
            yield guide.finding(name, *_besides(name, model))


def _lacks(name: str, near: str | None, drawn: Iterable[str]) -> tuple[str, str]:
    expected = f"expected the guide to draw {name!r}, a latent of the model, got "
    if near:
        return (
            f"{expected}{near!r}, which the model lacks",
            f"the guide draws {near!r}: give the two the same name",
        )
    return (
        f"{expected}{sorted(drawn) or 'no latent'}",
        f"add pyro.sample({name!r}, …) to the guide; if it is data, write obs=… in the model; if "
        'it is discrete, infer={"enumerate": "parallel"} there sums it out',
    )


def _besides(name: str, model: Trial) -> tuple[str, str]:
    sites, latents = sample_sites(model.trace), sorted(latent_sites(model.trace))
    if name in sites:
        return (
            f"expected the guide to draw latents only, got {name!r}, which the model observes",
            "remove it from the guide",
        )
    near = _nearest(name, latents)
    return (
        f"expected a latent of the model, which are {latents}, got {name!r}",
        (f"did you mean {near!r}? " if near else "")
        + 'rename or remove it, or mark a helper infer={"is_auxiliary": True}',
    )


def _nearest(name: str, names: Iterable[str]) -> str | None:
    folded = {other.casefold(): other for other in names}
    near = get_close_matches(name.casefold(), folded, n=1)
    return folded[near[0]] if near else None
