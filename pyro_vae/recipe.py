r"""What repeats a fit, as plain data."""

__all__ = ["FIXED", "FREE", "PARTS", "Interval", "recipe"]

import os
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch

from pyro_vae.alternation import check_encoder_steps
from pyro_vae.components import describe, files_of
from pyro_vae.products import check_products

Interval = Literal["epoch", "step"]

# the arguments that a run notes: parts, by their descriptions; plain ones that must be the same
# where it goes on; and plain ones that may differ
PARTS = ("model", "guide", "objective", "optimizer", "schedule")
FIXED = (
    *("schedule_interval", "clip_norm", "batch_size", "seed", "validation", "data_plate"),
    *("encoder_steps", "products"),
)
FREE = ("epochs", "patience", "workers", "capture")


def recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    r"""What repeats a fit that was given these arguments, if they are sound."""
    for name in ("epochs", "batch_size"):
        count = given[name]
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"expected {name} to be a whole number of at least 1, got {count!r}")
    if given["schedule_interval"] not in get_args(Interval):
        got = repr(given["schedule_interval"])
        raise ValueError(f"expected an interval of 'epoch' or 'step', got {got}")
    if given["run_dir"] is None and (given["resume"] or given["overwrite"]):
        raise ValueError("expected run_dir, the folder of a run, with resume or overwrite")
    if given["resume"] and given["overwrite"]:
        raise ValueError("expected either resume or overwrite (--resume or --force), got both")
    check_encoder_steps(given["encoder_steps"])
    check_products(given["products"])
    data = given["data"]
    if isinstance(data, str | os.PathLike):
        data = {"class_path": "pyro_vae.data.load", "init_args": {"source": os.fspath(data)}}
    config = {
        **{name: describe(given[name]) for name in PARTS},
        "data": describe(data),
        **{name: given[name] for name in (*FIXED, *FREE)},
        "inputs": list(given["inputs"]),
        "device": str(given["device"]),
        "precision": str(torch.get_default_dtype()).removeprefix("torch."),
    }
    if taken := [name for name in given["notes"] if name in config]:
        raise ValueError(f"expected notes under names of their own, got {taken}")
    return {**config, **given["notes"], "files": files_of(config)}
