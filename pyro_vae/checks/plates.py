r"""Plates that differ between the programs, or meet one another."""

__all__ = ["check_plates", "check_sizes", "exchanged", "explain_plates", "in_words", "swapped"]

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample

from pyro_vae.checks.finding import Finding, Severity
from pyro_vae.checks.trial import Trial
from pyro_vae.layout import Site, frames, latent_sites, sample_sites
from pyro_vae.lines import failure


def check_plates(model: Trial, guide: Trial, rows: set[int]) -> Iterator[Finding]:
    r"""Finds plates with one size, dimension or name in the guide and another in the model.

    Arguments:
        model: A run of the model.
        guide: A run of the guide.
        rows: The sizes of the first dimension of the batch's tensors.
    """
    sizes = _sizes(guide.trace)
    for name, size in _sizes(model.trace).items():
        if size != sizes.get(name, size):
            yield guide.finding(
                name,
                f"expected plate {name!r} to have one size in both programs, got {size} in the "
                f"model and {sizes[name]} in the guide",
                "take it from the data, as x.shape[0]",
            )
            return
    drawn = latent_sites(guide.trace)
    for name, site in latent_sites(model.trace).items():
        if name in drawn and (said := _differ(name, site, drawn[name], rows)):
            yield guide.finding(name, *said)


def _differ(name: str, prior: Site, drawn: Site, rows: set[int]) -> tuple[str, str] | None:
    p, q = ({frame.name: frame for frame in frames(site)} for site in (prior, drawn))
    for plate in p.keys() & q.keys():
        if p[plate].dim != q[plate].dim:
            return (
                f"expected plate {plate!r} at one dim around {name!r} in both programs, got dim "
                f"{p[plate].dim} in the model and dim {q[plate].dim} in the guide",
                f"write pyro.plate({plate!r}, …, dim={p[plate].dim}) in both",
            )
    lacking = [frame for plate, frame in p.items() if plate not in q and frame.size in rows]
    besides = [frame for plate, frame in q.items() if plate not in p]
    for frame in lacking:
        if other := next((f for f in besides if f.size == frame.size), None):
            return (
                f"expected {name!r} in plate {frame.name!r}, as in the model, got it in plate "
                f"{other.name!r} in the guide",
                f"give the data plate one name in both programs: pyro.plate({frame.name!r}, …, "
                f"dim={frame.dim})",
            )
    return None


def check_sizes(
    trials: tuple[Trial, Trial], shorter: tuple[Trial, Trial], rows: int, severity: Severity
) -> Iterator[Finding]:
    r"""Finds plates of the size of one batch that do not fit another.

    Arguments:
        trials: A run of the model and one of the guide.
        shorter: The same on a batch of one row less.
        rows: The number of rows of the longer batch.
        severity: That of what is found.
    """
    sizes = [_sizes(trial.trace) for trial in shorter]
    for place, trial in enumerate(trials):
        for name, size in _sizes(trial.trace).items():
            fixed = size == rows == sizes[place].get(name)
            if fixed and (sizes[not place].get(name) == rows - 1 or _unfit(shorter[place], name)):
                yield trial.finding(
                    name,
                    f"expected plate {name!r} to have the size of the batch, got {rows} in a batch "
                    f"of {rows} and in one of {rows - 1}",
                    f"write pyro.plate({name!r}, x.shape[0]), or give all the data in one batch",
                    severity,
                )
                return


def _unfit(trial: Trial, plate: str) -> bool:
    r"""Whether a plate has one element more than what stands inside."""
    stopped = None if trial.error is None else failure(trial.error)[0]
    sites: list[Any] = [s for s in sample_sites(trial.trace).values() if s["is_observed"]]
    shapes = [(s["value"].shape, frames(s), len(s["fn"].event_shape)) for s in sites]
    if stopped is not None and hasattr(stopped["fn"], "batch_shape"):
        shapes.append((stopped["fn"].batch_shape, frames(stopped), 0))
    return any(
        frame.name == plate
        and len(shape) >= events - frame.dim
        and shape[frame.dim - events] == frame.size - 1
        for shape, around, events in shapes
        for frame in around
    )


def explain_plates(trial: Trial) -> Finding | None:
    r"""Translates Pyro's complaints of plates and names; ``None`` for any other error."""
    if trial.error is None:
        return None
    said, line = str(trial.error), failure(trial.error)[1]
    if match := re.match(r"Multiple sample sites named '(.*?)'|duplicate plate '(.*?)'", said):
        name = match[1] or match[2]
        return Finding(name, "error", *_twice(trial, name), trial.role, line)
    if match := re.match(r'at plates "(.*?)" and "(.*?)", collide at dim=(-\d+)', said):
        inner, outer, dim = match.groups()
        message = (
            f"expected each plate around a site at a dim of its own, got {inner!r} and {outer!r} "
            f"both at dim {dim}"
        )
        advice = f"write dim={int(dim) - 1} at the outer one, or leave dim= away in both"
        return Finding(inner, "error", message, advice, trial.role, line)
    return None


def _twice(trial: Trial, name: str) -> tuple[str, str]:
    first: Any = trial.trace.nodes.get(name)
    second: Any = failure(trial.error)[0] if trial.error else None
    plates = [site_is_subsample(site) for site in (first, second) if site is not None]
    if all(plates):
        return (
            f"expected one plate of the name {name!r}, got two",
            f"make it once, as data = pyro.plate({name!r}, …), and enter it by `with data:` "
            "wherever it is meant; or give each plate a name of its own",
        )
    if any(plates):
        return (
            f"expected one thing of the name {name!r}, got a plate and a site",
            "rename one of them",
        )
    return (
        f"expected one pyro.sample statement for {name!r}, got it twice in one run",
        'rename one of them; in a loop, number them: pyro.sample(f"{name}{i}", …)'.replace(
            "{name}", name
        ),
    )


def swapped(sizes: Sequence[int], around: Sequence[Any]) -> str | None:
    r"""How plates that stand in each other's place should stand; ``None`` if they do not."""
    expected = [frame.size for frame in sorted(around, key=lambda frame: frame.dim)]
    if len(around) < 2 or list(sizes) == expected or sorted(sizes) != sorted(expected):
        return None
    dims = dict(zip(sizes, range(-len(sizes), 0), strict=True))
    right = ", ".join(f"{frame.name!r} at dim {dims[frame.size]}" for frame in around)
    return f"the plates stand in each other's place: put {right}"


def exchanged(trial: Trial, sizes: Sequence[int], around: Sequence[Any]) -> str | None:
    r"""That a plate stands where another one should, as far as Pyro came to enter them."""
    others = _sizes(trial.trace)
    for frame in around:
        found = sizes[frame.dim] if -frame.dim <= len(sizes) else None
        other = next((n for n, s in others.items() if s == found and n != frame.name), None)
        if other and found != frame.size and frame.size in sizes:
            return (
                f"plates {frame.name!r} and {other!r} stand in each other's place: dimension "
                f"{frame.dim} has the size of {other!r}; exchange their dim="
            )
    return None


def in_words(around: Sequence[Any]) -> str:
    r"""Plates with their sizes and dimensions."""
    if not around:
        return "plates (none)"
    listed = ", ".join(f"{f.name!r} of size {f.size} at dim {f.dim}" for f in around)
    return f"plate {listed}" if len(around) == 1 else f"plates {listed}"


def _sizes(trace: Trace) -> dict[str, int]:
    # those of frames would not do: the model is replayed with the guide's
    sites: dict[str, Any] = dict(trace.nodes)
    return {name: s["fn"].size for name, s in sites.items() if site_is_subsample(s)}
