r"""Steps and evidence with products of networks in bfloat16 beside float32.

    uv run benchmarks/products.py

The programs are those of an MNIST VAE (784-400-50, batches of 128). Captured steps of both types
take turns; ratios are of means of one round, with their quartiles over rounds. Evidence: the
captured chunks of ``evaluate`` with K = 5000. All is CPU time, which other work on the machine
changes little. What training loses says ``products_training.py``.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args
from unittest import mock

import torch
from contenders import ours, programs
from reports import quartiles
from sizes import SIZES, Size, batches

from pyro_vae import evaluate, multiply_in
from pyro_vae.captured import Captured
from pyro_vae.evaluation import scores
from pyro_vae.products import Products

TYPES: tuple[Products, ...] = get_args(Products)
SIZE = SIZES["mnist"]


def stepper(size: Size, products: Products) -> Callable[[], Any]:
    step, x = ours(size, capture=True, products=products).step, batches(size)[0]
    for _ in range(5):
        step(x)
    return lambda: step(x)


def seconds(call: Callable[[], Any], count: int) -> float:
    r"""Those of a call, on average: of one the kernel knows other threads' only to a tick."""
    start = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - start) / count


def compare(name: str, size: Size, rounds: int, count: int) -> None:
    r"""Prints medians, and quartiles of ratios."""
    calls = {kind: stepper(size, kind) for kind in TYPES}
    times = [{kind: seconds(call, count) for kind, call in calls.items()} for _ in range(rounds)]
    show(name, times)


def show(name: str, times: list[dict[Products, float]]) -> None:
    single, half = ([1e3 * found[kind] for found in times] for kind in TYPES)
    ratios = [b / a for a, b in zip(single, half, strict=True)]
    middle, low, high = quartiles(ratios)
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
    Timed.times = []
    model, guide = (multiply_in(program, products) for program in programs(SIZE))
    with mock.patch.object(scores, "Captured", Timed):
        evaluate(model, guide, batches(SIZE)[0][:32], ("nll",), 5000, capture=True)
    return Timed.times[2:-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=("steps", "evidence"))
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("expected at least 2 rounds, for quartiles")
    torch.set_num_threads(options.threads)

    print("| work, CPU time | float32 ms | bfloat16 ms | ratio |\n|---|---|---|---|", flush=True)
    if options.only in (None, "steps"):
        compare("MNIST VAE step", SIZE, options.rounds, 30)
        compare("IWAE step, k = 50", replace(SIZE, particles=50), options.rounds, 4)
    if options.only in (None, "evidence"):
        found = [{kind: statistics.median(chunk_times(kind)) for kind in TYPES} for _ in range(3)]
        show("chunk of evidence, K = 5000", found)


if __name__ == "__main__":
    main()
