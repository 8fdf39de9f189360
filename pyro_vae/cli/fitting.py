r"""``pyro-vae fit``."""

__all__ = ["add_training", "parser", "run"]

import re
import sys
from argparse import SUPPRESS
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from pyro_vae.cli.common import (
    CAPTURE,
    add_setting,
    new_parser,
    note,
    precision,
    say,
    show,
    show_json,
)

if TYPE_CHECKING:  # importing torch takes seconds, and --help needs none
    from pyro_vae.data import Data
    from pyro_vae.data.dataset import Split
    from pyro_vae.runs import Run

# what fit takes as it is
TAKEN = (
    *("inputs", "schedule_interval", "clip_norm", "epochs", "batch_size", "device", "seed"),
    *("validation", "patience", "encoder_steps", "workers", "capture", "resume"),
    *("checkpoint_every", "data_plate"),
)


def parser() -> ArgumentParser:
    r"""The options of ``fit``, but for those of the parts of a run."""
    found = new_parser("fit", "Train a model and its guide, evaluate and draw them.")
    add_training(found)
    for flag, kind, default, text in (
        ("--out", str | None, None, "the run's folder (by default a new one in runs)"),
        ("--particles", PositiveInt, 1000, "draws for each datum's evidence"),
    ):
        found.add_argument(flag, type=kind, default=default, help=text)
    for flag, text in (
        ("--resume", "go on with the run in --out, to --epochs in all"),
        ("--force", "delete the run that is in --out first"),
    ):
        found.add_argument(flag, action="store_true", help=text)
    return found


def add_training(found: ArgumentParser, hidden: Sequence[str] = ()) -> None:
    r"""Adds the options that say how a pair is trained, some of them without help."""
    whole: Any = list[str]
    for flag, kind, default, text in (
        ("--epochs", PositiveInt, 100, "passes over the training data"),
        ("--batch-size", PositiveInt, 64, "data in a batch"),
        ("--inputs", whole, ["x"], "fields that both programs are called with, as '[x, y]'"),
        ("--data-plate", str | None, None, "name of the data plate, where it is not found"),
        ("--validation", bool, True, "whether the bound on validation data is computed"),
        ("--patience", PositiveInt | None, None, "epochs without a better one, then it ends"),
        (
            "--encoder-steps",
            PositiveInt | Literal["aggressive"],
            1,
            "steps of the guide for each of the model (aggressive: as many as help)",
        ),
        ("--clip-norm", PositiveFloat | None, None, "greatest norm of the gradient"),
        (
            "--schedule-interval",
            Literal["epoch", "step"],
            "epoch",
            "after what the schedule goes on",
        ),
        ("--workers", NonNegativeInt, 0, "processes that read data which are not in memory"),
        ("--capture", CAPTURE, "auto", "whether steps run as a compiled graph (auto: if many)"),
        ("--checkpoint-every", NonNegativeFloat, 10.0, "seconds between two checkpoints"),
    ):
        shown = text if flag not in hidden else SUPPRESS
        found.add_argument(flag, type=kind, default=default, help=shown)
    add_setting(found, "initialisation, noise and order", "float32")


def run(flags: Sequence[str]) -> int:
    r"""Trains, evaluates and draws; returns the exit code."""
    from pyro_vae.cli.options import parse_options

    options = parse_options(parser(), _resumed(flags))
    _check_replaced(options)
    options["data"] = _absolute(options["data"])
    with precision(options["precision"]):
        _fit(options)
    return 0


def _fit(options: dict[str, Any]) -> None:
    import pyro

    from pyro_vae.cli.programs import allowed, build_data, build_programs
    from pyro_vae.components import build
    from pyro_vae.loop import fit

    data = build_data(options)
    known = {"event_shape": list(data.event_shape)}
    parts = {
        kind: build(options[kind], kind, known=known, **allowed(options))
        for kind in ("objective", "optimizer", "schedule")
        if options[kind] is not None
    }
    pyro.set_rng_seed(options["seed"])
    model, guide = build_programs(options, data)
    folder = Path(options["out"]) if options["out"] else _new_folder(options, data)
    taken = {name: options[name] for name in TAKEN}
    with _tidy(folder), _advised(folder):
        made = fit(
            model,
            guide,
            data,
            **parts,
            **taken,
            run_dir=folder,
            overwrite=options["force"],
            notes={"particles": options["particles"]},
            progress=sys.stderr.isatty() and not options["quiet"],
        )
        _finish(made, data, options)


def _finish(made: "Run", data: "Data", options: dict[str, Any]) -> None:
    r"""Evaluates and draws a run into its folder, and says what came out."""
    from pyro_vae.cli.pictures import Artist
    from pyro_vae.cli.scores import score

    known: tuple[Split, ...] = ("test", "validation", "train")
    split = next(name for name in known if data.splits[name])
    setting = {name: options[name] for name in ("device", "seed", "inputs")}
    setting["capture"] = options["capture"] and "auto"  # what pays for steps may not pay here
    scores = score(made, data, split, particles=options["particles"], **setting)
    made.write("evaluation.json", scores.text)
    assert made.path is not None
    refused = Artist(made, data, split, **setting).draw_all(made.path)
    if options["json"]:
        show_json(scores.document)
    elif not options["quiet"]:
        title = f"{_name(options['model'])} on {data.name}, {split} data, {made.weights} weights"
        show(scores.table(title), *filter(None, [scores.remark]))
        say(f"Weights, metrics and pictures are in {made.path}")
    if not options["quiet"]:
        for text in refused:
            note(text)


def _resumed(flags: Sequence[str]) -> list[str]:
    r"""The flags, where ``--resume`` finds its configuration in ``--out``, or the reverse."""
    words = [word for flag in flags for word in flag.split("=", 1)] if "--resume" in flags else []
    if not words:
        return list(flags)
    given = {
        flag: words[words.index(flag) + 1 :][:1] for flag in ("--out", "--config") if flag in words
    }
    if "--out" in given and "--config" not in given:
        config = Path(*given["--out"], "config.yaml")
        return [*(["--config", str(config)] if config.is_file() else []), *flags]
    if "--config" in given and "--out" not in given:
        return [*flags, "--out", str(Path(*given["--config"]).parent)]
    if not given:
        raise ValueError("expected --out RUN, the folder of the run that goes on, with --resume")
    return list(flags)


def _check_replaced(options: dict[str, Any]) -> None:
    r"""Raises if a run is to go on and to be deleted, or to go on in another precision."""
    from pyro_vae.components import read_config

    if options["resume"] and options["force"]:
        raise ValueError("expected --resume, which goes on with a run, or --force, got both")
    config = Path(options["out"] or "", "config.yaml")
    if options["resume"] and config.is_file():
        began = read_config(config).get("precision")
        if began not in (None, options["precision"]):
            raise ValueError(
                f"{config.parent}: expected --precision {began}, which the run began in, got "
                f"{options['precision']}"
            )


def _absolute(spec: dict[str, Any]) -> dict[str, Any]:
    r"""A description of data whose paths mean the same in other folders."""
    from pyro_vae.data import NAMES
    from pyro_vae.data.places import expanded

    given = dict(spec["init_args"])
    for name in ("source", "root"):
        path = given.get(name)
        if isinstance(path, str) and path not in NAMES:
            whole = expanded(path).absolute()
            pattern = whole.suffix == ".npz" and any(mark in path for mark in "*?[")
            given[name] = str(whole) if whole.exists() or pattern else path
    return {**spec, "init_args": given}


def _name(spec: dict[str, Any]) -> str:
    return re.split(r"[.:]", spec.get("class_path", "model"))[-1]


def _new_folder(options: dict[str, Any], data: "Data") -> Path:
    r"""The first of ``runs/vae-digits``, ``runs/vae-digits-2``, … that is free."""
    source = re.sub(r"[^\w.-]+", "-", Path(data.name).stem)
    name = f"{_name(options['model'])}-{source}".lower()
    count = 1
    while (path := Path("runs", name if count == 1 else f"{name}-{count}")).exists():
        count += 1
    return path


@contextmanager
def _tidy(folder: Path) -> Iterator[None]:
    r"""Leaves no empty folders behind where nothing came of a run."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in missing:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


@contextmanager
def _advised(folder: Path) -> Iterator[None]:
    r"""Says how an interrupted run goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if (folder / "last.safetensors").is_file():
            note(f"go on with: pyro-vae fit --resume --out {folder}")
        raise
