r"""The evidence of 1,000 images with K = 5000, beside a loop over images and the bare products.

    uv run --group bench benchmarks/evidence.py --threads 2

An MNIST-sized VAE (784-400-50) at its start. The loop is what one would write by hand: an image at
a time, all particles at once. The products are the decoder's two, biases included, for one image
after another, in float32 and in bfloat16: nothing that decodes so many particles is faster.
pythae's ``get_nll`` has the same programs and few images, since it is slow. All take turns; times
are per image, ratios those of a round. The time of ``evaluate`` is that of a whole call, with the
compilation, whose code is in the cache; what the later half takes is what a whole call exceeds one
of half the images by. Where others use the machine, ``--cpu`` with one thread takes the time of the
processor instead, without that of the compiler's own processes. All must agree on the evidence.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from contenders import programs
from reports import described, verdict, write
from sizes import SIZES, probabilities
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae import multiply_in
from pyro_vae.evaluation import evaluate
from pyro_vae.nn import positive
from pyro_vae.products import Products

SIZE = SIZES["mnist"]
OURS: dict[str, Products] = {"this, evaluate": "float32", "this, products in bfloat16": "bfloat16"}
LATER = {name: f"{name}, the later half" for name in OURS}
LOOP, PYTHAE = "torch, a loop over images", "pythae, get_nll"
PRODUCTS, HALVES = "the products", "the products in bfloat16"
MOST = dict(zip(OURS, (0.35, 0.15), strict=True))  # of the loop, to reach

Task = Callable[[Tensor, int], float | None]  # images, particles: the mean evidence


def by_hand(decoder: nn.Module, encoder: nn.Module) -> Task:
    @torch.no_grad()
    def task(x: Tensor, particles: int) -> float:
        total = 0.0
        for image in x:
            loc, raw = encoder(image).chunk(2, -1)
            scale = positive(raw)
            noise = torch.randn(particles, SIZE.latents)
            z = loc + scale * noise
            expected = image.expand(particles, -1)
            fit = F.binary_cross_entropy_with_logits(decoder(z), expected, reduction="none").sum(-1)
            weights = ((noise.square() - z.square()) / 2 + scale.log()).sum(-1) - fit
            total += float(weights.logsumexp(0)) - math.log(particles)
        return total / len(x)

    return task


def products(dtype: torch.dtype) -> Task:
    decoder, _ = SIZE.networks()
    first, second = (layer.to(dtype) for layer in decoder if isinstance(layer, nn.Linear))

    @torch.no_grad()
    def task(x: Tensor, particles: int) -> None:
        z = torch.randn(particles, SIZE.latents, dtype=dtype)
        h = torch.randn(particles, *SIZE.hidden, dtype=dtype)
        for _ in x:
            first(z)
            second(h)

    return task


def ours(products: Products) -> Task:
    model, guide = (multiply_in(program, products) for program in programs(SIZE))

    def task(x: Tensor, particles: int) -> float:
        return -float(evaluate(model, guide, x, ("nll",), particles, capture=True)["nll"])

    return task


def tasks() -> dict[str, Task]:
    r"""All of them, by name."""
    found: dict[str, Task] = {
        **{name: ours(products) for name, products in OURS.items()},
        LOOP: by_hand(*SIZE.networks()),
        PRODUCTS: products(torch.float32),
        HALVES: products(torch.bfloat16),
    }
    try:
        theirs = import_module("pythaes").vae(SIZE)
    except ModuleNotFoundError as error:
        print(f"Without pythae ({error.name} is not installed): uv run --group bench …")
    else:
        found[PYTHAE] = torch.no_grad()(lambda x, particles: theirs.get_nll(x, particles))
    return found


def check(values: dict[str, float | None]) -> None:
    r"""Raises unless all agree on the same images, but for Monte Carlo error.

    Log-weights at the start have a variance of about 7: five images at K = 5000 leave a standard
    error of 0.2 nats, so that differences of 1.5 do not happen.
    """
    known = {name: value for name, value in values.items() if value is not None}
    if max(known.values()) - min(known.values()) > 1.5:
        raise SystemExit(f"expected evidences that agree within 1.5 nats, got {known}")


def measured(
    found: dict[str, Task], x: Tensor, counts: dict[str, int], options: argparse.Namespace
) -> dict[str, list[float]]:
    r"""The seconds of an image in each round, in which all take turns."""
    clock = time.process_time if options.cpu else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in (*found, *LATER.values())}

    def taken(task: Task, count: int) -> float:
        start = clock()
        task(x[:count], options.particles)
        return clock() - start

    half = len(x) // 2
    for name in OURS:  # so that in each round what is compiled is in the cache
        for count in (half, len(x)):
            found[name](x[:count], options.particles)
    for _ in range(options.rounds):
        for name, task in found.items():
            whole = taken(task, counts[name])
            times[name].append(whole / counts[name])
            if name in OURS:
                times[LATER[name]].append((whole - taken(task, half)) / (len(x) - half))
    return times


def show(times: dict[str, list[float]], values: dict[str, float | None]) -> dict[str, Any]:
    r"""Prints and returns the rows of the table, and what is to be reached."""
    print("| | ms an image | ÷ loop | ÷ products | evidence |\n|---|---|---|---|---|")
    rows = {}
    for name, own in times.items():
        ratios = [
            statistics.median(a / b for a, b in zip(own, times[base], strict=True))
            for base in (LOOP, PRODUCTS)
        ]
        rows[name] = {"ms": 1e3 * statistics.median(own), "loop": ratios[0], "products": ratios[1]}
        value = "–" if values.get(name) is None else f"{values[name]:.2f}"
        print(f"| {name} | {rows[name]['ms']:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {value} |")
    print()
    for name, most in MOST.items():
        print(f"{name}: of the loop {verdict(rows[name]['loop'], most)}.")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000, help="that we evaluate")
    parser.add_argument("--few", type=int, default=50, help="that others evaluate in a round")
    parser.add_argument("--particles", type=int, default=5000)
    parser.add_argument("--cpu", action="store_true", help="the time of the processor")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    if not 2 <= options.few <= options.images:
        parser.error("expected at least 2 images, and no fewer than the --few of others")
    torch.set_num_threads(options.threads)
    x = torch.bernoulli(probabilities(options.images), generator=torch.Generator().manual_seed(1))

    found, fewest = tasks(), max(options.few // 10, 1)
    counts = {**dict.fromkeys(found, options.few), **dict.fromkeys(OURS, options.images)}
    counts[PYTHAE] = fewest
    values = {name: task(x[:fewest], options.particles) for name, task in found.items()}
    check(values)
    print(f"{described()}; {options.threads} threads, K = {options.particles}\n")
    rows = show(measured(found, x, counts, options), values)
    keys = ("threads", "images", "particles", "rounds", "cpu")
    setting = {key: getattr(options, key) for key in keys}
    write(options.json, {"machine": described(), "setting": setting, "rows": rows})


if __name__ == "__main__":
    main()
