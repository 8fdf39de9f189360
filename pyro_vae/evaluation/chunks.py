r"""How much is computed at once."""

__all__ = ["Largest", "chunk_sizes"]

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

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
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max(self.elements, *sizes) if sizes else self.elements
        return result


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
