r"""State spaces of 20 and 80 steps: one site for a whole chain beside a site per step.

The same networks and data, in two kinds: ``deep``, whose transitions are perceptrons and whose
guide reads the data backwards; ``linear``, whose transitions are matrices. Each contender runs
in a process of its own, with an empty cache of the compiler: ``python benchmarks/chains.py``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.optim
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from steps import described, write
from torch import Tensor, nn

from pyro_vae import SVI
from pyro_vae.distributions import MarkovChain
from pyro_vae.nn import mlp, positive
from pyro_vae.recurrence import recur

N, F, D, H = 64, 16, 8, 32  # data in a batch, features, states, hidden
KINDS, LENGTHS, CONTENDERS = ("deep", "linear"), (20, 80), ("captured", "pyro")
BARS = {"ratio": 0.25, "first": 30.0}


class Transition(nn.Module):
    r"""A normal whose location and scale a network predicts from the state and inputs."""

    def __init__(self, inputs: int, deep: bool) -> None:
        super().__init__()
        self.layers = mlp(D + inputs, 2 * D, (H,) if deep else (), nn.Tanh)

    def forward(self, z: Tensor, *u: Tensor) -> TorchDistribution:
        loc, raw = self.layers(torch.cat([z, *u], -1)).chunk(2, -1)
        return dist.Normal(loc, positive(raw)).to_event(1)


class Model(PyroModule):
    r"""States, and what is seen of them."""

    def __init__(self, deep: bool, whole: bool) -> None:
        super().__init__()
        self.transition, self.decoder, self.whole = Transition(0, deep), nn.Linear(D, F), whole

    def forward(self, x: Tensor) -> None:
        steps = x.shape[1]
        start = dist.Normal(x.new_zeros(D), 1.0).to_event(1)
        with pyro.plate("data", x.shape[0], dim=-1):
            if self.whole:
                z = pyro.sample("z", MarkovChain(start, self.transition, steps=steps))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(2), obs=x)
                return
            fn = start
            for t in pyro.markov(range(steps)):
                z = pyro.sample(f"z_{t}", fn)
                pyro.sample(f"x_{t}", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x[:, t])
                fn = self.transition(z)


class Guide(PyroModule):
    r"""States given what comes after them, too."""

    def __init__(self, deep: bool, whole: bool) -> None:
        super().__init__()
        self.transition, self.whole, self.deep = Transition(H, deep), whole, deep
        self.encoder, self.cell = nn.Linear(F, H), nn.Linear(H, H)

    def forward(self, x: Tensor) -> None:
        h = self.encoder(x)
        if self.deep:
            first = h.new_zeros(h.shape[0], 1, H)
            h = recur(self.read, first, [h.flip(-2)], h.shape[-2]).flip(-2)
        fn = self.transition(x.new_zeros(x.shape[0], D), h[:, 0])
        with pyro.plate("data", x.shape[0], dim=-1):
            if self.whole:
                pyro.sample("z", MarkovChain(fn, self.transition, h[:, 1:]))
                return
            for t in pyro.markov(range(x.shape[1])):
                z = pyro.sample(f"z_{t}", fn)
                if t + 1 < x.shape[1]:
                    fn = self.transition(z, h[:, t + 1])

    def read(self, state: Tensor, row: Tensor) -> Tensor:
        return torch.tanh(self.cell(state) + row)


def contender(name: str, kind: str) -> Callable[[Tensor], object]:
    torch.manual_seed(0)
    whole, deep = name != "pyro", kind == "deep"
    pair = Model(deep, whole), Guide(deep, whole)
    if name == "pyro":
        svi = pyro.infer.SVI(*pair, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
        return svi.step
    return SVI(*pair, partial(torch.optim.Adam, lr=1e-3), capture=name == "captured").step


def measure(name: str, kind: str, length: int, count: int) -> dict[str, float]:
    r"""Seconds of the first two steps, milliseconds of later ones (median)."""
    torch.set_num_threads(1)
    x, step = torch.randn(N, length, F), contender(name, kind)
    times = []
    for _ in range(count + 5):
        start = time.perf_counter()
        step(x)
        times.append(time.perf_counter() - start)
    return {"first": sum(times[:2]), "ms": 1e3 * statistics.median(times[5:])}


def alone(*arguments: object) -> dict[str, float]:
    r"""Measures in a new process, whose compiler has nothing in its cache."""
    with tempfile.TemporaryDirectory() as folder:
        found = subprocess.run(
            [sys.executable, __file__, "--one", *map(str, arguments)],
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    measured: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=4, metavar=("NAME", "KIND", "LENGTH", "COUNT"))
    parser.add_argument("--count", type=int, default=50, help="steps that are timed")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    if options.one:
        name, kind, length, count = options.one
        print(json.dumps(measure(name, kind, int(length), int(count))))
        return
    print(f"batch {N}, {F} features, {D} states, {H} hidden; torch {torch.__version__}, 1 thread\n")
    print("| kind | steps | Pyro, ms | captured, ms | ÷ Pyro (≤ 0.25) | first steps, s (≤ 30) |")
    print("|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for kind in options.kinds:
        for length in options.lengths:
            ours, theirs = (alone(each, kind, length, options.count) for each in CONTENDERS)
            ratio = ours["ms"] / theirs["ms"]
            print(
                f"| {kind} | {length} | {theirs['ms']:.1f} | {ours['ms']:.2f} | {ratio:.3f} | "
                f"{ours['first']:.1f} |",
                flush=True,
            )
            row = {"kind": kind, "length": length, "ratio": ratio, **ours, "pyro": theirs}
            rows.append(row)
            write(options.json, {"machine": described(), "rows": rows})


if __name__ == "__main__":
    main()
