r"""What an objective refuses, and what sums and particles ask of programs."""

__all__ = ["check_kind", "check_objective", "many"]

import re
from collections.abc import Iterator
from typing import Any

import pyro.infer
import torch

from pyro_vae.checks.finding import Finding
from pyro_vae.checks.particles import LEFT, particles_advice
from pyro_vae.checks.trial import Trial, explain
from pyro_vae.layout import latent_sites
from pyro_vae.lines import failure
from pyro_vae.objectives import Objective
from pyro_vae.pair import Pair
from pyro_vae.svi import SVI

_SUMMED = "where sites are summed out, " + LEFT.format("dimensions")


def check_kind(objective: Any) -> Iterator[Finding]:
    r"""Finds what is no objective, or one that no program of ours can run under."""
    name = type(objective).__name__
    if isinstance(objective, pyro.infer.ELBO):
        if name.startswith("Jit"):
            yield Finding(
                None,
                "error",
                f"expected an objective that runs the programs as they are, got {name}, which "
                "compiles them by TorchScript",
                f"use {name.removeprefix('Jit')}() or pyro_vae.objectives.ELBO()",
            )
        return
    named = isinstance(objective, type)
    if objective is None or (callable(objective) and hasattr(objective, "particles") and not named):
        return
    got = f"a {name}" if not isinstance(objective, str) else repr(objective)
    got = f"the class {objective.__name__}" if named else got
    message = (
        "expected an object such as pyro_vae.objectives.ELBO(), which has particles and is called "
        f"with a draw, or a pyro.infer ELBO object such as Trace_ELBO(), got {got}"
    )
    yield Finding(None, "error", message, "make an instance of it" if named else "")


def check_objective(
    pair: Pair,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    objective: Objective | pyro.infer.ELBO | None,
    data_size: int | None,
    trials: tuple[Trial, Trial],
) -> Iterator[Finding]:
    r"""Draws from a pair whose layout is sound, and bounds the evidence by the draw."""
    try:
        summed = pair.plan(args, kwargs).layout.enumerated
    except ValueError as error:
        yield _finding(error, "objective", trials)
        return
    try:
        pair.draw(args, kwargs, 1, data_size).log_weights  # noqa: B018 (lazy)
    except Exception as error:
        yield _finding(error, "programs", trials, _SUMMED if summed else "")
        return
    yield from _check_enumerated(trials[1], objective)
    if isinstance(objective, pyro.infer.ELBO):
        yield from _check_pyro(pair, args, kwargs, objective, data_size, trials)
    elif objective is not None:
        yield from _check_ours(pair, args, kwargs, objective, data_size, trials)


def many(objective: Any) -> bool:
    r"""Whether an objective draws several particles at once."""
    if isinstance(objective, pyro.infer.ELBO):
        return objective.num_particles > 1 and objective.vectorize_particles
    return objective is not None and objective.particles > 1


def _check_enumerated(guide: Trial, objective: Any) -> Iterator[Finding]:
    if isinstance(objective, pyro.infer.TraceEnum_ELBO | pyro.infer.TraceTMC_ELBO):
        return
    for name, site in latent_sites(guide.trace).items():
        if how := site["infer"].get("enumerate"):
            yield guide.finding(
                name,
                f"expected the guide to draw its sites, got {name!r} with "
                f'infer={{"enumerate": "{how}"}}, which is summed out in models only',
                "move the mark to the model and leave the site out of the guide; or take "
                "pyro.infer.TraceEnum_ELBO()",
                "warning" if objective is None else "error",
            )


def _check_ours(
    pair: Pair,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    objective: Objective,
    data_size: int | None,
    trials: tuple[Trial, Trial],
) -> Iterator[Finding]:
    particles = objective.particles
    try:
        draw = pair.draw(args, kwargs, particles, data_size)
        draw.log_weights  # noqa: B018 (lazy)
    except Exception as error:
        yield _finding(error, "programs", trials, particles_advice(particles, pair))
        return
    try:
        value = objective(draw).value
    except Exception as error:
        yield _finding(error, "objective", trials)
        return
    if not value.isfinite().all():
        yield Finding(None, "error", f"expected a finite objective, got {value.mean().item()}")


def _check_pyro(
    pair: Pair,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    objective: pyro.infer.ELBO,
    data_size: int | None,
    trials: tuple[Trial, Trial],
) -> Iterator[Finding]:
    svi = SVI(
        pair.model,
        pair.guide,
        torch.optim.Adam,
        objective,
        data_plate=pair.data_plate,
        data_size=data_size,
    )
    try:
        svi.evaluate_loss(*args, **kwargs)
    except Exception as error:
        # what the objective lacks is none of the programs' business
        mend = many(objective) and not isinstance(error, NotImplementedError)
        advice = particles_advice(objective.num_particles, pair) if mend else ""
        yield _finding(error, "objective", trials, advice)


def _finding(error: Exception, role: str, trials: tuple[Trial, Trial], advice: str = "") -> Finding:
    # what this library raises, outside the user's lines, says itself how to mend it
    if not isinstance(error, ValueError) or failure(error)[1] is not None:
        return explain(error, role, advice)
    message, _, mend = str(error).partition(": ")
    # the guide's statement, unless the model lacks what the guide has
    for trial in trials if "in the guide only" in message else reversed(trials):
        named = [n for n in latent_sites(trial.trace) if re.search(rf"(at|site) {n!r}", message)]
        if named:
            return trial.finding(named[0], message, mend)
    return Finding(None, "error", message, mend)
