r"""A run's folder while the run is made."""

__all__ = ["CONFIG", "RunFolder"]

import csv
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyro_vae.components import dump_config, read_config
from pyro_vae.runs.checkpoint import FORMAT, Checkpoint, check_format
from pyro_vae.runs.events import Events
from pyro_vae.runs.files import inside, write_file
from pyro_vae.runs.history import Row, columns, rows
from pyro_vae.runs.lock import Lock

CONFIG, EVENTS, METRICS = "config.yaml", "events.out.tfevents.pyro_vae", "metrics.csv"
ENVIRONMENT = "environment.json"
_CHECKPOINTS = {"last.safetensors", "best.safetensors"}
_RESULTS = {EVENTS, METRICS, "evaluation.json"}


class RunFolder:
    r"""Writes a run into a folder.

    ``config.yaml`` says how to repeat the run, ``environment.json`` what it ran on;
    ``metrics.csv`` and TensorBoard's events have a row for each epoch; ``last.safetensors`` is
    the checkpoint that the run goes on from, ``best.safetensors`` holds the weights that were
    best on the validation split. But for rows and events, which are added to, each file is
    written whole or not at all.

    Arguments:
        path: The folder. It is made if it is not there.
        resume: Whether a run that is there goes on.
        overwrite: Whether a run that is there is deleted.
        every: The time between two checkpoints, in seconds; more where writing one takes more
            than a twentieth of it.

    Raises:
        ValueError: If the folder cannot be made, if it holds a run and neither ``resume`` nor
            ``overwrite`` is given, if it holds something else, or a damaged checkpoint, or if
            another process writes to it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        resume: bool = False,
        overwrite: bool = False,
        every: float = 10.0,
    ) -> None:
        self.path = Path(path).absolute()  # whatever becomes of the working directory
        _make(self.path)
        self.check(self.path, resume or overwrite)
        self._lock = Lock(self.path)
        try:
            self.checkpoint = self._last() if resume else None
        except BaseException:
            self._lock.release()
            raise
        self._kept: Mapping[str, Any] = {}
        self._best = 0  # the epoch whose weights were written as the best
        self._rows: list[Row] = []
        self._columns: list[str] = []
        self._events: Events | None = None
        self._every, self._next = every, time.monotonic() + every

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    @property
    def due(self) -> bool:
        r"""Whether it is time for a checkpoint."""
        return time.monotonic() >= self._next

    @staticmethod
    def check(path: Path, replace: bool) -> None:
        r"""Raises if a run cannot be written into a folder.

        Arguments:
            path: The folder.
            replace: Whether a run may be there already.
        """
        found = list(path.iterdir()) if path.is_dir() else []
        is_run = _is_run(path, found)
        if path.exists() and not path.is_dir():
            raise ValueError(f"expected a folder, got the file {path}: choose another")
        if found and not (replace and is_run):
            advice = "choose another"
            if is_run:
                advice = "resume it (resume=True, --resume), replace it (overwrite=True, --force)"
                advice += ", or choose another"
            raise ValueError(
                f"expected a new or empty folder, got {path}, which holds "
                f"{'a run' if is_run else 'other files'}: {advice}"
            )

    def begin(
        self,
        config: Mapping[str, Any],
        environment: Mapping[str, Any],
        kept: Mapping[str, Any],
    ) -> None:
        r"""Writes what the run is made from; cuts rows and events back to the checkpoint's.

        Arguments:
            config: What repeats the run.
            environment: What it runs on.
            kept: What every checkpoint holds besides its state.
        """
        self._kept = kept
        own = set() if self.checkpoint is not None else {file.name for file in self.path.iterdir()}
        # at no moment is there a checkpoint of another run than config.yaml's, or no config.yaml
        for name in sorted(own & _CHECKPOINTS):
            (self.path / name).unlink()
        self.note(config, environment)
        for name in sorted(own & _RESULTS):
            (self.path / name).unlink()
        state = {} if self.checkpoint is None else self.checkpoint.state
        self._rows = [dict(row) for row in state.get("history", [])]
        self._write_rows()
        events = inside(self.path, EVENTS)
        self._events = Events(events, state.get("events", 0))
        if self._events.size < state.get("events", 0):  # somebody took them away
            self._events = Events(events)
            for row in self._rows:
                self._events.write(row, int(row["step"]))
        if self.checkpoint is not None:
            self._save_best({**state, **kept, "history": columns(self._rows)})

    def note(self, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        r"""Writes what repeats the run, and what it runs on."""
        self.write(CONFIG, dump_config({"format": FORMAT, **config}))
        self.write(ENVIRONMENT, json.dumps(environment, indent=2) + "\n")

    def log(self, row: Mapping[str, float]) -> None:
        r"""Adds an epoch's row to ``metrics.csv`` and to the events."""
        self._rows.append(dict(row))
        if row.keys() <= set(self._columns):
            with (self.path / METRICS).open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        else:
            self._write_rows()
        assert self._events is not None, "a run is logged after it began"
        self._events.write(row, int(row["step"]))

    def save(self, weights: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        r"""Writes the checkpoint, and the best weights, ``state["best"]``, if there are any."""
        assert self._events is not None, "a run is saved after it began"
        begin = time.monotonic()
        history = columns(state["history"])
        state = {**self._kept, **state, "history": history, "events": self._events.size}
        self.write("last.safetensors", Checkpoint(weights, state).dump())
        self._save_best(state)
        now = time.monotonic()
        self._next = now + (max(self._every, 19 * (now - begin)) if self._every else 0.0)

    def write(self, name: str, content: str | bytes) -> Path:
        r"""Writes a file, whole or not at all.

        Raises:
            OSError: If it cannot be written; what was there is still there.
            ValueError: If it would not lie in the folder.
        """
        return write_file(inside(self.path, name), content)

    def _save_best(self, state: Mapping[str, Any]) -> None:
        best = state.get("best")
        if best is not None and best["epoch"] != self._best:
            kept = {name: state[name] for name in ("programs", "example", "history")}
            self.write("best.safetensors", Checkpoint(best["weights"], kept).dump())
            self._best = best["epoch"]

    def _last(self) -> Checkpoint | None:
        path = inside(self.path, "last.safetensors")
        if not path.exists():
            return None
        config = inside(self.path, CONFIG)
        check_format(read_config(config).get("format"), config)
        found = Checkpoint.read(path)
        return replace(found, state={**found.state, "history": rows(found.state["history"])})

    def _write_rows(self) -> None:
        self._columns = list(dict.fromkeys(name for row in self._rows for name in row))
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, self._columns)
        if self._columns:
            writer.writeheader()
        writer.writerows(self._rows)
        self.write(METRICS, file.getvalue())


def _is_run(path: Path, files: Sequence[Path]) -> bool:
    r"""Whether a folder holds a run, or what is left of one that was killed as it began."""
    if {file.name for file in files} <= {".lock", f".{CONFIG}.part"}:
        return True
    try:
        return "format" in read_config(path / CONFIG)
    except (OSError, ValueError):
        return False


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        return  # a file, of which check says so
    except OSError as error:
        raise ValueError(
            f"expected a folder that can be made, got {path}: {error.strerror}"
        ) from error
