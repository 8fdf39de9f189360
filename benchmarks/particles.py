r"""Times of a step by the number of particles: IWAE, eager and captured, beside RenyiELBO.

    uv run benchmarks/particles.py

All train the VAE of ``contenders.py`` with one thread and Adam at 1e-3, and take some steps by
turns, so that drift of the machine hits all alike. Times are medians over rounds; ratios are the
medians of those of one round. ``RenyiELBO(alpha=0)`` of Pyro is vectorised; it sums a batch before
it takes the logarithm, which is another bound but as much work.
"""

import argparse
import statistics
import time

import pyro
import torch
from contenders import programs, pyros
from pyro.infer import RenyiELBO
from sizes import RATE, SIZES, Contender, Size, batches
from torch import Tensor

from pyro_vae import SVI
from pyro_vae.objectives import IWAE

EAGER, CAPTURED, DREG, RENYI = "eager", "captured", "captured, dreg", "RenyiELBO"


def contenders(size: Size, k: int) -> dict[str, Contender]:
    r"""All of them, with K particles."""

    def ours(objective: IWAE, capture: bool) -> Contender:
        def adam(parameters: object) -> torch.optim.Optimizer:
            return torch.optim.Adam(parameters, lr=RATE)

        return Contender(SVI(*programs(size), adam, objective, capture=capture).step)

    # Pyro refuses one particle
    renyi = RenyiELBO(0, num_particles=max(k, 2), vectorize_particles=True, max_plate_nesting=1)
    return {
        EAGER: ours(IWAE(k), False),
        CAPTURED: ours(IWAE(k), True),
        DREG: ours(IWAE(k, "dreg"), True),
        RENYI: Contender(pyros(size, renyi)),
    }


def milliseconds(contender: Contender, data: list[Tensor], steps: int) -> float:
    with pyro.get_param_store().scope(contender.store):
        start = time.perf_counter()
        for i in range(steps):
            float(contender.step(data[i % len(data)]))
        return 1000 * (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--particles", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50, 100])
    parser.add_argument("--program", choices=SIZES, default="digits")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES[options.program]
    data = batches(size)

    print(f"{size}; ms a step, one thread, torch {torch.__version__}, Pyro {pyro.__version__}\n")
    print(f"| K | {EAGER} | {CAPTURED} | {DREG} | {RENYI} | eager ÷ Renyi | captured ÷ Renyi |")
    print("|---|---|---|---|---|---|---|")
    for k in options.particles:
        found = contenders(size, k)
        for contender in found.values():  # compiles, and warms up
            milliseconds(contender, data, 5)
        rounds = [
            {name: milliseconds(c, data, options.steps) for name, c in found.items()}
            for _ in range(options.rounds)
        ]
        times = [statistics.median(r[name] for r in rounds) for name in found]
        ratios = [
            statistics.median(r[name] / r[RENYI] for r in rounds) for name in (EAGER, CAPTURED)
        ]
        cells = [*(f"{t:.2f}" for t in times), *(f"{ratio:.2f}" for ratio in ratios)]
        print("|", " | ".join([str(k), *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
