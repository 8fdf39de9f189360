r"""A run's folder: what came out of a fit."""

__all__ = ["Row", "Run", "RunFolder"]

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import save as serialize
from torch import Tensor

from pyro_vae.programs import Program

Row = dict[str, float]


@dataclass(frozen=True)
class Run:
    r"""What :func:`pyro_vae.fit` returns.

    Arguments:
        model: The trained model.
        guide: The trained guide.
        history: A row for each epoch: nats per datum by name, the epoch and the step.
        path: The run's folder, if it has one.
    """

    model: Program
    guide: Program
    history: list[Row] = field(default_factory=list)
    path: Path | None = None


class RunFolder:
    r"""Writes a run into a folder: ``metrics.csv``, TensorBoard events, ``weights.safetensors``.

    Arguments:
        path: The folder. It is made if it is not there.

    Raises:
        ValueError: If the folder holds something already: a run is never overwritten.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self.path = Path(path)
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ValueError(f"expected a new or empty folder, got {self.path}: choose another")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"expected a folder that can be made, got {self.path}: {error.strerror}"
            ) from error
        self._events = SummaryWriter(str(self.path))
        self._rows: list[Row] = []

    def log(self, row: Mapping[str, float]) -> None:
        r"""Adds an epoch's row to ``metrics.csv`` and the events."""
        self._rows.append(dict(row))
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        with self._replaced("metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self._rows)
        self._commit("metrics.csv")
        for name, value in row.items():
            self._events.add_scalar(name, value, int(row["step"]))

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        r"""Writes the weights."""
        # safetensors wants each tensor whole and on its own
        own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        self.write("weights.safetensors", serialize(own))

    def write(self, name: str, content: str | bytes) -> Path:
        r"""Writes a file, whole or not at all."""
        raw = content.encode() if isinstance(content, str) else content
        self._replaced(name).write_bytes(raw)
        return self._commit(name)

    def close(self) -> None:
        r"""Ends the events."""
        self._events.close()

    def _replaced(self, name: str) -> Path:
        return self.path / f".{name}.part"

    def _commit(self, name: str) -> Path:
        return self._replaced(name).replace(self.path / name)
