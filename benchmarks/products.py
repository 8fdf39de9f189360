r"""Steps and evidence with products of networks in bfloat16 beside float32.

    uv run benchmarks/products.py

The programs are those of an MNIST VAE (784-400-50, batches of 128). Captured steps of both types
take turns; ratios are of medians of one round, with their quartiles over rounds. Evidence: the
captured chunks of ``evaluate`` with K = 5000. All is CPU time, which other work on the machine
changes little. What training loses says ``products_training.py``.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import pyro
import torch
from torch import Tensor

from pyro_vae import SVI, evaluate, multiply_in
from pyro_vae.captured import Captured
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.nn import mlp
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.products import Products

TYPES: tuple[Products, ...] = get_args(Products)
adam = partial(torch.optim.Adam, lr=1e-3)


def pair() -> tuple[VAE, AmortizedNormal]:
    pyro.set_rng_seed(0)
    decoder, encoder = mlp(50, 784, (400,)), mlp(784, 100, (400,))
    return VAE((784,), 50, decoder=decoder), AmortizedNormal((784,), {"z": 50}, encoder)


def rows(count: int) -> Tensor:
    return (torch.rand(count, 784) < 0.13).float()


def stepper(products: Products, objective: Any) -> Callable[[], Any]:
    svi = SVI(*pair(), adam, objective, capture=True, products=products)
    x = rows(128)
    for _ in range(5):
        svi.step(x)
    return lambda: svi.step(x)


def seconds(call: Callable[[], Any], count: int) -> list[float]:
    found = []
    for _ in range(count):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return found


def compare(name: str, calls: dict[Products, Callable[[], Any]], rounds: int, count: int) -> None:
    r"""Prints medians, and quartiles of ratios."""
    times = [{kind: seconds(call, count) for kind, call in calls.items()} for _ in range(rounds)]
    medians = [{kind: statistics.median(t) for kind, t in found.items()} for found in times]
    show(name, medians)


def show(name: str, medians: list[dict[Products, float]]) -> None:
    single, half = ([1e3 * found[kind] for found in medians] for kind in TYPES)
    ratios = [b / a for a, b in zip(single, half, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    ms = f"{statistics.median(single):.2f} | {statistics.median(half):.2f}"
    print(f"| {name} | {ms} | {middle:.2f} ({low:.2f} to {high:.2f}) |", flush=True)


class Timed(Captured):
    r"""Keeps the seconds of calls."""

    times: list[float]

    def __call__(self, *args: Any) -> Any:
        start = time.process_time()
        found = super().__call__(*args)
        self.times.append(time.process_time() - start)
        return found


def chunk_times(products: Products) -> list[float]:
    r"""Of captured chunks of 5,000 particles and 32 data, but for the first two and the last."""
    from pyro_vae.evaluation import scores

    Timed.times = []
    scores.Captured = Timed  # type: ignore[misc]
    model, guide = (multiply_in(program, products) for program in pair())
    evaluate(model, guide, rows(32), metrics=("nll",), particles=5000, capture=True)
    scores.Captured = Captured  # type: ignore[misc]
    return Timed.times[2:-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=("steps", "evidence"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    print("| work, CPU time | float32 ms | bfloat16 ms | ratio |\n|---|---|---|---|", flush=True)
    if options.only in (None, "steps"):
        steps = {kind: stepper(kind, ELBO()) for kind in TYPES}
        compare("MNIST VAE step", steps, options.rounds, 30)
        steps = {kind: stepper(kind, IWAE(50)) for kind in TYPES}
        compare("IWAE step, k = 50", steps, options.rounds, 4)
    if options.only in (None, "evidence"):
        found = [{kind: statistics.median(chunk_times(kind)) for kind in TYPES} for _ in range(3)]
        show("chunk of evidence, K = 5000", found)


if __name__ == "__main__":
    main()
