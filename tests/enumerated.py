r"""All partitions of a few things."""

from collections.abc import Iterator

import torch
from torch import Tensor


def partitions(size: int) -> Tensor:
    r"""All of them, as labels with shape (Bell number, size)."""

    def grow(labels: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(labels) == size:
            yield labels
            return
        for label in range(max(labels, default=-1) + 2):
            yield from grow((*labels, label))

    return torch.tensor(list(grow(())))
