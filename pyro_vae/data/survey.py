r"""What the values of a field are like, found in one pass."""

__all__ = ["Survey", "observed_extremes", "survey"]

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.data.lazy import chunks


class Survey(NamedTuple):
    r"""What there is among the values of a field.

    Arguments:
        low, high: The least and the greatest value of each feature, with shape ``event_shape``;
            of one that is nowhere observed, the first is the greater one.
        whole: Whether all values are integers.
        infinite: How many values are not finite.
        first: The index of the first such, if there is one.
    """

    low: Tensor
    high: Tensor
    whole: bool
    infinite: int = 0
    first: tuple[int, ...] | None = None


def survey(x: Tensor, missing: bool = False) -> Survey:
    r"""Looks at all values of a field, of which there is at least one, with shape :math:`(N, *)`.

    Arguments:
        x: The field.
        missing: Whether NaN is no value, but says that there is none.

    Example:
        >>> found = survey(torch.tensor([[0.5, 3.0], [1.0, 2.0]]))
        >>> found.low.tolist(), found.high.tolist(), found.whole
        ([0.5, 2.0], [1.0, 3.0], False)
    """
    start = 0
    found: Survey | None = None
    for part in chunks(x):
        values = looked_at(part, start, missing)
        found = values if found is None else joined(found, values)
        start += part.shape[0]
    if found is None:
        raise ValueError(f"expected a field with rows, got shape {tuple(x.shape)}")
    return found


def looked_at(x: Tensor, start: int, missing: bool) -> Survey:
    r"""What there is in some rows, of which the first has the number ``start``."""
    low, high = observed_extremes(x) if missing else (x.amin(dim=0), x.amax(dim=0))
    if not x.is_floating_point():
        return Survey(low, high, whole=True)
    if missing:
        x = x.masked_fill(x.isnan(), 0.0)

    # a sum of finite numbers may overflow, which costs only a closer look
    bad = torch.zeros(0) if bool(x.sum().isfinite()) else ~x.isfinite()
    if not bad.any():
        return Survey(low, high, whole=bool((x == x.round()).all()))
    row, *rest = bad.nonzero()[0].tolist()
    return Survey(low, high, False, int(bad.sum()), (start + row, *rest))


def observed_extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""The least and the greatest of each feature's values but NaN; of none, infinities."""
    holes = x.isnan()
    if not holes.any():
        return x.amin(dim=0), x.amax(dim=0)
    return x.masked_fill(holes, torch.inf).amin(dim=0), x.masked_fill(holes, -torch.inf).amax(dim=0)


def joined(one: Survey, other: Survey) -> Survey:
    r"""What there is in both."""
    return Survey(
        one.low.minimum(other.low),
        one.high.maximum(other.high),
        one.whole and other.whole,
        one.infinite + other.infinite,
        other.first if one.first is None else one.first,
    )
