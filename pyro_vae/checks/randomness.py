r"""Random numbers that no sample statement draws."""

__all__ = ["check_randomness"]

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.checks.finding import Finding
from pyro_vae.checks.trial import Trial, explain, quiet, run
from pyro_vae.checks.witness import Witness
from pyro_vae.layout import sample_sites
from pyro_vae.programs import Program


def check_randomness(
    role: str,
    program: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    replayed: Trace | None = None,
) -> Iterator[Finding]:
    r"""Finds a program whose densities of the same values differ from run to run.

    Dropout of modules is switched off meanwhile: in training it may do so. A program that does not
    run then is a finding too.

    Arguments:
        role: Which program it is, ``"model"`` or ``"guide"``.
        program: The program.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        replayed: Whose latents are taken; by default the program draws them once.
    """
    watch = Witness()
    with quiet(program), torch.no_grad():
        first = run(role, program, args, kwargs, replayed)
        second = run(role, program, args, kwargs, first.trace, watch)
    if first.error is not None:
        yield _in_eval(first.error, role)
    if first.error is not None or second.error is not None:
        return
    before, after = _densities(first), _densities(second)
    changed = next((n for n in before if not _close(before[n], after.get(n, before[n]))), None)
    if changed is None:
        return
    by = watch.drawn[0][1] if watch.drawn else None
    yield Finding(
        changed,
        "warning",
        "expected the same density of the same values in every run, with dropout off, got another: "
        "the program draws random numbers outside pyro.sample",
        "draw them by pyro.sample (in a guide, of what is no latent, with "
        'infer={"is_auxiliary": True}), or in training only (if self.training; nn.Dropout, or '
        "F.dropout(…, training=self.training))",
        role,
        by or first.lines.get(changed),
    )


def _in_eval(error: Exception, role: str) -> Finding:
    found = explain(error, role)
    message = found.message.replace("to run,", "to run in eval mode too, as in training,")
    advice = found.advice or "estimates, samples and reconstructions run it after .eval()"
    return replace(found, severity="warning", message=message, advice=advice)


def _densities(trial: Trial) -> dict[str, Tensor]:
    return {
        name: site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        for name, site in sample_sites(trial.trace).items()
    }


def _close(a: Tensor, b: Tensor) -> bool:
    # sums may be taken in another order, on a GPU say
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)
