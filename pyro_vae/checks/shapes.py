r"""Event dimensions and plates that do not line up."""

__all__ = ["check_events", "check_latents", "check_observed", "explain_shape"]

from collections.abc import Iterator, Sequence
from typing import Any

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor

from pyro_vae.checks.finding import Finding
from pyro_vae.checks.plates import exchanged, in_words, swapped
from pyro_vae.checks.trial import Trial
from pyro_vae.layout import Site, frames, latent_sites, sample_sites
from pyro_vae.lines import failure


def check_events(trial: Trial) -> Iterator[Finding]:
    r"""Finds sites with a batch dimension that no plate stands for."""
    for name, site in sample_sites(trial.trace).items():
        if stray := _stray(site["fn"].batch_shape, frames(site)):
            yield trial.finding(
                name,
                f"expected one density for each element of its {in_words(frames(site))}, got "
                f"{_shapes(site['fn'])}, of whose batch dimensions {stray} belong to no plate",
                _mend(site["fn"], frames(site)),
            )


def check_observed(trial: Trial) -> Iterator[Finding]:
    r"""Finds data whose shape is not that of their distribution."""
    for name, site in sample_sites(trial.trace).items():
        fn, value = site["fn"], site["value"]
        if not site["is_observed"] or isinstance(fn, dist.Unit):
            continue
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            yield trial.finding(name, f"expected a tensor, got obs={kind}", "use torch.as_tensor")
            continue
        expected, events = fn.shape(), len(fn.event_shape)
        if value.dim() >= events and _ends_with(expected, value.shape):
            continue
        repeated = _is_repeated(value.shape, fn)
        yield trial.finding(
            name,
            f"expected data of shape {tuple(expected)}, from {_shapes(fn)} in "
            f"{in_words(frames(site))}, got {tuple(value.shape)}",
            _mend_data(site),
            "warning" if repeated else "error",
        )


def check_latents(model: Trial, guide: Trial) -> Iterator[Finding]:
    r"""Finds latents whose values have one shape in the guide and another in the model."""
    drawn = latent_sites(guide.trace)
    for name, site in latent_sites(model.trace).items():
        if name not in drawn:
            continue
        p, q = site["fn"], drawn[name]["fn"]
        if _without_leading_ones(p.shape()) != _without_leading_ones(q.shape()):
            # the one with fewer event dimensions is the one that lacks to_event
            at_fault = model if len(p.event_shape) < len(q.event_shape) else guide
            yield at_fault.finding(
                name,
                f"expected values of one shape in both programs, got {_shapes(p)} in the model and "
                f"{_shapes(q)} in the guide",
                _mend_latent(site, drawn[name], at_fault.role),
            )


def explain_shape(trial: Trial, rows: set[int]) -> Finding | None:
    r"""Translates an error that arose as plates met a distribution; ``None`` for any other.

    Arguments:
        trial: The run that failed.
        rows: The sizes of the first dimension of the batch's tensors.
    """
    message, line = (None, None) if trial.error is None else failure(trial.error)
    if message is None or not isinstance(message["fn"], TorchDistributionMixin):
        return None
    fn, around = message["fn"], frames(message)
    if not _clash(fn.batch_shape, around):
        return None
    found = Trial(trial.role, trial.trace, {message["name"]: line} if line else {})
    wrong = [f for f in around if f.size not in rows and f.full_size in (None, f.size)]
    if turned := swapped(fn.batch_shape, around) or exchanged(trial, fn.batch_shape, around):
        advice = turned
    elif wrong and fn.batch_shape[0] in rows:
        advice = _resize(wrong[0], fn.batch_shape[0])
    else:
        advice = _mend(fn, around)
    return found.finding(
        message["name"],
        f"expected a batch_shape that fits its {in_words(around)}, got {_shapes(fn)}",
        advice,
    )


def _stray(batch_shape: Size, around: Sequence[Any]) -> list[int]:
    taken = {frame.dim for frame in around}
    return [d for d in range(-len(batch_shape), 0) if batch_shape[d] != 1 and d not in taken]


def _clash(batch_shape: Size, around: Sequence[Any]) -> bool:
    r"""Whether a plate has another size than the dimension that it stands at."""
    return any(
        -frame.dim <= len(batch_shape) and batch_shape[frame.dim] not in (1, frame.size)
        for frame in around
    )


def _mend(fn: Any, around: Sequence[Any]) -> str:
    r"""How many dimensions belong to the event, by the plates that must remain."""
    batch = fn.batch_shape
    if isinstance(fn, dist.Unit):
        return "sum log_factor over the dimensions of one datum"
    if not around:
        rest = f" and add .to_event({len(batch) - 1}) to the distribution" if batch[1:] else ""
        return (
            f'if dimension {-len(batch)} counts data, put it inside `with pyro.plate("data", '
            f"{batch[0]})` (better x.shape[0] than a number){rest}; else add "
            f".to_event({len(batch)})"
        )
    count = next(
        n
        for n in range(1, len(batch) + 1)
        if not _stray(batch[:-n], around) and not _clash(batch[:-n], around)
    )
    nested = fn.reinterpreted_batch_ndims if isinstance(fn, dist.Independent) else 0
    instead = f" in place of .to_event({nested})" if nested else ""
    return (
        f"add .to_event({count + nested}) to the distribution{instead}, so that the last "
        f"{'dimension belongs' if count == 1 else f'{count} dimensions belong'} to one event"
    )


def _mend_data(site: Site) -> str:
    fn, shape = site["fn"], site["value"].shape
    batch, events = fn.batch_shape, len(fn.event_shape)
    if len(shape) == len(fn.shape()) and shape[len(batch) :] == fn.event_shape:
        if turned := swapped(shape[: len(batch)], frames(site)):
            return turned
        for frame in frames(site):
            if shape[frame.dim - events] != frame.size:
                return _resize(frame, shape[frame.dim - events])
    return (
        "give the distribution's parameters and the data the same shape; dimensions of one datum "
        "(features, pixels) belong to its event_shape, by .to_event(n)"
    )


def _mend_latent(prior: Site, drawn: Site, role: str) -> str:
    p, q = prior["fn"].event_shape, drawn["fn"].event_shape
    if len(p) != len(q):
        return f"make them .to_event({max(len(p), len(q))}) in the {role}, as in the other program"
    if p != q:
        return "give both the same number of features, such as the width of a network's output"
    return (
        f"the model's stands in {in_words(frames(prior))}, the guide's in "
        f"{in_words(frames(drawn))}; write the same plates in both"
    )


def _resize(frame: Any, rows: int) -> str:
    return (
        f"plate {frame.name!r} has size {frame.size}, but the batch has {rows}; write "
        f'pyro.plate("{frame.name}", x.shape[0]), or, if {frame.size} is the size of the whole '
        f'data, pyro.plate("{frame.name}", {frame.size}, subsample_size=x.shape[0])'
    )


def _is_repeated(shape: Size, fn: Any) -> bool:
    r"""Whether data fit only because one datum is taken several times."""
    events = len(fn.event_shape)
    batch = shape[: len(shape) - events]
    return (
        len(shape) >= events
        and shape[len(shape) - events :] == fn.event_shape
        and len(batch) <= len(fn.batch_shape)
        and all(size in (1, fn.batch_shape[-i]) for i, size in enumerate(reversed(batch), 1))
    )


def _ends_with(shape: Size, end: Size) -> bool:
    return len(end) <= len(shape) and shape[len(shape) - len(end) :] == end


def _without_leading_ones(shape: Size) -> tuple[int, ...]:
    start = next((i for i, size in enumerate(shape) if size != 1), len(shape))
    return tuple(shape[start:])


def _shapes(fn: Any) -> str:
    return f"batch_shape {tuple(fn.batch_shape)} and event_shape {tuple(fn.event_shape)}"
