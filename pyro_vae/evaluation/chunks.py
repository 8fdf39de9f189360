r"""How much is computed at once."""

__all__ = ["Batch", "Largest", "batches", "chunk_sizes", "few"]

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

Batch = tuple[Tensor, ...]

# elements of the largest tensor: what a processor's cache likes, what keeps an accelerator busy
_BUDGET = {"cpu": 2**22}
_ACCELERATOR = 2**26


class Largest(TorchFunctionMode):
    r"""Notes the number of elements of the largest tensor made while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 1

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is Tensor.bfloat16:  # that of a weight does not grow with the data
            return result
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.numel())
        return result


def few(fields: Batch, place: torch.device, batch_size: int | None = None) -> Batch:
    r"""Some rows on a device, to see what programs do: at most 64, or the size of a batch."""
    return tuple(field[: min(batch_size or 64, 64)].to(place) for field in fields)


def batches(fields: Batch, size: int, place: torch.device) -> Iterator[Batch]:
    r"""All rows, so many at once, on a device."""
    for part in zip(*(field.split(size) for field in fields), strict=True):
        yield tuple(field.to(place) for field in part)


def chunk_sizes(
    elements: int, rows: int, particles: int, batch_size: int | None, device: torch.device
) -> tuple[int, int]:
    r"""How many data, and how many particles of each, are computed at once.

    Particles come before data, since an encoder runs once for all particles of a chunk, but
    not all of them where there would be fewer than 64 data left, of which it is fast.

    Arguments:
        elements: The elements of the largest tensor, for one particle of one datum.
        rows: The number of data.
        particles: The number of particles.
        batch_size: The most data at once, if asked for.
        device: Where it is computed.
    """
    budget = max(1, _BUDGET.get(device.type, _ACCELERATOR) // elements)
    batch = min(rows, budget, batch_size or max(64, budget // particles))
    return batch, min(particles, max(1, budget // batch))
