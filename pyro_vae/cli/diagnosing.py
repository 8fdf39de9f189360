r"""``pyro-vae diagnose``."""

__all__ = ["parser", "run"]

import json
from collections.abc import Sequence
from dataclasses import replace

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from pyro_vae.cli.common import add_capture, show, show_json
from pyro_vae.cli.opened import open_run, run_parser


def parser() -> ArgumentParser:
    r"""The options of ``diagnose``."""
    text = (
        "Say in plain words what is wrong with a run: whether the posterior has collapsed, the "
        "decoder ignores its latents, they are pressed too much or too little, the guide lags "
        "behind; and what to try first."
    )
    found = run_parser("diagnose", text, "rows and particles")
    text = "how many data are looked at, drawn by seed"
    found.add_argument("--count", type=PositiveInt, default=256, help=text)
    text = "draws for each datum"
    found.add_argument("--particles", type=PositiveInt, default=100, help=text)
    add_capture(found, "chunks, and the steps that find the best posteriors,")
    return found


def run(flags: Sequence[str]) -> int:
    r"""Diagnoses a run; returns the exit code."""
    with open_run(parser(), flags) as opened:
        from pyro_vae.evaluation import diagnose

        options, run, data, split = opened.options, opened.run, opened.data, opened.options["split"]
        setting = {name: options[name] for name in ("particles", "seed", "device", "capture")}
        diagnosis = diagnose(
            run.model,
            run.guide,
            replace(data, test=data.splits[split]),
            options["count"],
            inputs=opened.inputs,
            data_plate=run.config.get("data_plate"),
            **setting,
        )
        about = {"run": options["run"], "weights": run.weights, "data": data.name, "split": split}
        document = {**about, **diagnosis.to_dict()}
        if opened.own_data:
            name = "diagnosis.json" if split == "test" else f"diagnosis-{split}.json"
            run.write(name, json.dumps(document, indent=2, allow_nan=False) + "\n")
        if options["json"]:
            show_json(document)
        elif not options["quiet"]:
            show(f"{data.name}, {split} data, {run.weights} weights\n", diagnosis)
    return 0
