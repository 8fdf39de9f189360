r"""State spaces of 20 and 80 steps: one site for a whole chain beside a site per step.

The same networks and data, in two kinds: ``deep``, whose transitions are perceptrons and whose
guide reads the data backwards; ``linear``, whose transitions are matrices. Each pair of contenders
has a process of its own, with an empty cache of the compiler. Both must agree on the loss on
average, and then take steps by turns; ratios are of medians of one round, with their quartiles.

    uv run benchmarks/chains.py
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
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
from reports import described, quartiles, write
from sizes import RATE, WARM, Contender
from steps import block, check_start, race
from torch import Tensor, nn

from pyro_vae import SVI
from pyro_vae.distributions import MarkovChain
from pyro_vae.nn import mlp, positive
from pyro_vae.recurrence import recur

N, F, D, H = 64, 16, 8, 32  # data in a batch, features, states, hidden
KINDS, LENGTHS = ("deep", "linear"), (20, 80)
OURS, PYRO = "captured", "pyro"
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
        # Pyro's one store knows parameters by their names, which the model's must not be
        self.combiner, self.whole, self.deep = Transition(H, deep), whole, deep
        self.encoder, self.cell = nn.Linear(F, H), nn.Linear(H, H)

    def forward(self, x: Tensor) -> None:
        h = self.encoder(x)
        if self.deep:
            first = h.new_zeros(h.shape[0], 1, H)
            h = recur(self.read, first, [h.flip(-2)], h.shape[-2]).flip(-2)
        fn = self.combiner(x.new_zeros(x.shape[0], D), h[:, 0])
        with pyro.plate("data", x.shape[0], dim=-1):
            if self.whole:
                pyro.sample("z", MarkovChain(fn, self.combiner, h[:, 1:]))
                return
            for t in pyro.markov(range(x.shape[1])):
                z = pyro.sample(f"z_{t}", fn)
                if t + 1 < x.shape[1]:
                    fn = self.combiner(z, h[:, t + 1])

    def read(self, state: Tensor, row: Tensor) -> Tensor:
        return torch.tanh(self.cell(state) + row)


def contenders(kind: str) -> dict[str, Contender]:
    r"""Both, with the same weights."""
    pairs = []
    for whole in (True, False):
        torch.manual_seed(0)
        pairs.append((Model(kind == "deep", whole), Guide(kind == "deep", whole)))
    ours = SVI(*pairs[0], partial(torch.optim.Adam, lr=RATE), capture=True)
    theirs = pyro.infer.SVI(*pairs[1], pyro.optim.Adam({"lr": RATE}), pyro.infer.Trace_ELBO())
    return {OURS: Contender(ours.step), PYRO: Contender(theirs.step)}


def measure(kind: str, length: int, rounds: int, steps: int) -> dict[str, Any]:
    r"""Seconds of the first two steps, milliseconds of later ones, and their ratio."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data, found = [torch.randn(N, length, F)], contenders(kind)
    begun = {name: block(each, data, WARM) for name, each in found.items()}
    losses = {name: torch.tensor(taken.losses) for name, taken in begun.items()}
    check_start(OURS, losses[OURS], losses[PYRO], exact=0)
    blocks = race(found, data, rounds, steps)
    medians = {name: [statistics.median(b.clock) for b in own] for name, own in blocks.items()}
    return {
        "first": {name: sum(taken.clock[:2]) for name, taken in begun.items()},
        "ms": {name: 1e3 * statistics.median(own) for name, own in medians.items()},
        "ratio": quartiles([a / b for a, b in zip(medians[OURS], medians[PYRO], strict=True)]),
    }


def alone(*arguments: object) -> dict[str, Any]:
    r"""Measures in a new process, whose compiler has nothing in its cache."""
    with tempfile.TemporaryDirectory() as folder:
        found = subprocess.run(
            [sys.executable, __file__, "--one", *map(str, arguments)],
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    measured: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5, help="of both, at least 2")
    parser.add_argument("--steps", type=int, default=10, help="of each in a round")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    if options.one:
        kind, *numbers = options.one
        print(json.dumps(measure(kind, *map(int, numbers))))
        return
    if options.rounds < 2:
        parser.error("expected at least 2 rounds, for quartiles")
    print(f"{described()}; batch {N}, {F} features, {D} states, {H} hidden; 1 thread\n")
    print("| kind | steps | Pyro, ms | captured, ms | ÷ Pyro (≤ 0.25) | first steps, s (≤ 30) |")
    print("|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for kind in options.kinds:
        for length in options.lengths:
            found = alone(kind, length, options.rounds, options.steps)
            middle, low, high = found["ratio"]
            print(
                f"| {kind} | {length} | {found['ms'][PYRO]:.1f} | {found['ms'][OURS]:.2f} | "
                f"{middle:.3f} ({low:.3f}–{high:.3f}) | {found['first'][OURS]:.1f} |",
                flush=True,
            )
            rows.append({"kind": kind, "length": length, **found})
            write(options.json, {"machine": described(), "bars": BARS, "rows": rows})


if __name__ == "__main__":
    main()
