r"""What one looks at before a fit: how many data, whether they are numbers, where and how wide."""

__all__ = ["Survey", "check_finite", "survey"]

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.em.rows import Rows


class Survey(NamedTuple):
    r"""What the data are like.

    Arguments:
        size: The number of rows that weigh something.
        mass: The sum of their weights.
        mean: Their mean, in double precision, with shape :math:`(D)`.
        variance: Their variances, with shape :math:`(D)`.
        largest: The largest of each feature, with shape :math:`(D)`.
    """

    size: int
    mass: float
    mean: Tensor
    variance: Tensor
    largest: Tensor


def survey(rows: Rows, check: Callable[[Tensor], None]) -> Survey:
    r"""Goes through the data once.

    Arguments:
        rows: The data; entries that are NaN are left out of means and variances.
        check: Raises if a block is not as it should be.

    References:
        | Updating Formulae and a Pairwise Algorithm for Computing Sample Variances
          (Chan, Golub & LeVeque, 1979)
        | http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773/CS-TR-79-773.pdf
    """
    count, total = 0, 0.0
    mass = mean = squares = largest = torch.zeros(
        rows.features, dtype=torch.float64, device=rows.device
    )
    for x, weights in rows.blocks(_BLOCK):
        check(x)
        x = x.double()
        largest = torch.maximum(largest, x.amax(0)) if count else x.amax(0)
        count += len(x)
        w = x.new_ones(len(x), 1) if weights is None else weights.double()[:, None]
        total += float(w.sum())
        w = torch.where(x.isnan(), 0.0, w)
        x = torch.where(x.isnan(), mean, x)
        more = w.sum(0)
        # about a datum: the mean of what is constant is that constant, to the last digit
        origin = x[0]
        shift = ((x - origin) * w).sum(0) / more.clamp(min=_TINY)
        here = origin + shift
        mass = mass + more
        change = here - mean
        share = more / mass.clamp(min=_TINY)
        squares = (
            squares + ((x - here).square() * w).sum(0) + change.square() * share * (mass - more)
        )
        mean = mean + change * share
    return Survey(count, total, mean, squares / mass.clamp(min=_TINY), largest)


def check_finite(x: Tensor, missing: bool = False) -> None:
    r"""Raises unless data are finite, or NaN if that means that they are missing.

    Raises:
        ValueError: If they are not.
    """
    if x.sum().isfinite():  # the quick way for what is so nearly always
        return
    if not missing and x.isnan().any():
        raise ValueError(
            "expected numbers, got NaN: fill them, drop their rows, or, where NaN means that an "
            "entry is missing, use GaussianMixture(allow_missing=True)"
        )
    if x.isinf().any():
        raise ValueError("expected finite numbers, got inf: drop or clip such rows")


_BLOCK = 8192
_TINY = torch.finfo(torch.float64).tiny
