r"""``pyro-vae fit``."""

__all__ = ["add_training", "parser", "run"]

import re
import sys
from argparse import SUPPRESS
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from pyro_vae.cli.common import CAPTURE, PRODUCTS, add_setting, new_parser, note, precision
from pyro_vae.cli.finishing import finish
from pyro_vae.cli.places import absolute, new_folder, tidy

# what fit takes as it is
TAKEN = (
    *("inputs", "schedule_interval", "clip_norm", "epochs", "batch_size", "device", "seed"),
    *("validation", "patience", "encoder_steps", "workers", "capture", "resume"),
    *("checkpoint_every", "data_plate", "products"),
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
        ("--workers", NonNegativeInt, 0, "threads that read data which are not in memory"),
        ("--capture", CAPTURE, "auto", "whether steps run as a compiled graph (auto: if many)"),
        ("--products", PRODUCTS, "float32", "what networks multiply in"),
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
    options["data"] = absolute(options["data"])
    with precision(options["precision"]):
        _fit(options)
    return 0


def _fit(options: dict[str, Any]) -> None:
    import pyro

    from pyro_vae.cli.programs import allowed, build_data, build_objective, build_programs
    from pyro_vae.components import build
    from pyro_vae.loop import fit

    data = build_data(options)
    parts = {
        kind: build(options[kind], kind, **allowed(options))
        for kind in ("optimizer", "schedule")
        if options[kind] is not None
    }
    pyro.set_rng_seed(options["seed"])
    model, guide = build_programs(options, data)
    parts["objective"] = build_objective(options, data)
    folder = Path(options["out"]) if options["out"] else new_folder(_name(options["model"]), data)
    taken = {name: options[name] for name in TAKEN}
    with tidy(folder), _advised(folder):
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
        setting = {name: options[name] for name in ("device", "seed", "inputs")}
        setting["capture"] = options["capture"] and "auto"  # what pays for steps may not pay here
        finish(
            made, data, _name(options["model"]), options, setting, particles=options["particles"]
        )


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


def _name(spec: dict[str, Any]) -> str:
    return re.split(r"[.:]", spec.get("class_path", "model"))[-1]


@contextmanager
def _advised(folder: Path) -> Iterator[None]:
    r"""Says how an interrupted run goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if (folder / "last.safetensors").is_file():
            note(f"go on with: pyro-vae fit --resume --out {folder}")
        raise
