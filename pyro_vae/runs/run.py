r"""A run that was made, and how it is had again."""

__all__ = ["Run", "Which"]

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pyro_vae.components import build, read_config
from pyro_vae.pair import Pair
from pyro_vae.programs import Program, unchanged
from pyro_vae.runs.checkpoint import Checkpoint, check_format
from pyro_vae.runs.files import inside, write_file
from pyro_vae.runs.folder import CONFIG
from pyro_vae.runs.history import Row, rows

Which = Literal["best", "last"]


@dataclass(frozen=True)
class Run:
    r"""What :func:`pyro_vae.fit` returns, and what is left of it in a folder.

    Arguments:
        model: The trained model.
        guide: The trained guide.
        history: A row for each epoch: nats per datum by name, the epoch and the step.
        path: The run's folder, if it has one.
        config: What ``config.yaml`` says.
        weights: Which weights the programs have: ``"best"`` by the validation split, if there
            was one, else ``"last"``.
    """

    model: Program
    guide: Program
    history: list[Row] = field(default_factory=list)
    path: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    weights: Which = "last"

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model: Program | None = None,
        guide: Program | None = None,
        allow: Sequence[str] = (),
        weights: Which | None = None,
    ) -> "Run":
        r"""Builds a run's programs again, with their weights.

        Nothing is unpickled. Built are only classes that modules of ``pyro_vae``, ``torch.nn``,
        ``torch.optim`` and ``torch.optim.lr_scheduler`` export, and those of packages and files
        in ``allow``; a file only if it is the one of the run, by its sha256.

        Arguments:
            path: The run's folder.
            model, guide: The programs, where the run was given Python objects or functions.
                They take the weights up.
            allow: Names of packages and paths of Python files that may be imported.
            weights: ``"best"`` or ``"last"``; by default the best if there was validation.

        Raises:
            ValueError: If the folder holds no run of this version, was altered or damaged, names
                what is not allowed, or if the programs have other tensors.

        Example:
            >>> import tempfile
            >>> from pyro_vae import fit
            >>> from pyro_vae.guides import AmortizedNormal
            >>> from pyro_vae.models import VAE
            >>> programs = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     run = fit(*programs, torch.eye(4), epochs=2, run_dir=folder, progress=False)
            ...     Run.load(folder, *programs).history == run.history
            True
        """
        folder = Path(path)
        if weights is not None and weights not in get_args(Which):
            raise ValueError(f"expected weights to be 'best' or 'last', got {weights!r}")
        config = _config(folder)
        allow = (allow,) if isinstance(allow, str) else allow
        with _contents(folder), unchanged(), _precision(config):
            which, checkpoint = _checkpoint(folder, weights)
            if checkpoint.state["programs"] != programs_of(config):
                raise ValueError(
                    f"{folder}: expected the config.yaml of the run, got one that describes other "
                    "programs than those whose weights are here; take back what was changed in it"
                )
            files = config.get("files") or {}  # none recorded: none is imported
            if model is None:
                model = build(config["model"], "model", allow=allow, files=files)
            if guide is None:
                known = {"model": model}  # which autoguides take
                guide = build(config["guide"], "guide", allow=allow, files=files, known=known)
            take_up(Pair(model, guide, config.get("data_plate")), checkpoint)
            history = rows(checkpoint.state["history"])
        return cls(model, guide, history, folder, config, which)

    def write(self, name: str, content: str | bytes) -> Path:
        r"""Writes a file into the run's folder, whole or not at all.

        Raises:
            OSError: If it cannot be written; what was there is still there.
            ValueError: If the run has no folder, or the file would lie outside of it.
        """
        if self.path is None:
            raise ValueError(f"expected a run with a folder to write {name} into, got none")
        return write_file(inside(self.path, name), content)


def _checkpoint(folder: Path, weights: Which | None) -> tuple[Which, Checkpoint]:
    r"""The weights that were asked for, which the last checkpoint has, the best among them."""
    path = inside(folder, "last.safetensors")
    if not path.exists() and weights != "last":  # a folder of which only the best was kept
        return "best", Checkpoint.read(inside(folder, "best.safetensors"))
    last = Checkpoint.read(path)
    best = last.state["best"]
    if weights == "last" or (weights is None and best is None):
        return "last", last
    if best is None:
        raise ValueError(
            f"{folder}: expected weights that were best on a validation split, got a run without "
            "one; take the last ones"
        )
    return "best", Checkpoint(best["weights"], last.state)


@contextmanager
def _contents(folder: Path) -> Iterator[None]:
    r"""Explains what only a file that fit did not write can cause."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, MemoryError, RuntimeError, TypeError) as error:
        if str(error).startswith("expected") or ": expected" in str(error):
            raise
        raise ValueError(
            f"{folder}: expected a run as fit writes it, got other contents "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        ) from error


def programs_of(config: Mapping[str, Any]) -> str:
    r"""What a configuration says of the programs, in one form however it was written."""
    kept = {name: config.get(name) for name in ("model", "guide", "files", "precision")}
    return json.dumps(kept, sort_keys=True)


def take_up(pair: Pair, checkpoint: Checkpoint) -> None:
    r"""Puts the weights of a checkpoint into programs.

    Some programs have no tensors before they are called: plain functions, autoguides, lazy
    modules. These are called once with a batch like the one that the run began with.

    Raises:
        ValueError: If the programs have other tensors; they are left as they are.
    """
    example = checkpoint.state.get("example")
    if example is not None:
        rows = [field.expand(example["rows"], *field.shape[1:]) for field in example["fields"]]
        pair.plan(tuple(row.contiguous() for row in rows), {})
    own = pair.state()
    saved = {n: t for n, t in checkpoint.weights.items() if not n.startswith("objective.")}
    for name in dict.fromkeys([*own, *saved]):
        has, had = (_kind(tensors.get(name)) for tensors in (own, saved))
        if has != had:
            raise ValueError(
                f"expected programs with the run's tensors, of which {name!r} is {had}, got one "
                f"that is {has}: these are other programs, or they were made in another way"
            )
    with torch.no_grad():
        for name, tensor in saved.items():
            own[name].copy_(tensor)


def _kind(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{tuple(tensor.shape)} of {tensor.dtype}"


def _config(folder: Path) -> dict[str, Any]:
    path = inside(folder, CONFIG)
    if not path.is_file():
        raise ValueError(f"expected a run's folder, got {folder}, in which there is no {CONFIG}")
    config = read_config(path)
    check_format(config.get("format"), path)
    return config


@contextmanager
def _precision(config: Mapping[str, Any]) -> Iterator[None]:
    r"""Programs are built in the floating type that they were built in."""
    before = torch.get_default_dtype()
    dtypes = {"float32": torch.float32, "float64": torch.float64}
    torch.set_default_dtype(dtypes.get(str(config.get("precision")), before))
    try:
        yield
    finally:
        torch.set_default_dtype(before)
