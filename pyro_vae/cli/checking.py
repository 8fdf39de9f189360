r"""``pyro-vae check``."""

__all__ = ["parser", "run"]

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from pyro_vae.cli.common import new_parser, precision, say, show_json
from pyro_vae.cli.fitting import add_training

if TYPE_CHECKING:  # importing torch takes seconds, and --help needs none
    from pyro_vae.checks import Finding


# what fit takes and what nothing is checked for
UNUSED = (
    *("--epochs", "--validation", "--patience", "--encoder-steps", "--clip-norm"),
    *("--schedule-interval", "--workers", "--products", "--checkpoint-every"),
)


def parser() -> ArgumentParser:
    r"""The options of ``check``, but for those of the parts of a run: it takes those of ``fit``."""
    text = "Say what is wrong with a model, a guide and data; the exit code is 1 for errors."
    found = new_parser("check", text)
    add_training(found, UNUSED)
    return found


def run(flags: Sequence[str]) -> int:
    r"""Checks a pair on data; returns the exit code."""
    from pyro_vae.checks import render
    from pyro_vae.cli.options import parse_options

    options = parse_options(parser(), flags, recorded=["out", "particles"])
    with precision(options["precision"]):
        found = _findings(options)
    errors = sum(finding.severity == "error" for finding in found)
    if options["json"]:
        show_json({"errors": errors, "findings": [asdict(finding) for finding in found]})
    elif not options["quiet"]:
        rest = len(found) - errors
        count = (
            f"{errors} error{'' if errors == 1 else 's'}, {rest} warning{'' if rest == 1 else 's'}"
        )
        say("\n\n".join(filter(None, [render(found), count if found else "No findings"])))
    return 1 if errors else 0


def _findings(options: dict[str, Any]) -> list["Finding"]:
    import pyro
    import torch

    from pyro_vae.checks import check, check_rows
    from pyro_vae.cli.programs import build_data, build_objective, build_programs
    from pyro_vae.devices import find_device
    from pyro_vae.programs import modules

    place = find_device(options["device"])
    data = build_data(options).to(place)
    pyro.set_rng_seed(options["seed"])
    programs = build_programs(options, data)
    objective = build_objective(options, data)
    for program in programs:
        for module in modules(program).values():
            module.to(place)
    if isinstance(objective, torch.nn.Module):
        objective.to(place)
    plate, found = options["data_plate"], []
    for split in (name for name, fields in data.splits.items() if fields):
        fields = data.epoch(split, torch.Generator(place).manual_seed(options["seed"]))
        rows = tuple(fields[name] for name in options["inputs"])
        if split == "train":
            batch = tuple(field[: options["batch_size"]] for field in rows)
            size = len(rows[0])
            how: dict[str, Any] = {"data_plate": plate, "data_size": size}
            found += check(*programs, *batch, objective=objective, **how)
        if not found:
            found += check_rows(*programs, *rows, data_plate=plate)
    return list(dict.fromkeys(found))
