r"""Estimates of many features in a few rows."""

__all__ = ["fold"]

import math
import re
from collections.abc import Mapping

import torch

from pyro_vae.evaluation.estimate import Estimate, average


def fold(estimates: Mapping[str, Estimate], shown: int = 5) -> dict[str, Estimate]:
    r"""Keeps the greatest of the features of each family, and the mean of its others.

    A family are the estimates of one name but for an index, such as ``kl.z[0]``, ``kl.z[1]``.
    Its greatest come first, the greatest of all at the front, then ``kl.z, 45 others``. What has
    no index, or not more than ``shown + 1`` in its family, is all there.

    Arguments:
        estimates: The estimates by name.
        shown: How many of a family stand for themselves.

    Example:
        >>> found = {f"kl.z[{d}]": Estimate(float(d % 3), 0.0, 0.1) for d in range(50)}
        >>> list(fold(found, shown=2))
        ['kl.z[2]', 'kl.z[5]', 'kl.z, 48 others']
    """
    families: dict[str, dict[str, Estimate]] = {}
    for name, estimate in estimates.items():
        families.setdefault(re.sub(r"\[\d+\]$", "[", name), {})[name] = estimate
    found: dict[str, Estimate] = {}
    for family, members in families.items():
        ranked = dict(sorted(members.items(), key=lambda item: -item[1].value))
        names = list(ranked)
        kept = names if len(names) <= shown + 1 else names[:shown]
        found |= {name: ranked[name] for name in kept}
        if others := [ranked[name] for name in names[len(kept) :]]:
            found[f"{family.removesuffix('[')}, {len(others)} others"] = _mean(others)
    return found


def _mean(estimates: list[Estimate]) -> Estimate:
    r"""The mean of estimates; its Monte Carlo error is the greatest that it can have."""
    first, count = estimates[0], len(estimates)
    unit = f"{first.unit}, on average".removeprefix(", ")
    stderr = sum(e.stderr for e in estimates) / count
    known = [e.per_datum for e in estimates if e.per_datum is not None]
    if len(known) == count:
        per_datum = torch.stack(known).mean(0)
        return Estimate(*average(per_datum, stderr), per_datum, unit, first.seed)
    value = sum(e.value for e in estimates) / count
    return Estimate(value, stderr, math.nan, None, unit, first.seed)
