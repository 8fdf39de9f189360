r"""Rows that are read when they are needed: tensors that are not in memory."""

__all__ = ["Lazy", "Rows", "Store", "cast", "chunks", "each"]

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

# elements that are looked at together
CHUNK = 2**22


class Store(Protocol):
    r"""What rows are read from, by a slice or by their numbers; it can be sent to a process."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice | np.ndarray) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Rows:
    r"""Rows of a store, in some order, with something done to each.

    Arguments:
        store: What they are read from.
        order: The numbers of the rows, or a slice of them.
        steps: What is done to rows, in turn; each must do the same to a row whatever else comes.
    """

    store: Store
    order: Tensor | slice
    steps: tuple[Callable[[Tensor], Tensor], ...] = ()

    @classmethod
    def of(cls, store: Store) -> Self:
        r"""All rows of a store."""
        return cls(store, slice(0, len(store)))

    def __len__(self) -> int:
        order = self.order
        return order.stop - order.start if isinstance(order, slice) else len(order)

    @cached_property
    def example(self) -> Tensor:
        r"""The first row, with shape :math:`(1, \text{event\_shape})`."""
        return self.take(slice(0, 1))

    def take(self, index: slice | Tensor) -> Tensor:
        r"""Reads rows by a slice, or by their numbers with shape :math:`(B)`."""
        return self.finish(self.raw(index))

    def raw(self, index: slice | Tensor) -> Tensor:
        r"""Rows as the store has them."""
        order = self.select(index).order
        return self.store[order if isinstance(order, slice) else order.numpy()]

    def finish(self, x: Tensor) -> Tensor:
        r"""Does to rows of the store, on any device, what is to be done."""
        for step in self.steps:
            x = step(x)
        return x

    def select(self, index: slice | Tensor) -> "Rows":
        r"""Some of the rows, which are not read yet."""
        if not isinstance(self.order, slice):
            return replace(self, order=self.order[index])
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                first = self.order.start
                return replace(self, order=slice(first + start, first + max(start, stop)))
            index = torch.arange(start, stop, step, device="cpu")
        if index.dtype == torch.bool:
            index = index.nonzero().squeeze(-1)
        return replace(self, order=self.order.start + index.where(index >= 0, index + len(self)))


class Lazy(Tensor):
    r"""A tensor of which the rows are read when they are needed.

    It is indexed and split by rows and converted like any other; an index reads its rows, while
    a split or a conversion of the type reads nothing. Whatever else is done with it reads all.

    Arguments:
        rows: The rows.
    """

    rows: Rows

    @staticmethod
    def __new__(cls, rows: Rows) -> "Lazy":
        example = rows.example
        shape = (len(rows), *example.shape[1:])
        return Tensor._make_wrapper_subclass(
            cls, shape, dtype=example.dtype, device=torch.device("cpu")
        )

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    # results are plain tensors
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*tree_map(_read, args), **tree_map(_read, kwargs or {}))

    def read(self) -> Tensor:
        r"""All rows, in memory."""
        return self.rows.take(slice(0, len(self)))

    def map(self, *steps: Callable[[Tensor], Tensor]) -> "Lazy":
        r"""The rows with something more done to each."""
        return Lazy(replace(self.rows, steps=(*self.rows.steps, *steps)))

    def select_rows(self, index: slice | Tensor) -> "Lazy":
        r"""Some of the rows, which are not read yet."""
        return Lazy(self.rows.select(index))

    def __getitem__(self, index: Any) -> Tensor:
        first, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(first, int):
            rows = slice(first, first + 1) if first >= 0 else slice(first, first + 1 or None)
            if not -len(self) <= first < len(self):
                raise IndexError(f"expected a row of {len(self)}, got {first}")
            return self.rows.take(rows)[(0, *rest)]
        if isinstance(first, slice) or (isinstance(first, Tensor) and first.dim() == 1):
            return self.rows.take(first if isinstance(first, slice) else first.cpu())[
                (slice(None), *rest)
            ]
        return self.read()[index]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[row] for row in range(len(self)))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Lazy, (self.rows,)

    def __deepcopy__(self, memo: Any) -> "Lazy":
        return self

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Lazy({tuple(self.shape)}, {self.dtype})"

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return np.asarray(self.read(), *args, **kwargs)

    def numpy(self, **kwargs: Any) -> np.ndarray:
        return self.read().numpy(**kwargs)

    def tolist(self) -> list[Any]:
        return self.read().tolist()

    def detach(self) -> "Lazy":
        return self

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        if not kwargs and len(args) == 1 and isinstance(args[0], torch.dtype):
            return self if args[0] == self.dtype else self.map(partial(cast, dtype=args[0]))
        return self.read().to(*args, **kwargs)

    def split(self, size: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
        if dim != 0 or not isinstance(size, int):
            return self.read().split(size, dim)
        return tuple(
            self.select_rows(slice(start, min(start + size, len(self))))
            for start in range(0, len(self), size)
        )


def _read(value: Any) -> Any:
    return value.read() if isinstance(value, Lazy) else value


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    r"""The same numbers in another type."""
    return x.to(dtype)


def chunks(x: Tensor, size: int | None = None) -> Iterator[Tensor]:
    r"""A tensor by rows, in memory, in pieces of about 4 million elements."""
    rows = size or max(1, CHUNK // max(1, x.shape[1:].numel()))
    return (_read(part) for part in x.split(rows))


def each(x: Tensor, *steps: Callable[[Tensor], Tensor]) -> Tensor:
    r"""Does something to rows: now if they are in memory, else when they are read."""
    if isinstance(x, Lazy):
        return x.map(*steps)
    for step in steps:
        x = step(x)
    return x
