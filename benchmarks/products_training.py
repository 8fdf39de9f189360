r"""What training with products in bfloat16 loses: test evidence beside float32, seed by seed.

    PYRO_VAE_DATA=../shared/data nice uv run benchmarks/products_training.py --epochs 8

The MNIST VAE (784-400-50, batches of 128, Adam from 1e-3 along a cosine) on static MNIST, captured,
from the same weights with the same order of data for both types; then the evidence of every fifth
test image, in float32 and with the same noise. Rates that fall leave less of what runs differ by
from seed to seed, which would hide what is looked for. What is done is kept in a file: a run that
was killed goes on with the next row. A table is printed after each seed.
"""

import argparse
import json
import math
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from reports import write
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_vae import evaluate, fit
from pyro_vae.data import load
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.nn import mlp
from pyro_vae.products import Products

TYPES: tuple[Products, ...] = get_args(Products)
FILE = Path(__file__).with_name("products_training.json")
APART, PARTICLES = 5, 100  # images in the file are sorted in part


def trained(products: Products, seed: int, epochs: int) -> dict[str, float]:
    r"""The test evidence, its Monte Carlo error, and the seconds of CPU time of training."""
    data = load("static-mnist")
    torch.manual_seed(seed)
    model = VAE(data.event_shape, 50, data.likelihood, mlp(50, 784, (400,)))
    guide = AmortizedNormal(data.event_shape, {"z": 50}, mlp(784, 100, (400,)))
    start = time.process_time()
    options: dict[str, Any] = {"validation": False, "progress": False, "capture": True}
    fit(
        *(model, guide, data),
        epochs=epochs,
        batch_size=128,
        seed=seed,
        schedule=partial(CosineAnnealingLR, T_max=epochs),
        products=products,
        device="cpu",
        **options,
    )
    seconds = time.process_time() - start
    x = data.test["x"][::APART]
    nll = evaluate(model, guide, x, metrics=("nll",), particles=PARTICLES)["nll"]
    return {"evidence": -float(nll), "error": nll.stderr, "cpu seconds": seconds}


def show(rows: dict[str, dict[str, float]], epochs: int) -> None:
    r"""Prints each seed that both types have, and what they come to."""
    print(f"\n| {epochs} epochs, seed | float32 | bfloat16 | bfloat16 − float32 | CPU time ÷ |")
    print("|---|---|---|---|---|")
    differences = []
    for seed in range(len(rows)):
        both = [rows.get(key(kind, seed, epochs)) for kind in TYPES]
        if not all(both):
            continue
        single, half = ((row or {})["evidence"] for row in both)
        ratio = (both[1] or {})["cpu seconds"] / (both[0] or {})["cpu seconds"]
        differences.append(half - single)
        print(f"| {seed} | {single:.3f} | {half:.3f} | {half - single:+.3f} | {ratio:.2f} |")
    if len(differences) > 1:
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        print(f"| mean | | | {statistics.mean(differences):+.3f} ± {error:.3f} | |")
    print(end="", flush=True)


def key(products: Products, seed: int, epochs: int) -> str:
    return f"{products}, seed {seed}, {epochs} epochs, K = {PARTICLES}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--file", type=Path, default=FILE, help="what is done")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = json.loads(options.file.read_text()) if options.file.exists() else {}
    for seed in range(options.seeds):
        for products in TYPES:
            name = key(products, seed, options.epochs)
            if name not in rows:
                rows[name] = trained(products, seed, options.epochs)
                write(options.file, rows)
        show(rows, options.epochs)


if __name__ == "__main__":
    main()
