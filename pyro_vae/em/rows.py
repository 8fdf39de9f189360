r"""Data as blocks of rows, whose memory does not grow with their number."""

__all__ = ["Batches", "Block", "Rows", "Table"]

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Block(NamedTuple):
    r"""Some rows with shape :math:`(B, D)`, and their weights; ``None``: all are one."""

    x: Tensor
    weights: Tensor | None


class Rows(ABC):
    r"""Data that can be gone through as often as one likes.

    Arguments:
        dtype: The type in which it is computed.
        device: Where it is computed.
        features: The number of features :math:`D`.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, features: int) -> None:
        self.dtype, self.device, self.features = dtype, device, features

    @abstractmethod
    def blocks(self, size: int) -> Iterator[Block]:
        r"""Goes through the rows in their order, at most ``size`` at once."""

    @abstractmethod
    def some(self, number: int, random: np.random.RandomState) -> Block:
        r"""All rows that weigh something, or that many of them at random."""

    def _place(self, x: Any) -> Tensor:
        return _tensor(x).to(device=self.device, dtype=self.dtype)


class Table(Rows):
    r"""Rows of an array or a tensor, which is not copied; it may be a map of a file.

    Arguments:
        x: The array or tensor, with shape :math:`(N, D)`.
        weights: How often each row counts, with shape :math:`(N)`.
        dtype: The type in which it is computed.
        device: Where it is computed.
    """

    def __init__(
        self,
        x: np.ndarray | Tensor,
        weights: np.ndarray | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(dtype, device, x.shape[1])
        self.x = x
        self.weights = None if weights is None else torch.from_numpy(weights)
        self.count = x.shape[0] if weights is None else int(np.count_nonzero(weights))

    def blocks(self, size: int) -> Iterator[Block]:
        for start in range(0, self.x.shape[0], size):
            x = self._place(self.x[start : start + size])
            if self.weights is None:
                yield Block(x, None)
                continue
            weights = self.weights[start : start + size].to(x)
            there = weights > 0  # what weighs nothing may be anything
            if there.any():
                yield Block(x[there], weights[there])

    def some(self, number: int, random: np.random.RandomState) -> Block:
        if self.weights is None and self.count <= number:
            return Block(self._place(self.x[:]), None)
        there = np.arange(self.count) if self.weights is None else np.flatnonzero(self.weights)
        if self.count > number:
            there = there[np.sort(random.choice(self.count, number, replace=False))]
        index = torch.from_numpy(there)
        x = self._place(self.x[index] if isinstance(self.x, Tensor) else self.x[there])
        return Block(x, None if self.weights is None else self.weights[index].to(x))


class Batches(Rows):
    r"""Rows of batches that can be gone through anew, as those of a list or a data loader.

    Arguments:
        batches: Arrays or tensors with shape :math:`(B, D)`, or tuples that begin with one.
        dtype: The type in which it is computed.
        device: Where it is computed.
        features: The number of features :math:`D`.
    """

    def __init__(
        self, batches: Iterable[Any], dtype: torch.dtype, device: torch.device, features: int
    ) -> None:
        super().__init__(dtype, device, features)
        self.batches = batches

    def blocks(self, size: int) -> Iterator[Block]:
        for batch in self.batches:
            x = first_of(batch)
            if x.ndim != 2 or x.shape[1] != self.features:
                raise ValueError(
                    f"expected batches with shape (B, {self.features}), got {tuple(x.shape)}"
                )
            for start in range(0, x.shape[0], size):
                yield Block(self._place(x[start : start + size]), None)

    def some(self, number: int, random: np.random.RandomState) -> Block:
        kept, seen = torch.empty(0, self.features, dtype=self.dtype, device=self.device), 0
        for x, _ in self.blocks(number):
            free = min(number - len(kept), len(x))
            kept, x = torch.cat([kept, x[:free]]), x[free:]
            seen += free
            # with each further row, all so far are as likely to be among those that are kept
            places = random.randint(0, seen + 1 + np.arange(len(x)))
            seen += len(x)
            for row in np.flatnonzero(places < number):
                kept[places[row]] = x[row]
        return Block(kept, None)


def first_of(batch: Any) -> Any:
    r"""The rows of a batch, which may be the first of several fields."""
    x = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
    return x if isinstance(x, Tensor) else np.asarray(x)


def _tensor(x: np.ndarray | Tensor) -> Tensor:
    if isinstance(x, Tensor):
        return x
    if x.flags.writeable and all(stride >= 0 for stride in x.strides):
        return torch.from_numpy(x)
    return torch.from_numpy(np.array(x))
