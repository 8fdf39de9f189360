r"""From the start of a process to its first step, and the most memory that it ever held.

    uv run --group bench benchmarks/start.py --programs digits mnist

Each contender of ``contenders.py`` has processes of its own, by turns: with an empty cache of
compiled code, and with what that one left (JAX keeps none unless it is told, as it is here).
Seconds are those from the start of the process to the end of the first step, and of the second:
ours captures that one, where others compile the first. A block at once has blocks of one step.
Memory is that of some steps later. All import torch and Pyro, which the first row shows, also those
who would need neither: of NumPyro's seconds, what exceeds that row is its own. Reads ``/proc``, as
Linux has it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from contenders import makers
from reports import described, write
from sizes import SIZES, batches
from steps import block

IMPORTS = "what all import"
STEPS = ("first", "second")
AFTER = 20  # steps until memory is read


def peak() -> float:
    r"""The most memory that this process ever held, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def one(program: str, name: str, threads: int, begun: float) -> None:
    r"""Takes steps in this process, and prints what they took."""
    torch.set_num_threads(threads)
    size = SIZES[program]
    data = batches(size)
    if name == IMPORTS:
        ready = time.time() - begun
        print(json.dumps({"first": ready, "second": ready, "peak": peak()}))
        return
    contender = makers(size, only=name)[name]()
    found = {}
    for step in STEPS:
        block(contender, data, 1)
        found[step] = time.time() - begun
    block(contender, data, AFTER)
    print(json.dumps({**found, "peak": peak()}))


def started(program: str, name: str, threads: int, cache: str) -> dict[str, float]:
    r"""What a process of its own prints."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", name, "--programs", program]
    command += ["--threads", str(threads), "--begun", str(time.time())]
    caches = {
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/torch",
        "JAX_COMPILATION_CACHE_DIR": f"{cache}/jax",
    }
    least = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = {**os.environ, **caches, **least}
    run = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found


def measured(program: str, names: list[str], threads: int, rounds: int) -> dict[str, Any]:
    r"""The medians of contenders, cold, with a cache, and of memory."""
    runs: dict[str, list[tuple[dict[str, float], ...]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            with tempfile.TemporaryDirectory() as cache:
                pair = tuple(started(program, name, threads, cache) for _ in range(2))
            runs[name].append(pair)
            print(f"{name}: {pair}", file=sys.stderr, flush=True)
    return {
        name: {
            "cold": [statistics.median(cold[step] for cold, _ in found) for step in STEPS],
            "cached": [statistics.median(cached[step] for _, cached in found) for step in STEPS],
            "peak": statistics.median(cached["peak"] for _, cached in found),
        }
        for name, found in runs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", nargs="+", choices=SIZES, default=["digits", "mnist"])
    parser.add_argument("--contenders", nargs="+", help="by default all; of each minutes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="by default as fit: small programs take 1")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--begun", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    default = torch.get_num_threads()
    if options.one is not None:
        one(options.programs[0], options.one, options.threads, options.begun)
        return

    written: dict[str, Any] = {"machine": described(), "programs": {}}
    print(written["machine"])
    for program in options.programs:
        threads = options.threads or (1 if SIZES[program].small else default)
        known = [IMPORTS, *makers(SIZES[program])]
        if unknown := set(options.contenders or ()) - set(known):
            parser.error(f"expected some of {known}, got {sorted(unknown)}")
        rows = measured(program, options.contenders or known, threads, options.rounds)
        written["programs"][program] = {"threads": threads, "rows": rows}
        print(f"\n**{program}** {SIZES[program]}, threads: {threads}\n")
        print("| | first step, s | second | first, code cached | second | most memory, MiB |")
        print("|---|---|---|---|---|---|")
        for name, row in rows.items():
            seconds = " | ".join(f"{value:.1f}" for value in (*row["cold"], *row["cached"]))
            print(f"| {name} | {seconds} | {row['peak']:.0f} |", flush=True)
        write(options.json, written)


if __name__ == "__main__":
    main()
