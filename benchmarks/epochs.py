r"""Whole epochs of ``fit``, beside as many steps: what data, loop and logging cost."""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from contenders import programs
from sizes import SIZES, probabilities

from pyro_vae import fit
from pyro_vae.data import Data, load
from pyro_vae.loop import Event

ROWS, VALIDATION = 60_000, 10_000
# binarisation, whether there is a folder, whether the validation split is looked at
SETTINGS: tuple[tuple[Literal["static", "dynamic"], bool, bool], ...] = (
    ("static", False, False),
    ("static", True, False),
    ("dynamic", False, False),
    ("dynamic", True, False),
    ("dynamic", True, True),
)


class Clock:
    r"""A callback: the seconds of each epoch, and those of a step between epochs.

    Arguments:
        block: Takes some steps; returns the mean time of one, in seconds.
    """

    def __init__(self, block: Callable[[], float]) -> None:
        self.block = block
        self.epochs: list[float] = []
        self.steps = [block()]
        self.begin = time.perf_counter()

    def __call__(self, event: Event) -> None:
        self.epochs.append(time.perf_counter() - self.begin)
        self.steps.append(self.block())
        self.begin = time.perf_counter()

    def ratios(self, steps: int) -> list[float]:
        r"""Each epoch, but for the first, which compiles, by the steps before and after it."""
        around = [(a + b) / 2 for a, b in zip(self.steps, self.steps[1:], strict=False)]
        found = [e / (steps * s) for e, s in zip(self.epochs, around, strict=True)]
        return found[1:]


def epochs(block: Callable[[], float], count: int) -> Iterator[dict[str, Any]]:
    r"""Fits in each setting; gives seconds of an epoch, and what it is in steps."""
    size = SIZES["mnist"]
    p = probabilities(ROWS + VALIDATION)
    steps = math.ceil(ROWS / size.batch)
    for binarization, folder, validation in SETTINGS:
        data: Data = load(
            {"train": p[:ROWS], "valid": p[ROWS:]},
            binarization=binarization,
            test=0.0,
        )
        clock = Clock(block)
        with tempfile.TemporaryDirectory() as scratch:
            fit(
                *programs(size),
                data,
                epochs=count + 1,
                batch_size=size.batch,
                validation=validation,
                device="cpu",
                run_dir=Path(scratch, "run") if folder else None,
                callbacks=[clock],
                capture=True,
            )
        found = clock.ratios(steps)
        yield {
            "binarization": binarization,
            "run_dir": folder,
            "validation": validation,
            "threads": torch.get_num_threads(),
            "seconds": statistics.median(clock.epochs[1:]),
            "step_ms": 1e3 * statistics.median(clock.steps[1:]),
            "ratio": statistics.median(found),
            "ratios": found,
        }
