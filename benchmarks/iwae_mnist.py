r"""The table of the IWAE paper on MNIST, as many steps in each row.

    PYRO_VAE_DATA=../shared/data uv run benchmarks/iwae_mnist.py --out runs/iwae
    uv run benchmarks/iwae_mnist.py --out runs/iwae --show

Dynamically binarised MNIST; one layer of 50 latents between two tanh layers of 200 each way, or
two layers, of 100 and 50, with two of 100 between them; batches of 100, Adam at 1e-3 with eps 1e-4,
100,000 captured steps; the negative evidence by 5,000 particles on 1,000 random test images, and
the units that are active there. Hours: it may run in the background, with its output in a file.
Killed and started again it goes on where each row was, with more ``--steps``, too; ``--show``
prints what there is, and changes nothing.
"""

import argparse
import csv
import json
import math
import platform
import time
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from layers import programs
from reports import write

import pyro_vae
from pyro_vae.data import Data, load
from pyro_vae.objectives import ELBO, IWAE, Objective

_OBJECTIVES = {
    "VAE k=1": ELBO,
    "VAE k=5": partial(ELBO, particles=5),
    "IWAE k=5": partial(IWAE, 5),
    "VAE k=50": partial(ELBO, particles=50),
    "IWAE k=50": partial(IWAE, 50),
}
ROWS = {f"L{n} {name}": (n, made) for name, made in _OBJECTIVES.items() for n in (1, 2)}
OTHERS = {"L1 IWAE k=1": (1, partial(IWAE, 1)), "L1 DReG k=50": (1, partial(IWAE, 50, "dreg"))}

# test NLL and active units (the latter from memory) of 3,280 epochs in batches of 20
PAPER = {
    **{"L1 VAE k=1": "86.76, 19", "L1 VAE k=5": "86.47, 20", "L1 VAE k=50": "86.35, 20"},
    **{"L1 IWAE k=5": "85.54, 22", "L1 IWAE k=50": "84.78, 25"},
    **{"L2 VAE k=1": "85.33, 16+5", "L2 VAE k=5": "85.01, 17+5", "L2 VAE k=50": "84.78, 17+5"},
    **{"L2 IWAE k=5": "83.89, 21+5", "L2 IWAE k=50": "82.90, 26+7"},
}
RESULT = "result.json"


class Clock:
    r"""Notes the time of the epochs of this process, and prints a line for some of them."""

    def __init__(self, name: str, every: int = 10) -> None:
        self.name, self.every = name, every
        self.ticks: list[tuple[float, float]] = []

    def __call__(self, event: Any) -> None:
        row = event.row
        self.ticks.append((time.perf_counter(), row["step"]))
        if row["epoch"] % self.every == 0:
            ms = self.milliseconds
            taken = "" if ms is None else f", {ms:.1f} ms a step"
            bound = f"bound {row['objective']:.2f}{taken}"
            print(f"{self.name}: epoch {row['epoch']:.0f}, {bound}", flush=True)

    @property
    def milliseconds(self) -> float | None:
        r"""Those of a step, without the first epoch, which may compile, if there are two."""
        if len(self.ticks) < 2:
            return None
        (start, before), (end, after) = self.ticks[0], self.ticks[-1]
        return 1e3 * (end - start) / (after - before)


def train(name: str, data: Data, folder: Path, seed: int, options: argparse.Namespace) -> None:
    r"""Trains a row from where it was, evaluates it, and writes the result into its folder."""
    layers, objective = (ROWS | OTHERS)[name]
    made: Objective = objective()
    torch.manual_seed(seed)
    model, guide = programs(layers, data.event_shape)
    clock = Clock(f"{name}, seed {seed}")
    pyro_vae.fit(
        model,
        guide,
        data,
        objective=made,
        optimizer=partial(torch.optim.Adam, lr=1e-3, eps=1e-4),
        epochs=epochs(data, options.steps),
        batch_size=100,
        device=options.device,
        seed=seed,
        validation=False,
        callbacks=[clock],
        capture=True,
        run_dir=folder,
        resume=True,
        checkpoint_every=60,
        progress=False,
    )
    found = pyro_vae.evaluate(
        model, guide, data, ("nll", "active_units"), options.particles, seed=seed, capture=True
    )
    active = [key for key in found if key.startswith("active_units")]
    sites = [key for key in active if "." in key] or active  # of several, each and their sum
    units = [float(found[key]) for key in sites]
    figures = {"nll": float(found["nll"]), "units": units, "ms": clock.milliseconds}
    write(folder / RESULT, {**figures, "setting": setting(options)})


def epochs(data: Data, steps: int) -> int:
    return math.ceil(steps / math.ceil(len(data.train["x"]) / 100))


def setting(options: argparse.Namespace) -> dict[str, int]:
    r"""What a result must have in common with others of a table."""
    return {key: getattr(options, key) for key in ("steps", "images", "particles")}


def result(options: argparse.Namespace, folder: Path) -> dict[str, Any] | None:
    r"""That of a row, if it has one in this setting."""
    path = folder / RESULT
    found = json.loads(path.read_text()) if path.exists() else {}
    return found if found.get("setting") == setting(options) else None


def reached(folder: Path) -> str:
    r"""How far a row is that has no result yet."""
    path = folder / "metrics.csv"
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""  # one may be half-written
    rows = list(csv.DictReader(whole.splitlines()))
    if not rows:
        return "not begun"
    return f"at step {float(rows[-1]['step']):.0f}, bound {float(rows[-1]['objective']):.2f}"


def show(options: argparse.Namespace) -> None:
    r"""Prints the table of what there is."""
    print("\n| | NLL | by seed | active units | ms a step | paper: NLL, units |")
    print("|---|---|---|---|---|---|")
    for name in options.rows:
        folders = [place(options, name, seed) for seed in options.seeds]
        done = [found for f in folders if (found := result(options, f)) is not None]
        paper = PAPER.get(name, "–")
        if not done:
            print(f"| {name} | {'; '.join(map(reached, folders))} | | | | {paper} |")
            continue
        nll = sum(found["nll"] for found in done) / len(done)
        single = ", ".join(f"{found['nll']:.2f}" for found in done)
        units = "; ".join("+".join(f"{n:.0f}" for n in found["units"]) for found in done)
        ms = ", ".join("–" if found["ms"] is None else f"{found['ms']:.1f}" for found in done)
        print(f"| {name} | {nll:.2f} | {single} | {units} | {ms} | {paper} |")
    print(
        f"\n{options.steps} steps; {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"Pyro {version('pyro-ppl')}, Python {platform.python_version()}",
        flush=True,
    )


def place(options: argparse.Namespace, name: str, seed: int) -> Path:
    return Path(options.out, f"{name.replace(' ', '-')}-{seed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder of all runs")
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, *OTHERS], default=list(ROWS))
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--particles", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--show", action="store_true", help="print what there is, and end")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.show:
        show(options)
        return

    data = load("mnist", binarization="dynamic")
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(data.test["x"]), generator=generator)[: options.images]
    data = replace(data, test={"x": data.test["x"][rows]})
    for name in options.rows:
        for seed in options.seeds:
            folder = place(options, name, seed)
            if result(options, folder) is None:
                train(name, data, folder, seed, options)
        show(options)


if __name__ == "__main__":
    main()
