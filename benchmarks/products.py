r"""Products of networks in bfloat16 beside float32: steps, evidence, and what training loses.

    PYRO_VAE_DATA=../shared/data uv run benchmarks/products.py --threads 2

The programs are those of an MNIST VAE (784-400-50, batches of 128). Captured steps of both types
take turns; ratios are of medians of one round, with their quartiles over rounds. Evidence: the
captured chunks of ``evaluate`` with K = 5000. Then both train on static MNIST from one seed, and
the evidence of 1,000 test images is estimated for both in float32, and for the second also in
bfloat16.
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

from pyro_vae import SVI, evaluate, fit, multiply_in
from pyro_vae.captured import Captured
from pyro_vae.data import load
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
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
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
        start = time.perf_counter()
        found = super().__call__(*args)
        self.times.append(time.perf_counter() - start)
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


def train(products: Products, epochs: int) -> tuple[VAE, AmortizedNormal]:
    data = load("static-mnist")
    decoder, encoder = mlp(50, 784, (400,)), mlp(784, 100, (400,))
    pyro.set_rng_seed(0)
    model = VAE(data.event_shape, 50, data.likelihood, decoder)
    guide = AmortizedNormal(data.event_shape, {"z": 50}, encoder)
    start = time.perf_counter()
    options: dict[str, Any] = {"validation": False, "progress": False, "capture": True}
    fit(model, guide, data, epochs=epochs, batch_size=128, products=products, **options)
    print(f"trained with products in {products}: {time.perf_counter() - start:.0f} s", flush=True)
    return model, guide


def evidence(model: Any, guide: Any, what: str) -> None:
    x = load("static-mnist").test["x"][:1000]
    found = evaluate(model, guide, x, metrics=("nll",), particles=500, capture=False)["nll"]
    print(f"| {what} | {-float(found):.3f} | {found.stderr:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--only", choices=("steps", "evidence", "training"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    if options.only in (None, "steps", "evidence"):
        print("| work | float32 ms | bfloat16 ms | ratio |\n|---|---|---|---|", flush=True)
    if options.only in (None, "steps"):
        steps = {kind: stepper(kind, ELBO()) for kind in TYPES}
        compare("MNIST VAE step", steps, options.rounds, 30)
        steps = {kind: stepper(kind, IWAE(50)) for kind in TYPES}
        compare("IWAE step, k = 50", steps, options.rounds, 4)
    if options.only in (None, "evidence"):
        found = [{kind: statistics.median(chunk_times(kind)) for kind in TYPES} for _ in range(3)]
        show("chunk of evidence, K = 5000", found)
    if options.only in (None, "training"):
        single, half = (train(kind, options.epochs) for kind in TYPES)
        print("| evidence, 1,000 test images | nats | stderr |\n|---|---|---|", flush=True)
        evidence(*single, "trained in float32")
        evidence(*half, "trained in bfloat16")
        rounded = (multiply_in(program, "bfloat16") for program in half)
        evidence(*rounded, "trained and evaluated in bfloat16")


if __name__ == "__main__":
    main()
