r"""Networks that mix particles up."""

__all__ = ["LEFT", "check_particles", "particles_advice"]

from collections.abc import Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pyro_vae.checks.finding import Finding, Severity
from pyro_vae.checks.trial import Trial, explain, quiet
from pyro_vae.draws import Draw
from pyro_vae.layout import sample_sites
from pyro_vae.pair import Pair
from pyro_vae.programs import modules

LEFT = (
    "every value drawn has {} more on the left, as in (K, N, *): let networks count dimensions "
    "from the right, as by x.flatten(-2), torch.cat(…, dim=-1), x.reshape(*z.shape[:-1], -1)"
)
_ADVICE = "one particle works, but with {} " + LEFT.format("a dimension") + "; or use one"
_BATCH_NORM = (
    "; batch normalisation takes its statistics over particles and data, so that in training the "
    "density of a datum depends on the others in its batch: nn.LayerNorm does not"
)


def particles_advice(count: int, pair: Pair) -> str:
    r"""What programs must do to run with several particles at once."""
    tops = [top for p in (pair.model, pair.guide) for top in modules(p).values()]
    normalised = any(isinstance(module, _BatchNorm) for top in tops for module in top.modules())
    return _ADVICE.format(count) + (_BATCH_NORM if normalised else "")


def check_particles(
    pair: Pair,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    trials: tuple[Trial, Trial],
    severity: Severity,
    data_size: int | None,
) -> Iterator[Finding]:
    r"""Finds programs whose densities with several particles are not those of each alone.

    .. math:: \log w_{kn} = \log \frac{p(x_n, z_{kn})}{q(z_{kn} \mid x_n)}

    Arguments:
        pair: The model and the guide, which run with one particle.
        args: The positional arguments of both.
        kwargs: Their keyword arguments.
        trials: A run of the model and one of the guide.
        severity: That of what is found.
        data_size: The size of the whole data, or ``None``.
    """
    count, layout = 3, pair.plan(args, kwargs).layout
    if layout.imputed:  # drawn anew, they are others
        return
    with quiet(pair.model, pair.guide), torch.no_grad():
        try:
            many = Draw(pair.model, pair.guide, args, kwargs, layout, count, data_size)
            many.log_weights  # noqa: B018 (lazy)
        except Exception as error:
            finding = explain(error, "programs", particles_advice(count, pair))
            yield Finding(
                finding.site, severity, finding.message, finding.advice, None, finding.line
            )
            return
        for k in (0, count - 1):
            alone = _alone(pair, many, k, args, kwargs, trials[1], data_size)
            name = None if alone is None else _different(many, alone, k)
            if name is not None:
                yield _mixed(name, trials, severity, count, particles_advice(count, pair))
                return


def _mixed(
    name: str, trials: tuple[Trial, Trial], severity: Severity, count: int, advice: str
) -> Finding:
    program, _, site = name.partition(" ")
    trial = trials[program == "guide"]
    return trial.finding(
        site,
        f"expected {count} particles to have the densities that each has alone, got others: a "
        "network or an index mixes particles up with plates, data or features",
        advice,
        severity,
    )


def _alone(
    pair: Pair,
    many: Draw,
    k: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    guide: Trial,
    data_size: int | None,
) -> Draw | None:
    r"""The draw that has one of the particles only; ``None`` if shapes do not tell which."""
    trace = _particle(many, k, guide)
    if trace is None:
        return None
    replayed = poutine.replay(pair.guide, trace=trace)
    try:
        alone = Draw(pair.model, replayed, args, kwargs, many.layout, 1, data_size)
        alone.log_weights  # noqa: B018 (lazy)
    except Exception:  # with one particle both programs ran before: the replay does not fit
        return None
    return alone


def _particle(many: Draw, k: int, guide: Trial) -> Trace | None:
    trace = many.guide_trace.copy()
    single = sample_sites(guide.trace)
    for name, site in sample_sites(many.guide_trace).items():
        if site["is_observed"]:
            continue
        if name not in single:
            return None
        value, shape = site["value"], single[name]["value"].shape
        if value.shape[0] != many.particles or value[k].numel() != shape.numel():
            return None
        trace.nodes[name] = site | {"value": value[k].reshape(shape)}
    return trace


def _different(many: Draw, alone: Draw, k: int) -> str | None:
    r"""The first program and site whose densities differ."""
    for name, density in many.log_guide.items():
        if not _close(density[k], alone.log_guide[name][0]):
            return f"guide {name}"
    for name, density in many.log_prior.items():
        if name in alone.log_prior and not _close(density[k], alone.log_prior[name][0]):
            return f"model {name}"
    if not _close(many.log_likelihood[k], alone.log_likelihood[0]):
        observed = [n for n, s in sample_sites(many.model_trace).items() if s["is_observed"]]
        return f"model {observed[-1]}" if observed else None
    return None


def _close(a: Tensor, b: Tensor) -> bool:
    # of sums over many features in single precision; what is mixed up differs by far more
    scale = max(1.0, b.abs().max().item())
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-3 * scale)
