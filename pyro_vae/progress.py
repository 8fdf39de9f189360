r"""A progress bar for training, which asks for values only when a line is due."""

__all__ = ["TrainingProgress"]

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor


class TrainingProgress:
    r"""A bar with the epoch, the last bound, speed, and time left.

    Arguments:
        epochs: The number of epochs.
        steps: The number of steps in an epoch.
        shown: Whether there is a bar at all.
        done: The number of steps that an earlier process took.
        interval: The time between two lines, in seconds.
        unit: What an epoch is called.
    """

    def __init__(
        self,
        epochs: int,
        steps: int,
        shown: bool = True,
        interval: float = 0.2,
        done: int = 0,
        unit: str = "epoch",
    ) -> None:
        self.epochs, self.steps, self.interval = epochs, steps, interval
        self.count, self.done, self.due = done, done, 0.0
        columns = (
            TextColumn(unit + " {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[bound]}"),
            TextColumn("{task.fields[speed]} steps/s"),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        self._bar = Progress(*columns, console=console, disable=not shown, auto_refresh=False)
        self._task = self._bar.add_task(
            "", total=epochs * steps, epoch=0, epochs=epochs, bound="", speed="-"
        )

    def __enter__(self) -> "TrainingProgress":
        self._start = time.perf_counter()
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        r"""Shows in the place of the bound what is done, until the next step."""
        self.due = 0.0
        self._bar.update(self._task, bound=text, refresh=True)

    def step(self, metrics: Mapping[str, Tensor], offset: float = 0.0) -> bool:
        r"""Counts a step; returns whether a line was due, so that values were waited for.

        Arguments:
            metrics: The step's values by name.
            offset: What is added to the bound that is shown, in nats.
        """
        self.count += 1
        now = time.perf_counter()
        if now < self.due and self.count < self.epochs * self.steps:
            return False
        self.due = now + self.interval
        name = "elbo" if "elbo" in metrics else "objective"
        self._bar.update(
            self._task,
            completed=self.count,
            epoch=-(-self.count // self.steps),
            bound=f"{name} {metrics[name].item() + offset:.2f} nats",
            speed=f"{(self.count - self.done) / max(now - self._start, 1e-9):.0f}",
            refresh=True,
        )
        return True
