r"""Times of a step: this library, eager and captured, beside Pyro and hand-written torch.

    uv run --group bench benchmarks/steps.py --epochs 5 --load

All train the same VAE from the same start on the same batches with Adam at 1e-3, and must agree
on the loss, before they are timed and after. In each round all take some steps, one after the
other, so that drift of the machine hits all alike; ratios are those of medians of one round, with
their quartiles over rounds. Where others use the machine, long steps are interrupted more often
than short ones, which flatters the short: then look at the ratios of CPU time, which for one
thread are those of an idle machine. Contenders are in ``contenders.py``, whole epochs of
``fit`` in ``epochs.py``.
"""

import argparse
import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from busy import busy
from contenders import (
    ADAM,
    BFLOAT16,
    CAPTURED,
    COMPILED,
    EAGER,
    FUSED,
    MANY,
    RENYI,
    SCAN,
    TRACE,
    by_hand,
    contenders,
    our_makers,
)
from epochs import epochs
from reports import described, quartiles, verdict, write
from sizes import SIZES, WARM, Contender, Size, batches
from torch import Tensor

# by program: who is compared with whom, and the ratio to reach
TARGETS = {
    "digits": ((CAPTURED, TRACE, 0.12), (CAPTURED, ADAM, 0.4), (MANY, SCAN, 1.0)),
    "mnist": (
        (CAPTURED, TRACE, 0.6),
        (CAPTURED, "compiled", 1.0),
        (MANY, SCAN, 1.0),
        (BFLOAT16, SCAN, 0.5),
    ),
    "functions": (),
    "iwae": ((MANY, EAGER, 0.65), (BFLOAT16, EAGER, 0.3), (MANY, SCAN, 1.0)),
    "conv": (),
}
BASES = (TRACE, RENYI, EAGER, ADAM, FUSED, SCAN)  # those that run are compared with
EPOCH = 1.1
ROUNDING = 1e-4  # which Adam carries from step to step

Times = dict[str, list[list[float]]]  # by contender, for each round, seconds of each step


@dataclass
class Block:
    r"""Steps that one contender took in a row.

    Arguments:
        clock: The seconds of each.
        cpu: The mean seconds of CPU; of one step the kernel knows other threads' only to a tick.
        losses: The loss before each, per datum.
    """

    clock: list[float]
    cpu: float
    losses: list[float]


def block(contender: Contender, data: list[Tensor], steps: int) -> Block:
    r"""Takes steps on the next batches."""
    xs = [data[i % len(data)] for i in range(contender.count, contender.count + steps)]
    contender.count += steps
    with pyro.get_param_store().scope(contender.store):
        if contender.prepare is None:
            return single(contender, xs)
        return whole(contender, contender.prepare(xs), steps, len(data[0]))


def single(contender: Contender, xs: list[Tensor]) -> Block:
    r"""Takes a step in each call."""
    clock, losses = [], []
    used = time.process_time()
    for x in xs:
        start = time.perf_counter()
        loss = contender.step(x)
        clock.append(time.perf_counter() - start)
        losses.append(loss)
    cpu = (time.process_time() - used) / len(xs)
    return Block(clock, cpu, [float(loss) / len(xs[0]) for loss in losses])


def whole(contender: Contender, prepared: Any, steps: int, size: int) -> Block:
    r"""Takes all steps in one call, whose time they share."""
    used, start = time.process_time(), time.perf_counter()
    losses = contender.step(prepared)
    clock, cpu = time.perf_counter() - start, time.process_time() - used
    return Block([clock / steps] * steps, cpu / steps, [float(loss) / size for loss in losses])


def warmed(size: Size, data: list[Tensor]) -> dict[str, Contender]:
    r"""All contenders, compiled and after some steps, which were those of hand-written torch."""
    found = contenders(size)
    expected = {}
    for sampled in {contender.sampled for contender in found.values()}:
        reference = Contender(by_hand(size, fused=False, sampled=sampled))
        torch.manual_seed(1)
        expected[sampled] = torch.tensor(block(reference, data, WARM).losses)
    for name, contender in found.items():
        torch.manual_seed(1)
        losses = torch.tensor(block(contender, data, WARM).losses)
        check_start(name, losses, expected[contender.sampled], contender.exact)
    return found


def check_start(name: str, losses: Tensor, expected: Tensor, exact: int) -> None:
    r"""Raises unless losses are the expected ones, the first few exactly, others but for noise."""
    difference = (losses - expected) / expected
    tolerance = torch.full_like(difference, ROUNDING)
    if rest := len(difference) - exact:
        # six standard errors, and what noise does to the weights
        tolerance[exact:] = 6 * float(difference[exact:].std()) / rest**0.5 + 0.005
        difference[exact:] = difference[exact:].mean()
    if not bool((difference.abs() <= tolerance).all()):
        raise SystemExit(
            f"{name}: expected losses of {expected.tolist()}, the first {exact} but for rounding, "
            f"the others but for a share of {float(tolerance[-1]):.4f}, got {losses.tolist()}"
        )


def check_end(found: Mapping[str, Contender], blocks: Mapping[str, list[Block]]) -> None:
    r"""Raises unless all still train alike; sampled divergences are noisier, and train slower."""
    means = {name: statistics.mean(blocks[name][-1].losses) for name in found}
    for name, found in means.items():
        if not abs(found / means[FUSED] - 1) <= 0.05:
            raise SystemExit(f"{name}: expected a last loss within 5 % of others', got {means}")


def race(
    found: Mapping[str, Contender], data: list[Tensor], rounds: int, steps: int
) -> dict[str, list[Block]]:
    r"""Lets all take steps by turns; returns what each did in each round."""
    blocks: dict[str, list[Block]] = {name: [] for name in found}
    names = list(found)
    for i in range(rounds):
        # nobody always follows the same one, whose threads may still wait for work
        for name in random.Random(i).sample(names, len(names)):
            blocks[name].append(block(found[name], data, steps))
    return blocks


def summaries(blocks: Mapping[str, list[Block]]) -> dict[str, dict[str, Any]]:
    r"""The summary of time by the clock, and of CPU time."""
    return {
        "clock": summary({name: [b.clock for b in found] for name, found in blocks.items()}),
        "cpu": summary({name: [[b.cpu] for b in found] for name, found in blocks.items()}),
    }


def summary(times: Times) -> dict[str, Any]:
    r"""Milliseconds, and ratios to Pyro, to eager torch, and to the faster compiled torch."""
    medians = {name: [statistics.median(b) for b in blocks] for name, blocks in times.items()}
    faster = min(COMPILED, key=lambda name: statistics.median(medians[name]))
    bases = {name: name for name in BASES if name in times} | {"compiled": faster}
    rows = {
        name: {
            "ms": 1e3 * statistics.median(own),
            "ms_90": 1e3 * statistics.quantiles([t for b in times[name] for t in b], n=10)[-1],
            "ratios": {
                key: quartiles([a / b for a, b in zip(own, medians[base], strict=True)])
                for key, base in bases.items()
            },
        }
        for name, own in medians.items()
    }
    return {"faster": faster, "times": rows}


def show_steps(name: str, found: Mapping[str, Any]) -> None:
    print(f"\n**{name}** {SIZES[name]}, threads: {torch.get_num_threads()}\n")
    clock, cpu = found["clock"], found["cpu"]
    bases = list(next(iter(clock["times"].values()))["ratios"])
    print(f"| | ms a step | CPU ms | {' | '.join('÷ ' + base for base in bases)} |")
    print("|---|---|---|" + "---|" * len(bases))
    for contender, row in clock["times"].items():
        ratios = [f"{m:.3f} ({a:.3f}–{b:.3f})" for m, a, b in row["ratios"].values()]
        both = f"{row['ms']:.3f} | {cpu['times'][contender]['ms']:.3f}"
        print(f"| {contender} | {both} | {' | '.join(ratios)} |")
    print(f"\nThe faster compiled torch: {clock['faster']}.")
    for own, base, most in TARGETS[name]:
        if base in bases:
            values = [part["times"][own]["ratios"][base][0] for part in (clock, cpu)]
            print(f"{own} ÷ {base}: {verdict(values[0], most)}; of CPU time {values[1]:.3f}.")


def show_epochs(data: list[Tensor], count: int) -> list[dict[str, Any]]:
    r"""Prints and returns what epochs of the MNIST-sized VAE took."""
    captured = our_makers(SIZES["mnist"])[CAPTURED]()
    block(captured, data, WARM)
    print(f"\n**epochs** of 60,000 x 784, {SIZES['mnist']}, captured, the median of {count}\n")
    print("| binarisation | run_dir | validation | s an epoch | ms a step | ÷ (steps x step) |")
    print("|---|---|---|---|---|---|")
    found = []
    for row in epochs(lambda: statistics.fmean(block(captured, data, 100).clock), count):
        words = ["yes" if row[key] else "no" for key in ("run_dir", "validation")]
        print(
            f"| {row['binarization']} | {' | '.join(words)} | {row['seconds']:.2f} | "
            f"{row['step_ms']:.3f} | {row['ratio']:.3f} |",
            flush=True,
        )
        found.append(row)
    worst = max(row["ratio"] for row in found if not row["validation"])
    print(f"\nThe longest without validation: {verdict(worst, EPOCH)}.")
    return found


def show_load(name: str, threads: int, rounds: int, steps: int) -> dict[str, Any]:
    r"""Prints and returns times alone and beside two busy processes."""
    torch.set_num_threads(threads)
    data = batches(SIZES[name])
    found = warmed(SIZES[name], data)
    alone = summaries(race(found, data, rounds, steps))
    with busy():
        loaded = summaries(race(found, data, rounds, steps))
    print(f"\n**{name} under load** {SIZES[name]}, threads: {threads}, two busy torch processes\n")
    print("| | ms alone | ms under load | 90 % below | times |")
    print("|---|---|---|---|---|")
    for contender in found:
        before, after = (part["clock"]["times"][contender] for part in (alone, loaded))
        row = f"{before['ms']:.3f} | {after['ms']:.3f} | {after['ms_90']:.3f}"
        print(f"| {contender} | {row} | {after['ms'] / before['ms']:.1f} |")
    return {"threads": threads, "alone": alone, "loaded": loaded}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--steps", type=int, default=50, help="of each contender in a round")
    parser.add_argument("--rounds", type=int, default=30, help="of all, at least 2")
    parser.add_argument("--threads", type=int, help="by default as fit: small programs take 1")
    parser.add_argument("--epochs", type=int, default=0, help="of fit in each setting, after one")
    parser.add_argument("--load", action="store_true", help="measure beside busy processes too")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    if options.rounds < 2 or options.steps < 1:
        parser.error("expected at least 2 rounds of at least 1 step, for quartiles")
    default = torch.get_num_threads()

    machine = described()
    print(machine)
    written: dict[str, Any] = {"machine": machine, "targets": TARGETS, "steps": {}, "load": {}}
    for name in options.programs:
        torch.set_num_threads(options.threads or (1 if SIZES[name].small else default))
        data = batches(SIZES[name])
        taking = warmed(SIZES[name], data)
        blocks = race(taking, data, options.rounds, options.steps)
        check_end(taking, blocks)
        found = summaries(blocks)
        written["steps"][name] = {"threads": torch.get_num_threads(), **found}
        show_steps(name, found)
        write(options.json, written)
    if options.epochs:
        torch.set_num_threads(options.threads or default)
        written["epochs"] = show_epochs(batches(SIZES["mnist"]), options.epochs)
        write(options.json, written)
    if options.load:
        for name in options.programs:
            for threads in sorted({1, default}):
                row = show_load(name, threads, options.rounds, options.steps)
                written["load"].setdefault(name, []).append(row)
                write(options.json, written)


if __name__ == "__main__":
    main()
