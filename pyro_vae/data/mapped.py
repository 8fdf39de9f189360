r"""Arrays on disk, of which rows are read through a map of the file."""

__all__ = ["Mapped", "Packed"]

import os
import tempfile
import weakref
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.lazy import Lazy, Rows, cast, chunks
from pyro_vae.data.npy import Header, read_header
from pyro_vae.data.raw import tensor


class OnDisk:
    r"""An array in a file. Sent to another process, it is opened anew there.

    Arguments:
        path: The file.
        header: What it holds.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header = path, header

    def __len__(self) -> int:
        return self.header.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "header": self.header}

    @cached_property
    def array(self) -> np.ndarray:
        r"""The array, which cannot be written to."""
        dtype, shape, fortran, offset = self.header
        return np.memmap(self.path, dtype, "r", offset, shape, "F" if fortran else "C")


class Mapped(OnDisk):
    r"""The rows of a .npy file, in its own numbers."""

    @classmethod
    def open(cls, path: Path) -> Self:
        r"""Reads the header of a file.

        Raises:
            ValueError: If it is no .npy file of numbers.
        """
        with path.open("rb") as file:
            return cls(path.absolute(), read_header(file, path.stat().st_size))

    def __getitem__(self, index: slice | np.ndarray) -> Tensor:
        return tensor(np.array(self.array[index]), str(self.path))


class Packed(OnDisk):
    r"""Rows of bits, eight in a byte, in a temporary file that goes when they are done with.

    Arguments:
        path: The file.
        header: What it holds.
        shape: The shape of a row.
    """

    def __init__(self, path: Path, header: Header, shape: torch.Size) -> None:
        super().__init__(path, header)
        self.shape = shape

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "shape": self.shape}

    def __getitem__(self, index: slice | np.ndarray) -> Tensor:
        bits = np.unpackbits(self.array[index], axis=1, count=self.shape.numel())
        return torch.from_numpy(bits).reshape(-1, *self.shape)

    @classmethod
    def draw(cls, p: Lazy, draw: Callable[[Tensor], Tensor]) -> Lazy:
        r"""Draws bits for all rows, in their order, and keeps an eighth of a byte for each.

        Arguments:
            p: The rows that are drawn for, with shape :math:`(N, *)`.
            draw: What draws zeros and ones for some of the rows.
        """
        with tempfile.NamedTemporaryFile(prefix="pyro-vae-", delete=False) as file:
            path = Path(file.name)
            for part in chunks(p):
                bits = draw(part).flatten(1).to(torch.uint8).numpy()
                file.write(np.packbits(bits, axis=1).tobytes())
        shape = p.shape[1:]
        header = Header(np.dtype(np.uint8), (len(p), -(-shape.numel() // 8)), False, 0)
        store = cls(path, header, shape)
        weakref.finalize(store, _remove, path, os.getpid())
        return Lazy(Rows.of(store)).map(partial(cast, dtype=p.dtype))


def _remove(path: Path, process: int) -> None:
    if os.getpid() == process:  # other processes may have copies
        path.unlink(missing_ok=True)
