r"""Data outside a support in any row, without a run of the programs on each."""

__all__ = ["check_rows"]

from dataclasses import replace
from typing import Any

from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_vae.checks.finding import Finding
from pyro_vae.checks.trial import Trial, run, undisturbed
from pyro_vae.checks.values import outside
from pyro_vae.data.lazy import chunks
from pyro_vae.layout import plate_dims, sample_sites
from pyro_vae.programs import Program, owner

# elements that are looked at together: what comparing them makes is as large
_CHUNK = 2**22


def check_rows(
    model: Program, guide: Program, *fields: Tensor, data_plate: str | None = None
) -> list[Finding]:
    r"""Finds values outside a support in all the data, of which :func:`check` sees one batch.

    The programs run on the first row, to learn the support of each observed site whose value is
    an argument, and again on the first row that lies outside: supports that depend on the row,
    such as those of counts out of totals, are given the benefit of the doubt.

    Arguments:
        model: The generative program.
        guide: The program that draws its latents; an autoguide, which is made for one number of
            rows, is not run, and the latents come from the model.
        fields: What both are called with: all the data, with shapes :math:`(N, *)`.
        data_plate: The name of the data plate, if only sites inside are to be looked at.

    Returns:
        The findings; none if all is well, or if the programs do not run on a single row.

    Example:
        >>> import torch
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> x = torch.ones(1000, 4)
        >>> check_rows(model, guide, x)
        []
        >>> x[700] = 3
        >>> finding, = check_rows(model, guide, x)
        >>> "integers from 1 to 3, first in row 700" in finding.message
        True
    """
    if not fields or not all(field.dim() and field.shape[0] for field in fields):
        return []
    with undisturbed(model, guide):
        trial, rows = _run(model, guide, fields, 0)
        if trial.error is not None:
            return []
        found = []
        for name, site in sample_sites(trial.trace).items():
            whole = [field for field, row in zip(fields, rows, strict=True) if row is site["value"]]
            elsewhere = data_plate is not None and data_plate not in plate_dims(site)
            # what is broadcast is not said row by row
            if whole and not elsewhere and site["fn"].shape() == site["value"].shape:
                found.append(_outside(model, guide, fields, trial, name, whole[0]))
    return [finding for finding in found if finding is not None]


def _run(
    model: Program, guide: Program, fields: tuple[Tensor, ...], row: int
) -> tuple[Trial, tuple[Tensor, ...]]:
    r"""Runs the model on one row, with latents of the guide where it takes one row."""
    args = tuple(field[row : row + 1] for field in fields)
    if isinstance(owner(guide), AutoGuide):
        return run("model", model, args, {}), args
    drawn = run("guide", guide, args, {})
    if drawn.error is not None:
        return drawn, args
    return run("model", model, args, {}, drawn.trace), args


def _outside(
    model: Program,
    guide: Program,
    fields: tuple[Tensor, ...],
    trial: Trial,
    name: str,
    field: Tensor,
) -> Finding | None:
    row = _first_outside(trial, name, field)
    if row is None:
        return None
    again, _ = _run(model, guide, fields, row)
    # where the programs fail on this row, unlike on the first, its values are why
    if again.error is None and outside(again, name, field[row : row + 1]) is None:
        return None
    finding: Any = outside(trial, name, field)
    return replace(finding, message=f"{finding.message}, first in row {row}")


def _first_outside(trial: Trial, name: str, field: Tensor) -> int | None:
    r"""The first row that a site's support does not hold, found by halves."""
    start = 0
    for chunk in chunks(field, max(1, _CHUNK // max(1, field[0].numel()))):
        if outside(trial, name, chunk) is None:
            start += chunk.shape[0]
            continue
        while chunk.shape[0] > 1:
            half = chunk.shape[0] // 2
            if outside(trial, name, chunk[:half]) is None:
                start, chunk = start + half, chunk[half:]
            else:
                chunk = chunk[:half]
        return start
    return None
