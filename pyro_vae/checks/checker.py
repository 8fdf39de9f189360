r"""The check of a model and a guide on a batch."""

__all__ = ["check"]

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Any

import pyro.infer
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyro_vae.checks.batches import check_attention, check_growth
from pyro_vae.checks.bounds import check_kind, check_objective, many
from pyro_vae.checks.dtypes import check_dtypes
from pyro_vae.checks.finding import Finding, Severity
from pyro_vae.checks.graph import leaves
from pyro_vae.checks.names import check_names
from pyro_vae.checks.parameters import check_finite, check_gradients, refused
from pyro_vae.checks.particles import check_particles
from pyro_vae.checks.places import check_places
from pyro_vae.checks.plates import check_plates, explain_plates
from pyro_vae.checks.randomness import check_randomness
from pyro_vae.checks.roles import check_roles
from pyro_vae.checks.scales import check_scales
from pyro_vae.checks.shapes import check_events, check_latents, check_observed, explain_shape
from pyro_vae.checks.trial import Trial, explain, run, undisturbed
from pyro_vae.checks.values import check_batch, check_densities, check_support
from pyro_vae.lines import failure
from pyro_vae.objectives import Objective
from pyro_vae.pair import Pair
from pyro_vae.programs import Program


def check(
    model: Program,
    guide: Program,
    *batch: Any,
    objective: Objective | pyro.infer.ELBO | None = None,
    data_plate: str | None = None,
    data_size: int | None = None,
    **kwargs: Any,
) -> list[Finding]:
    r"""Runs a model and a guide on a batch, and says in words what is wrong with them.

    Nothing is trained. The random state, the buffers and Pyro's parameter store are what they
    were, except that an autoguide has set itself up. What is found first hides what it causes:
    check again after mending.

    Arguments:
        model: The generative program.
        guide: The program that draws its latents.
        batch: The positional arguments of both.
        objective: What is to be optimised, by its own particles; nothing is asked of the pair
            on its account by default.
        data_plate: The name of the data plate, where it is not found by itself.
        data_size: The size of the whole data, where neither batch nor plate says it.
        kwargs: The keyword arguments of both programs.

    Returns:
        The findings; none if all is well.

    Example:
        >>> import torch
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, x = VAE((4,), latents=2), torch.ones(3, 4)
        >>> check(model, AmortizedNormal((4,), {"z": 2}), x)
        []
        >>> finding, *_ = check(model, AmortizedNormal((4,), {"Z": 2}), x)
        >>> finding.site, finding.severity
        ('z', 'error')
    """
    findings: list[Finding] = []
    with undisturbed(model, guide, objective):
        for found in _stages(model, guide, batch, kwargs, objective, data_plate, data_size):
            findings += found
            if any(finding.severity == "error" for finding in found):
                break
    return findings


def _stages(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    objective: Objective | pyro.infer.ELBO | None,
    data_plate: str | None,
    data_size: int | None,
) -> Iterator[list[Finding]]:
    r"""Findings by stage; a stage is sound only if the ones before it found no error."""
    yield list(check_kind(objective))
    runs = partial(_runs, model, guide, args, kwargs)
    p, q = runs()
    yield list(check_roles(p, q, args, kwargs))
    yield list(check_places((model, guide), (args, kwargs), runs, (p, q)))
    yield list(filter(None, map(explain_plates, (q, p))))
    causes = list(check_finite(model, guide, runs))
    yield [
        *causes,
        *(() if q.error else check_names(p, q)),
        *(_shapes(p, q, args, kwargs) or _failures(p, q, args, kwargs, bool(causes))),
    ]
    yield _values(p, q)
    yield list(check_growth(p, q, (model, guide), (args, kwargs), data_size))
    pair = Pair(model, guide, data_plate)
    yield list(check_objective(pair, args, kwargs, objective, data_size, (p, q)))
    yield list(_suspicions(pair, (args, kwargs), objective, data_size, (p, q), runs))


def _runs(
    model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Trial, Trial]:
    q = run("guide", guide, args, kwargs)
    return run("model", model, args, kwargs, None if q.error else q.trace), q


def _suspicions(
    pair: Pair,
    batch: tuple[tuple[Any, ...], dict[str, Any]],
    objective: Objective | pyro.infer.ELBO | None,
    data_size: int | None,
    trials: tuple[Trial, Trial],
    runs: Callable[[], tuple[Trial, Trial]],
) -> Iterator[Finding]:
    r"""What runs, and may yet not do what is meant."""

    def total() -> Tensor:
        return pair.draw(*batch, 1, data_size).log_weights.sum()

    (p, q), (model, guide) = trials, (pair.model, pair.guide)
    yield from check_gradients(model, guide, runs, total)
    yield from check_dtypes(p, (model, guide), batch)
    yield from check_scales(p, q)
    yield from check_attention(q, guide, batch, set(leaves([total()])))
    found = [
        *check_randomness("guide", guide, *batch),
        *check_randomness("model", model, *batch, q.trace),
    ]
    yield from found
    if objective is not None and not found:
        severity: Severity = "error" if many(objective) else "warning"
        yield from check_particles(pair, *batch, trials, severity, data_size)


def _shapes(p: Trial, q: Trial, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Finding]:
    if q.error:
        return [*check_events(q), *check_events(p), *check_observed(p)]
    found = [*check_plates(p, q, _row_counts(args, kwargs))]
    found = found or [*check_events(q), *check_events(p)]
    return found or [*check_observed(p), *check_latents(p, q)]


def _values(p: Trial, q: Trial) -> list[Finding]:
    r"""Values without a density: where a site has a cause and a consequence, the cause."""
    found = {finding.site: finding for finding in check_support(p)}
    if not any(finding.severity == "error" for finding in found.values()):
        for finding in islice(chain(check_densities(q), check_densities(p)), 1):
            cause = found.get(finding.site, finding)
            found[finding.site] = replace(cause, severity="error")
    return list(found.values())


def _failures(
    p: Trial, q: Trial, args: tuple[Any, ...], kwargs: dict[str, Any], explained: bool
) -> list[Finding]:
    r"""What stopped the programs, after what may have caused it.

    That a distribution refuses its parameters is left out where what they come from is found,
    or ``explained`` already.
    """
    if p.error is None and q.error is None:
        return []
    causes = [*check_batch(args, kwargs), *islice(check_densities(q), 1)]
    rows = _row_counts(args, kwargs)
    found: dict[str, Finding] = {}  # by line: an autoguide stops where the model does
    for trial in (q, p):
        unfit = refused(trial)
        if trial.error is not None and not (unfit and (causes or explained)):
            line = failure(trial.error)[1] or trial.role
            known = unfit or explain_shape(trial, rows)
            found[line] = known or explain(trial.error, trial.role)
    return [*causes, *found.values()]


def _row_counts(args: tuple[Any, ...], kwargs: dict[str, Any]) -> set[int]:
    found = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
    return {leaf.shape[0] for leaf in found if leaf.dim()}
