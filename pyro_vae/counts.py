r"""Numbers of things, as arguments."""

__all__ = ["check_counts"]

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
