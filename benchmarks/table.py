r"""The README's table of speed: runs the other benchmarks, and prints what they found.

    uv run --group bench benchmarks/table.py --out runs/speed
    uv run benchmarks/table.py --out runs/speed --show

It takes most of an hour on two cores that do nothing else. Each part is a process of its own that
leaves ``NAME.json`` and ``NAME.txt`` in the folder; a part that is there already is not run again.
Ratios are medians over rounds in which all take turns; below one we are faster.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chains import OURS as STEPS
from contenders import ADAM, BFLOAT16, CAPTURED, MANY, RENYI, SCAN, TRACE
from evidence import LOOP, OURS, PYTHAE

PARTS = {
    "small": "steps.py --programs digits functions --rounds 15 --steps 40",
    "mnist": "steps.py --programs mnist --rounds 15 --steps 40 --epochs 3",
    "iwae": "steps.py --programs iwae --rounds 6 --steps 6",
    "conv": "steps.py --programs conv --rounds 6 --steps 5",
    "chains": "chains.py",
    "evidence": "evidence.py --images 256 --few 16 --rounds 2",
    "start": "start.py --programs digits mnist --rounds 1",
}
WORKS = {
    "digits": "digits VAE (64-64-8, batch 64), a step",
    "mnist": "MNIST VAE (784-400-50, batch 128), a step",
    "iwae": "IWAE (784-200-200-50, batch 100, K = 50), a step",
    "conv": "convolutional VAE, 3 × 32 × 32, batch 64, a step",
    "functions": "plain functions with a learned prior, digits, a step",
}
WAYS = {CAPTURED: "", MANY: ", by `svi.steps`", BFLOAT16: ", and in bfloat16"}
OTHERS = {"Pyro": (TRACE, RENYI), "torch": (ADAM,), "compiled": ("compiled",), "NumPyro": (SCAN,)}
HEAD = "| two cores | ms | ÷ Pyro | ÷ torch | ÷ compiled torch | ÷ NumPyro, `lax.scan` |"


def run(folder: Path) -> None:
    r"""Runs what is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, words in PARTS.items():
        kept = folder / f"{name}.json"
        if kept.exists():
            continue
        script, *options = words.split()
        unfinished = kept.with_suffix(".part")
        command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name(script)), *options]
        print(f"{words} …", flush=True)
        with kept.with_suffix(".txt").open("w") as log:
            done = subprocess.run(
                [*command, "--json", str(unfinished)], stdout=log, stderr=subprocess.STDOUT
            )
        if done.returncode:
            print(f"failed: see {kept.with_suffix('.txt')}")
        else:
            unfinished.rename(kept)


def step_rows(found: dict[str, Any]) -> Iterator[str]:
    r"""A row for each way of ours to take the steps of each program."""
    for program, clocks in found.items():
        times = clocks["clock"]["times"]
        for own, words in WAYS.items():
            if own in times:
                ratios = times[own]["ratios"]
                cells = [
                    next((f"{ratios[base][0]:.2f}" for base in bases if base in ratios), "")
                    for bases in OTHERS.values()
                ]
                what = WORKS[program] if not words else words.removeprefix(", ")
                yield f"| {what} | {times[own]['ms']:.2f} | {' | '.join(cells)} |"


def chain_rows(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        work = f"{row['kind']} state space, {row['length']} time steps, a step"
        yield f"| {work} | {row['ms'][STEPS]:.2f} | {row['ratio'][0]:.2f} | | | |"


def evidence_rows(rows: dict[str, Any]) -> Iterator[str]:
    for own, products in OURS.items():
        work = f"evidence of an MNIST image, K = 5000, {products}"
        yield f"| {work} | {rows[own]['ms']:.1f} | | {rows[own]['loop']:.2f} | | |"
    for other in (LOOP, PYTHAE):
        if other in rows:
            yield f"| *{other}* | {rows[other]['ms']:.1f} | | {rows[other]['loop']:.2f} | | |"


def show(folder: Path) -> None:
    r"""Prints the table of what is there."""
    parts = {
        name: json.loads((folder / f"{name}.json").read_text())
        for name in PARTS
        if (folder / f"{name}.json").exists()
    }
    if not parts:
        raise SystemExit(f"expected results in {str(folder)!r}, found none: run without --show")
    print(f"\n{next(iter(parts.values()))['machine']}\n\n{HEAD}\n|---|---|---|---|---|---|")
    steps = {k: v for part in parts.values() for k, v in part.get("steps", {}).items()}
    ordered = {name: steps[name] for name in WORKS if name in steps}
    lines = [*step_rows(ordered)]
    lines += chain_rows(parts.get("chains", {}).get("rows", []))
    if "evidence" in parts:
        lines += evidence_rows(parts["evidence"]["rows"])
    print("\n".join(lines))
    for row in parts.get("mnist", {}).get("epochs", []):
        extra = [key for key in ("run_dir", "validation") if row[key]]
        what = ", ".join([row["binarization"], *extra])
        print(f"\nAn epoch, {what}: {row['ratio']:.3f} of its steps.", end="")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument("--show", action="store_true", help="run nothing")
    options = parser.parse_args()
    if not options.show:
        run(options.out)
    show(options.out)


if __name__ == "__main__":
    main()
