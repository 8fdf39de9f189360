r"""Runs that are killed again and again end as those that were left alone, bit for bit.

    uv run benchmarks/survival.py --kills 200
    uv run benchmarks/survival.py --kills 20 --capture

Fits a small pair of programs once without, and then with SIGKILL at random moments, half of
them right before a random operation on a file, and resumes it each time. Checkpoints are
written after every step. Weights, ``metrics.csv``, TensorBoard's values and the evaluation of
both runs are compared. Needs ``os.fork``.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from pyro_vae import evaluate, fit
from pyro_vae.data import load
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.nn import mlp

EPOCHS = 4
FILE_OPERATIONS = {"open", "os.rename", "os.remove", "os.truncate"}


def programs() -> dict[str, tuple[Callable[..., object], Callable[..., object]]]:
    r"""A pair of modules, with dropout, and one of plain functions."""
    decoder = mlp(3, 16, (8,)).insert(1, torch.nn.Dropout(0.1))
    vae = VAE((16,), 3, decoder=decoder), AmortizedNormal((16,), {"z": 3}, mlp(16, 6, (8,)))

    def model(x: Tensor) -> None:
        logits = pyro.param("logits", lambda: 0.1 * torch.randn(16))
        scale = pyro.param("scale", lambda: torch.ones(16), constraint=dist.constraints.positive)
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(16), scale).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=logits + z).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", lambda: torch.zeros(16))
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(slope * x, 0.5).to_event(1))

    return {"modules": vae, "functions": (model, guide)}


def run(name: str, folder: Path, resume: bool, capture: bool) -> None:
    r"""Fits, or goes on, and evaluates."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    model, guide = programs()[name]
    data = load(torch.rand(90, 16), validation=0.2, test=0.2, binarization="dynamic")
    fitted = fit(
        model,
        guide,
        data,
        epochs=EPOCHS,
        batch_size=20,
        optimizer=partial(torch.optim.Adam, lr=1e-2),
        schedule=partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.05, total_steps=40),
        schedule_interval="step",
        clip_norm=5.0,
        patience=3,
        device="cpu",
        capture=capture,
        run_dir=folder,
        resume=resume,
        checkpoint_every=0.0,
        progress=False,
    )
    found = evaluate(fitted.model, fitted.guide, data, particles=10)
    fitted.write("evaluation.json", json.dumps({n: float(e).hex() for n, e in found.items()}))


def forked(task: Callable[[], None], seconds: float | None, operation: int | None) -> bool:
    r"""Does a task in a copy of this process; returns whether it was killed.

    Arguments:
        task: What to do.
        seconds: When the copy is killed, unless it ended.
        operation: The operation on a file before which it is killed.
    """
    child = os.fork()
    if child == 0:
        if operation is not None:
            die_before(operation)
        try:
            task()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit("a run that was resumed failed")
    return os.WIFSIGNALED(status)


def die_before(operation: int) -> None:
    left = operation

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in FILE_OPERATIONS:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def contents(folder: Path) -> dict[str, object]:
    r"""What must be the same."""
    events = EventAccumulator(str(folder))
    events.Reload()
    values = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    found: dict[str, object] = {"events": values}
    for name in ("metrics.csv", "evaluation.json"):
        found[name] = (folder / name).read_bytes()
    for name in ("last.safetensors", "best.safetensors"):
        # not the bytes of the file: safetensors puts its metadata into any order
        with safe_open(folder / name, framework="pt") as file:
            found[name] = file.metadata()["sha256"], file.metadata()["tree"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--capture", action="store_true", help="steps are compiled graphs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1)])  # what it imports is here before the forks
    if options.capture:
        torch.compile(torch.sin)(torch.zeros(1))
    rng = random.Random(options.seed)

    for name in ("modules", "functions"):
        with tempfile.TemporaryDirectory() as scratch:
            whole, killed = Path(scratch, "whole"), Path(scratch, "killed")
            start = time.perf_counter()
            forked(partial(run, name, whole, False, options.capture), None, None)
            length = time.perf_counter() - start
            expected = contents(whole)

            kills, finished = 0, 0
            while kills < options.kills // 2:
                if (killed / "evaluation.json").exists():  # it came through: begin another
                    assert contents(killed) == expected, f"{name}: run {finished} differs"
                    finished += 1
                    for file in killed.iterdir():
                        file.unlink()
                by_time = rng.random() < 0.5
                kills += forked(
                    partial(run, name, killed, True, options.capture),
                    rng.uniform(0, length) if by_time else None,
                    None if by_time else rng.randint(1, 150),
                )
            forked(partial(run, name, killed, True, options.capture), None, None)
            found = contents(killed)
            differing = [part for part in expected if found[part] != expected[part]]
            assert not differing, f"{name}: {differing} differ"
            print(
                f"{name}: {kills} kills, {finished + 1} runs that came through, the same bit for "
                f"bit in {', '.join(expected)}; one run without kills took {length:.1f} s"
            )


if __name__ == "__main__":
    main()
