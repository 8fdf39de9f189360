r"""The one-layer architecture of the IWAE paper, as many steps for each objective.

    PYRO_VAE_DATA=../shared/data uv run benchmarks/iwae_mnist.py

Dynamically binarised MNIST, 50 latents, two tanh layers of 200 each way, batches of 100, Adam at
1e-3 with eps 1e-4, 20,000 captured steps; the negative evidence by 5,000 particles on 1,000 random
test images, and the units that are active there; means over two seeds.
"""

import argparse
import math
import platform
import time
from dataclasses import replace
from functools import partial
from importlib.metadata import version

import torch
from torch import nn

import pyro_vae
from pyro_vae.data import Data, load
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.nn import mlp
from pyro_vae.objectives import ELBO, IWAE, Objective

ROWS = {
    "VAE": ELBO,
    "IWAE k=1": partial(IWAE, 1),
    "IWAE k=5": partial(IWAE, 5),
    "IWAE k=50": partial(IWAE, 50),
    "DReG k=50": partial(IWAE, 50, "dreg"),
}

# test NLL and active units (the latter from memory) of 3,280 epochs in batches of 20
PAPER = {"VAE": (86.76, 19), "IWAE k=5": (85.54, 22), "IWAE k=50": (84.78, 25)}


def trained(objective: Objective, data: Data, steps: int, seed: int, device: str) -> list[float]:
    r"""The negative evidence, the number of active units, and milliseconds a step."""
    torch.manual_seed(seed)
    tanh = partial(mlp, hidden=(200, 200), activation=nn.Tanh)
    model = VAE(data.event_shape, 50, data.likelihood, tanh)
    guide = AmortizedNormal(data.event_shape, {"z": 50}, tanh)
    start = time.perf_counter()
    pyro_vae.fit(
        model,
        guide,
        data,
        objective=objective,
        optimizer=partial(torch.optim.Adam, lr=1e-3, eps=1e-4),
        epochs=math.ceil(steps / math.ceil(len(data.train["x"]) / 100)),
        batch_size=100,
        device=device,
        seed=seed,
        validation=False,
        capture=True,
    )
    milliseconds = 1e3 * (time.perf_counter() - start) / steps
    found = pyro_vae.evaluate(
        model, guide, data, metrics=("nll", "active_units"), particles=5000, seed=seed, capture=True
    )
    return [float(found["nll"]), float(found["active_units"]), milliseconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()

    data = load("mnist", binarization="dynamic")
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(data.test["x"]), generator=generator)[: options.images]
    data = replace(data, test={"x": data.test["x"][rows]})

    print(
        f"| {options.steps} steps | NLL | by seed | active units | ms a step | paper: NLL, units |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    for name in options.rows:
        runs = [
            trained(ROWS[name](), data, options.steps, seed, options.device)
            for seed in options.seeds
        ]
        nll, units, milliseconds = torch.tensor(runs).mean(0).tolist()
        single = ", ".join(f"{run[0]:.2f}" for run in runs)
        paper = ", ".join(map(str, PAPER.get(name, ("–",))))
        print(
            f"| {name} | {nll:.2f} | {single} | {units:.1f} | {milliseconds:.1f} | {paper} |",
            flush=True,
        )
    print(
        f"\n{torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"Pyro {version('pyro-ppl')}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
