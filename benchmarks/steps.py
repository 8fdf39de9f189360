r"""Times of a step: this library, eager and captured, beside Pyro and hand-written torch.

    uv run benchmarks/steps.py --epochs 5 --load

All train the same VAE from the same start on the same batches with Adam at 1e-3, and must agree
on the loss, before they are timed and after. In each round all take some steps, one after the
other, so that drift of the machine hits all alike; ratios are those of medians of one round, with
their quartiles over rounds. On the CPU. Contenders are in ``contenders.py``, whole epochs of
``fit`` in ``epochs.py``.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyro
import torch
from contenders import (
    CAPTURED,
    COMPILED,
    FUSED,
    SIZES,
    TRACE,
    Contender,
    Net,
    Size,
    batches,
    contenders,
)
from epochs import epochs
from torch import Tensor

# to reach, by program and what the captured step is compared with
TARGETS = {
    "digits": {TRACE: 0.16, FUSED: 0.5},
    "mnist": {TRACE: 0.65, "compiled": 1.1},
    "functions": {},
}
EPOCH = 1.15
WARM = 30
BUSY = """
import os, torch
parent, x = os.getppid(), torch.randn(512, 512)
print("busy", flush=True)
while os.getppid() == parent:
    x = torch.tanh(x @ x)
"""

Times = dict[str, list[list[float]]]  # by contender, for each round, seconds of each step


def block(contender: Contender, data: list[Tensor], steps: int) -> tuple[list[float], list[float]]:
    r"""Takes steps on the next batches; returns the seconds of each, and losses per datum."""
    times, losses = [], []
    with pyro.get_param_store().scope(contender.store):
        for i in range(contender.count, contender.count + steps):
            x = data[i % len(data)]
            start = time.perf_counter()
            loss = contender.step(x)
            times.append(time.perf_counter() - start)
            losses.append(loss)
    contender.count += steps
    return times, [float(loss) / len(data[0]) for loss in losses]


def check_first(found: Mapping[str, Contender], size: Size, data: list[Tensor]) -> None:
    r"""Takes everyone's first step; each must have the loss that is right for its noise.

    What is compiled draws other noise than torch: there the loss must be within six standard
    deviations of the mean over noise.
    """
    net = Net(size)
    for name, contender in found.items():
        with torch.no_grad():
            draws = torch.stack([net(data[0], contender.sampled) for _ in range(200)])
            torch.manual_seed(1)
            exact = float(net(data[0], contender.sampled)) / size.batch
        mean, deviation = float(draws.mean()) / size.batch, float(draws.std()) / size.batch
        expected, tolerance = (exact, 1e-5 * exact) if contender.exact else (mean, 6 * deviation)
        torch.manual_seed(1)
        loss = block(contender, data, 1)[1][0]
        if not abs(loss - expected) <= tolerance:
            raise SystemExit(f"{name}: expected a loss of {expected} ± {tolerance}, got {loss}")


def check_last(losses: Mapping[str, list[float]]) -> None:
    r"""Raises unless all still train alike: on the same batches the same loss but for noise."""
    expected = torch.tensor(losses[FUSED])
    for name, found in losses.items():
        difference = torch.tensor(found) - expected
        error = float(difference.std()) / len(found) ** 0.5
        # noise accumulates in the weights as well
        tolerance = 6 * error + 0.005 * float(expected.mean())
        if not abs(float(difference.mean())) <= tolerance:
            raise SystemExit(
                f"{name}: expected a loss of {float(expected.mean())} ± {tolerance} at the end, "
                f"got {statistics.mean(found)}"
            )


def warmed(size: Size, data: list[Tensor]) -> dict[str, Contender]:
    r"""All contenders, checked, compiled, and after the same number of steps."""
    found = contenders(size)
    check_first(found, size, data)
    for contender in found.values():
        block(contender, data, WARM)
    return found


def race(
    found: Mapping[str, Contender], data: list[Tensor], rounds: int, steps: int
) -> tuple[Times, dict[str, list[float]]]:
    r"""Lets all take steps by turns; returns the times, and the last round's losses."""
    times: Times = {name: [] for name in found}
    losses = {}
    names = list(found)
    for i in range(rounds):
        first = i % len(names)  # nobody always follows the same one
        for name in names[first:] + names[:first]:
            taken, losses[name] = block(found[name], data, steps)
            times[name].append(taken)
    return times, losses


def summary(times: Times) -> dict[str, dict[str, Any]]:
    r"""Milliseconds, and ratios to Pyro, to eager torch, and to the faster compiled torch."""
    medians = {name: [statistics.median(b) for b in blocks] for name, blocks in times.items()}
    faster = min(COMPILED, key=lambda name: statistics.median(medians[name]))
    bases = {TRACE: TRACE, FUSED: FUSED, "compiled": faster}
    return {
        name: {
            "ms": 1e3 * statistics.median(own),
            "ms_90": 1e3 * statistics.quantiles([t for b in times[name] for t in b], n=10)[-1],
            "ratios": {
                key: quartiles([a / b for a, b in zip(own, medians[base], strict=True)])
                for key, base in bases.items()
            },
        }
        for name, own in medians.items()
    } | {"compiled": {"is": faster}}


def quartiles(values: list[float]) -> list[float]:
    r"""The median, and the quartiles around it."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return [middle, low, high]


def show_steps(name: str, found: Mapping[str, Any]) -> None:
    print(f"\n**{name}** {SIZES[name]}, {torch.get_num_threads()} threads\n")
    print(f"| | ms a step | 90 % below | ÷ {TRACE} | ÷ {FUSED} | ÷ compiled torch |")
    print("|---|---|---|---|---|---|")
    for contender, row in found.items():
        if "ms" in row:
            ratios = [f"{m:.3f} ({a:.3f}–{b:.3f})" for m, a, b in row["ratios"].values()]
            print(f"| {contender} | {row['ms']:.3f} | {row['ms_90']:.3f} | {' | '.join(ratios)} |")
    print(f"\nThe faster compiled torch: {found['compiled']['is']}.")
    for base, most in TARGETS[name].items():
        value = found[CAPTURED]["ratios"][base][0]
        print(f"Captured ÷ {base}: {value:.3f}, {verdict(value, most)}.")


def verdict(value: float, most: float) -> str:
    return f"to reach ≤ {most}: {'reached' if value <= most else 'not reached'}"


def show_epochs(data: list[Tensor], count: int) -> list[dict[str, object]]:
    r"""Prints and returns what epochs of the MNIST-sized VAE took."""
    captured = Contender(contenders(SIZES["mnist"])[CAPTURED].step)
    block(captured, data, WARM)
    print(f"\n**epochs** of 60,000 x 784, {SIZES['mnist']}, captured, the median of {count}\n")
    print("| binarisation | run_dir | validation | s an epoch | ms a step | ÷ (steps x step) |")
    print("|---|---|---|---|---|---|")
    found = []
    for row in epochs(lambda: statistics.median(block(captured, data, 100)[0]), count):
        words = ["yes" if row[key] else "no" for key in ("run_dir", "validation")]
        print(
            f"| {row['binarization']} | {' | '.join(words)} | {row['seconds']:.2f} | "
            f"{row['step_ms']:.3f} | {row['ratio']:.3f} |",
            flush=True,
        )
        found.append(row)
    worst = max(float(str(row["ratio"])) for row in found if not row["validation"])
    print(f"\nThe longest without validation: {worst:.3f}, {verdict(worst, EPOCH)}.")
    return found


@contextmanager
def busy(count: int = 2) -> Iterator[None]:
    r"""Other torch processes at work, with as many threads as torch takes by itself."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", BUSY]
    found = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(count)
    ]
    try:
        for process in found:
            assert process.stdout is not None
            process.stdout.readline()  # it has begun
        yield
    finally:
        for process in found:
            process.kill()
            process.communicate()


def show_load(name: str, threads: int, rounds: int, steps: int) -> dict[str, Any]:
    r"""Prints and returns times alone and beside two busy processes."""
    torch.set_num_threads(threads)
    data = batches(SIZES[name])
    found = warmed(SIZES[name], data)
    alone = summary(race(found, data, rounds, steps)[0])
    with busy():
        loaded = summary(race(found, data, rounds, steps)[0])
    print(f"\n**{name} under load** {SIZES[name]}, {threads} threads, two busy torch processes\n")
    print("| | ms alone | ms under load | 90 % below | times |")
    print("|---|---|---|---|---|")
    for contender in found:
        before, after = alone[contender]["ms"], loaded[contender]["ms"]
        row = f"{before:.3f} | {after:.3f} | {loaded[contender]['ms_90']:.3f}"
        print(f"| {contender} | {row} | {after / before:.1f} |")
    return {"threads": threads, "alone": alone, "loaded": loaded}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--steps", type=int, default=50, help="of each contender in a round")
    parser.add_argument("--rounds", type=int, default=30, help="at least 2")
    parser.add_argument("--threads", type=int, help="by default as fit: small programs take 1")
    parser.add_argument("--epochs", type=int, default=0, help="of fit in each setting, after one")
    parser.add_argument("--load", action="store_true", help="measure beside busy processes too")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    default = torch.get_num_threads()

    machine = f"{os.cpu_count()} cores, torch {torch.__version__}, Pyro {version('pyro-ppl')}"
    print(f"{machine}, Python {platform.python_version()}")
    written: dict[str, Any] = {"machine": machine, "targets": TARGETS, "steps": {}, "load": {}}
    for name in options.programs:
        torch.set_num_threads(options.threads or (1 if SIZES[name].small else default))
        data = batches(SIZES[name])
        times, losses = race(warmed(SIZES[name], data), data, options.rounds, options.steps)
        check_last(losses)
        written["steps"][name] = {"threads": torch.get_num_threads(), **summary(times)}
        show_steps(name, summary(times))
    if options.epochs:
        torch.set_num_threads(options.threads or default)
        written["epochs"] = show_epochs(batches(SIZES["mnist"]), options.epochs)
    if options.load:
        for name in options.programs:
            for threads in sorted({1, default}):
                row = show_load(name, threads, options.rounds, options.steps)
                written["load"].setdefault(name, []).append(row)
    options.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
