r"""Evaluation, encoding and sampling as compiled graphs, beside the same run eagerly.

    uv run benchmarks/evaluation.py --threads 1
    uv run benchmarks/evaluation.py --threads 2

Times one chunk of the evaluation of an MNIST-sized VAE (784-400-50, 256 binary data, K = 1000:
chunks of 64 data and 83 particles), a batch of 256 that is encoded and one that is sampled;
eager and captured calls take turns in one process, and medians are printed. Then a whole
``evaluate``, eager and captured, the latter with the seconds that its compilation takes from an
empty cache and from a full one, and the number of calls from which a graph pays.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae import captured, evaluate
from pyro_vae.evaluation import encode, sample
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.nn import mlp

DATA, PARTICLES = 256, 1000
Call = Callable[..., Any]


def programs() -> tuple[VAE, AmortizedNormal, Tensor]:
    r"""The pair, untrained, and data with the share of ones that digits have."""
    pyro.set_rng_seed(0)
    model = VAE((784,), 50, decoder=mlp(50, 784, (400,)))
    guide = AmortizedNormal((784,), {"z": 50}, mlp(784, 100, (400,)))
    return model, guide, (torch.rand(DATA, 784) < 0.13).float()


def tasks() -> dict[str, Callable[[bool], object]]:
    r"""What is done, by name; whether with graphs."""
    model, guide, x = programs()
    both: tuple[Any, Any] = model, guide
    return {
        "evaluate": lambda graph: evaluate(*both, x, particles=PARTICLES, capture=graph),
        "encode": lambda graph: encode(*both, x, draws=60, capture=graph),
        "sample": lambda graph: sample(*both, n=60 * DATA, capture=graph),
    }


class Beside(captured.Captured):
    r"""Runs the function eagerly and as a graph in turn, and keeps both times by sizes."""

    times: list[tuple[float, float]]

    def __call__(self, *args: Any) -> Any:
        if self.graph is None:
            type(self).times = []
            return super().__call__(*args)
        if captured._sizes(args) != self._sizes:
            return super().__call__(*args)
        found = []
        for call in (self.function, super().__call__):
            start = time.perf_counter()
            result = call(*args)
            found.append(time.perf_counter() - start)
        self.times.append((found[0], found[1]))
        return result
