r"""Numbers as arguments: of things, and positive ones."""

__all__ = ["check_counts", "check_positive"]

import math
from operator import index
from typing import Any


def check_counts(**counts: Any) -> None:
    r"""Raises unless every argument that is not ``None`` is an integer of at least 1."""
    for name, count in counts.items():
        if count is None:
            continue
        try:
            index(count)
        except TypeError as error:
            raise TypeError(f"expected {name} to be an integer, got {count!r}") from error
        if count < 1:
            raise ValueError(f"expected {name} of at least 1, got {count}")


def check_positive(**numbers: Any) -> None:
    r"""Raises unless every argument is one positive finite number."""
    for name, given in numbers.items():
        try:
            positive = 0 < float(given) < math.inf
        except (TypeError, ValueError, RuntimeError):  # no number, or several
            positive = False
        if not positive:
            raise ValueError(f"expected {name} to be a positive number, got {given!r}")
