r"""What an objective refuses, and what sums and particles ask of programs."""

__all__ = ["check_kind", "check_objective"]

from collections.abc import Iterator
from typing import Any

import pyro.infer
import torch

from pyro_vae.checks.finding import Finding
from pyro_vae.checks.trial import explain, failure
from pyro_vae.objectives import Objective
from pyro_vae.pair import Pair
from pyro_vae.svi import SVI

_LEFT = (
    "every value drawn has {} more on the left, as in (K, N, *): let networks count dimensions "
    "from the right, as by x.flatten(-2), torch.cat(…, dim=-1), x.reshape(*z.shape[:-1], -1)"
)
_SUMMED = "; where sites are summed out, " + _LEFT.format("dimensions")
_PARTICLES = "; one particle works, but with {} " + _LEFT.format("a dimension") + "; or use one"


def check_kind(objective: Any) -> Iterator[Finding]:
    r"""Finds what is no objective, or one that no program of ours can run under."""
    name = type(objective).__name__
    if isinstance(objective, pyro.infer.ELBO):
        if name.startswith("Jit"):
            message = (
                f"expected an objective that runs the programs as they are, got {name}, which "
                f"compiles them by TorchScript: use {name.removeprefix('Jit')}() or "
                "pyro_vae.objectives.ELBO()"
            )
            yield Finding(None, "error", message)
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
    yield Finding(None, "error", f"{message}: make an instance of it" if named else message)


def check_objective(
    pair: Pair,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    objective: Objective | pyro.infer.ELBO | None,
    data_size: int | None,
) -> Iterator[Finding]:
    r"""Draws from a pair whose layout is sound, and bounds the evidence by the draw."""
    try:
        summed = pair.plan(args, kwargs).layout.enumerated
    except ValueError as error:
        yield _finding(error, "objective")
        return
    try:
        pair.draw(args, kwargs, 1, data_size).log_weights  # noqa: B018 (lazy)
    except Exception as error:
        yield _finding(error, "programs", _SUMMED if summed else "")
        return
    if isinstance(objective, pyro.infer.ELBO):
        yield from _check_pyro(pair, args, kwargs, objective, data_size)
    elif objective is not None:
        yield from _check_ours(pair, args, kwargs, objective, data_size)


def _check_ours(
    pair: Pair,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    objective: Objective,
    data_size: int | None,
) -> Iterator[Finding]:
    particles = objective.particles
    try:
        draw = pair.draw(args, kwargs, particles, data_size)
        draw.log_weights  # noqa: B018 (lazy)
    except Exception as error:
        yield _finding(error, "programs", _PARTICLES.format(particles))
        return
    try:
        value = objective(draw).value
    except Exception as error:
        yield _finding(error, "objective")
        return
    if not value.isfinite().all():
        yield Finding(None, "error", f"expected a finite objective, got {value.mean().item()}")


def _check_pyro(
    pair: Pair,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    objective: pyro.infer.ELBO,
    data_size: int | None,
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
        many = objective.num_particles > 1 and objective.vectorize_particles
        # what the objective lacks is none of the programs' business
        many = many and not isinstance(error, NotImplementedError)
        advice = _PARTICLES.format(objective.num_particles) if many else ""
        yield _finding(error, "objective", advice)


def _finding(error: Exception, role: str, advice: str = "") -> Finding:
    # what this library raises, outside the user's lines, says itself how to mend it
    if isinstance(error, ValueError) and failure(error)[1] is None:
        return Finding(None, "error", str(error))
    return explain(error, role, advice)
