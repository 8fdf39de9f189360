r"""The state of every source of randomness that a program may draw from."""

__all__ = ["random_state", "set_random_state"]

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    r"""The state of torch's, numpy's and Python's generators, as tensors and numbers."""
    _, key, *place = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": [torch.from_numpy(np.asarray(key).astype(np.int64)), *place],
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    r"""Takes up what :func:`random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    key, *place = state["numpy"]
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), *place))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
