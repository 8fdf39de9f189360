r"""Evaluation, encoding and sampling as compiled graphs, beside the same run eagerly.

    uv run benchmarks/evaluation.py --threads 1
    uv run benchmarks/evaluation.py --threads 2

The programs are an MNIST-sized VAE (784-400-50) on 256 binary data. Evaluation with K = 1000 runs
in chunks of 64 data and 83 particles, encoding (draws) and sampling in batches of 256. Eager and
captured calls take turns in one process; medians are printed, and the seconds that the first
captured call takes with an empty cache of compiled code and with a full one, each in a process of
its own: from these follows the number of calls from which a graph pays. Last comes a whole
``evaluate``, with the compilation.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, ClassVar
from unittest import mock

import pyro
import torch

from pyro_vae.captured import Captured
from pyro_vae.evaluation import encode, evaluate, generation, generator, sample, scores
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.nn import mlp

DATA, PARTICLES, CALLS = 256, 1000, 60

Task = Callable[[bool], object]


def tasks() -> dict[str, Task]:
    r"""What is done, by name; its argument says whether with a graph."""
    pyro.set_rng_seed(0)
    model = VAE((784,), 50, decoder=mlp(50, 784, (400,)))
    guide = AmortizedNormal((784,), {"z": 50}, mlp(784, 100, (400,)))
    x = (torch.rand(DATA, 784) < 0.13).float()
    return {
        "evaluate": lambda graph: evaluate(model, guide, x, particles=PARTICLES, capture=graph),
        "encode": lambda graph: encode(model, guide, x, draws=CALLS, capture=graph),
        "sample": lambda graph: sample(model, guide, CALLS * DATA, capture=graph),
    }


class Beside(Captured):
    r"""Does each call as a graph, and eagerly too, and keeps the seconds of both."""

    first = 0.0  # those of the last object's first call
    times: ClassVar[list[tuple[float, float]]] = []

    def __call__(self, *args: Any) -> Any:
        begins = self.graph is None
        taken, result = seconds(lambda: super(Beside, self).__call__(*args))
        if begins:
            Beside.first, Beside.times = taken, []
            self.shapes = shapes(args)
        elif shapes(args) == self.shapes:
            eager, _ = seconds(lambda: self.function(*args))
            self.times.append((eager, taken))
        return result


def shapes(args: tuple[Any, ...]) -> list[Any]:
    return [getattr(argument, "shape", argument) for argument in args]


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def beside(task: Task) -> list[tuple[float, float]]:
    r"""Does a task with graphs; returns the seconds of eager and captured calls."""
    with (
        mock.patch.object(scores, "Captured", Beside),
        mock.patch.object(generation, "Captured", Beside),
        mock.patch.object(generator, "Captured", Beside),
    ):
        task(True)
    return Beside.times


def first_calls(name: str, threads: int) -> list[float]:
    r"""The seconds of the first captured call, with an empty cache and with a full one."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--first", name, "--threads", str(threads)]
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        outputs = [
            subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
            for _ in range(2)
        ]
    return [float(output.split()[-1]) for output in outputs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--first", choices=sorted(tasks()), help="only time this one's first call")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.first is not None:
        beside(tasks()[options.first])
        print(Beside.first)
        return

    columns = "eager ms | captured ms | ratio | a second | first call s | cached s | pays from"
    print(f"| | {columns} |")
    print("|---|---|---|---|---|---|---|---|")
    for name, task in tasks().items():
        eager, captured = map(statistics.median, zip(*beside(task), strict=True))
        cold, cached = first_calls(name, options.threads)
        pays = [f"{wait / (eager - captured):.0f}" for wait in (cached, cold)]
        rate = "–" if name == "evaluate" else f"{DATA / eager:.0f} to {DATA / captured:.0f}"
        print(
            f"| {name} | {eager * 1e3:.1f} | {captured * 1e3:.1f} | {captured / eager:.2f} "
            f"| {rate} | {cold:.1f} | {cached:.1f} | {' to '.join(pays)} calls |",
            flush=True,
        )
    task = tasks()["evaluate"]
    runs = [[seconds(lambda g=graph: task(g))[0] for graph in (False, True)] for _ in range(3)]
    eager, captured = map(statistics.median, zip(*runs, strict=True))
    print(
        f"\na whole evaluate of {DATA} data with K = {PARTICLES}: eager {eager:.1f} s, captured "
        f"{captured:.1f} s with the compilation; {options.threads} threads, torch "
        f"{torch.__version__}"
    )


if __name__ == "__main__":
    main()
