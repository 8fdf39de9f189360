r"""A run's history as columns, which take little room and keep every digit."""

__all__ = ["Row", "columns", "rows"]

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Row = dict[str, float]

_WHOLE = ("epoch", "iteration", "step")


def columns(history: Sequence[Row]) -> dict[str, list[Tensor]]:
    r"""For each name the numbers of the rows that have it, and the values there.

    Example:
        >>> rows(columns([{"epoch": 1, "elbo": -2.5}, {"epoch": 2}]))
        [{'epoch': 1, 'elbo': -2.5}, {'epoch': 2}]
    """
    names = dict.fromkeys(name for row in history for name in row)
    found = {name: [i for i, row in enumerate(history) if name in row] for name in names}
    return {
        name: [
            torch.tensor(places),
            torch.tensor([history[i][name] for i in places], dtype=torch.float64),
        ]
        for name, places in found.items()
    }


def rows(found: Mapping[str, Sequence[Tensor]]) -> list[Row]:
    r"""What :func:`columns` was given."""
    count = max((int(places[-1]) + 1 for places, _ in found.values()), default=0)
    history: list[Row] = [{} for _ in range(count)]
    for name, (places, values) in found.items():
        kind = int if name in _WHOLE else float
        for place, value in zip(places.tolist(), values.tolist(), strict=True):
            history[place][name] = kind(value)
    return history
