r"""A user's own file, and a package of theirs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MINE = """
import sys
from os import system
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from pyro.nn import PyroModule

from pyro_vae.models import VAE

Path("imported").touch()


class Mine(PyroModule):
    def __init__(
        self, event_shape, width: int = 3, net: nn.Module | None = None, depth=2, **others
    ):
        super().__init__()
        self.event_shape, self.width, self.net, self.others = event_shape, width, net, others
        self.depth = depth


@dataclass
class Scaled:
    scale: float = 1.0


class Net(nn.Module):
    def __init__(self, inputs: int, outputs: int, depth: int = 1):
        super().__init__()
        self.layer = nn.Linear(inputs, outputs * depth)


def model(x):
    return "the program"


def _hidden(x):
    return x


value = 3
"""


@contextmanager
def written() -> Iterator[None]:
    r"""The file ``mine.py``, the module ``minepackaged`` and ``minepackage.parts``, here."""
    before = set(sys.modules)
    Path("minepackage").mkdir()
    for name in ("minepackage/parts.py", "minepackaged.py", "mine.py"):
        Path(name).write_text(MINE)
    Path("minepackage/__init__.py").touch()
    yield
    for name in set(sys.modules) - before:
        if "mine" in name:
            del sys.modules[name]


def imported() -> bool:
    r"""Whether any of them was imported."""
    return Path("imported").exists()
