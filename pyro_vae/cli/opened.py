r"""A run's folder, opened by a command."""

__all__ = ["DATA", "Opened", "add_out", "open_run", "run_parser"]

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser

from pyro_vae.cli.common import PRODUCTS, add_setting, new_parser, precision, say, show, show_json

if TYPE_CHECKING:  # importing torch takes seconds, and --help needs none
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from pyro_vae.cli.pictures import Artist
    from pyro_vae.components import Kind
    from pyro_vae.data import Data
    from pyro_vae.runs import Run

# the only part that these commands choose: by default the run's
DATA: dict["Kind", str | None] = {"data": None}


def run_parser(command: str, description: str, seed: str) -> ArgumentParser:
    r"""A parser for a command that takes a run's folder."""
    parser = new_parser(command, description, "RUN [OPTIONS]")
    # optional to the parser, which would ask for it where it only reads options from a file
    text = "the run's folder, such as runs/vae-digits"
    parser.add_argument("run", nargs="?", type=str | None, default=None, metavar="RUN", help=text)
    kind: Any = Literal["test", "validation", "train"]
    parser.add_argument("--split", type=kind, default="test", help="which data")
    weights: Any = Literal["best", "last"] | None
    text = "which weights (by default the best, if there was validation)"
    parser.add_argument("--weights", type=weights, default=None, help=text)
    text = "what networks multiply in (bfloat16: faster, and rounded)"
    parser.add_argument("--products", type=PRODUCTS, default="float32", help=text)
    add_setting(parser, seed)
    return parser


def add_out(parser: ArgumentParser) -> None:
    r"""Adds the option that says where results go."""
    text = "folder of what is written (by default the run's)"
    parser.add_argument("--out", type=str | None, default=None, help=text)


@dataclass(frozen=True)
class Opened:
    r"""A run, its data, and where results go.

    Arguments:
        run: The run.
        data: The data.
        options: The command's options.
    """

    run: "Run"
    data: "Data"
    options: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        r"""Where results go: the run's folder, or another that was named."""
        out = self.options.get("out")
        return Path(out) if out else Path(self.options["run"])

    @property
    def own_data(self) -> bool:
        r"""Whether the data are the run's own, and no others were named."""
        named = self.options["data"] or {"init_args": {}}
        return named["init_args"].get("source") is None

    @property
    def inputs(self) -> list[str]:
        r"""The fields that the programs are called with."""
        return list(self.run.config.get("inputs", ["x"]))

    @property
    def artist(self) -> "Artist":
        r"""What makes arrays and pictures of the split."""
        from pyro_vae.cli.pictures import Artist

        names = ("split", "device", "seed")
        setting = {name: self.options[name] for name in names}
        capture = self.options.get("capture", False)  # traversals have no graphs
        return Artist(self.run, self.data, inputs=self.inputs, capture=capture, **setting)

    def finish(
        self,
        name: str,
        arrays: Mapping[str, Any],
        figures: Mapping[str, "Figure"],
        facts: Mapping[str, Any],
        *tables: "RenderableType",
    ) -> None:
        r"""Writes arrays and pictures, and says where they are."""
        from pyro_vae import report
        from pyro_vae.cli.pictures import write_arrays

        files = [write_arrays(self.folder / f"{name}.npz", arrays)]
        files += [
            report.save(figure, self.folder / f"{key}.png") for key, figure in figures.items()
        ]
        if self.options["json"]:
            setting = {"run": self.options["run"], "weights": self.run.weights}
            show_json({**setting, **facts, "files": [str(file) for file in files]})
        elif not self.options["quiet"]:
            show(*tables)
            say("\n".join(str(file) for file in files))


@contextmanager
def open_run(parser: ArgumentParser, flags: Sequence[str]) -> Iterator[Opened]:
    r"""Parses the flags of a command, and loads its run and the data."""
    from pyro_vae.cli.options import parse_options
    from pyro_vae.devices import find_device
    from pyro_vae.products import multiply_in
    from pyro_vae.runs import Run

    options = parse_options(parser, flags, parts=DATA)
    if options["run"] is None:
        raise ValueError(f"expected a run's folder, as in {parser.prog} runs/vae-digits, got none")
    find_device(options["device"])
    run = Run.load(options["run"], allow=options["allow"], weights=options["weights"])
    name = options["precision"] or run.config.get("precision", "float32")
    with precision(name):
        _convert(run, name)
        products = options["products"]
        model, guide = multiply_in(run.model, products), multiply_in(run.guide, products)
        run = replace(run, model=model, guide=guide)
        opened = Opened(run, _data(run, options), options)
        if not opened.data.splits[options["split"]]:
            there = [split for split, fields in opened.data.splits.items() if fields]
            raise ValueError(
                f"expected a {options['split']} split of {opened.data.name}, got none: take "
                f"--split {' or '.join(there)}"
            )
        yield opened


def _convert(run: "Run", name: str) -> None:
    import torch

    from pyro_vae.programs import modules

    if name != run.config.get("precision", name):
        for program in (run.model, run.guide):
            for module in modules(program).values():
                module.to(getattr(torch, name))


def _data(run: "Run", options: Mapping[str, Any]) -> "Data":
    r"""The run's data, or those that ``--data`` names; nothing is fetched unless asked for now."""
    from pyro_vae.components import build

    named = options["data"] or {"class_path": "pyro_vae.data.load", "init_args": {}}
    given = {k: v for k, v in named["init_args"].items() if k != "source" or v is not None}
    recorded = run.config.get("data")
    if "source" not in given:
        if not isinstance(recorded, Mapping) or "class_path" not in recorded:
            raise ValueError(
                f"{run.path}: expected data that can be loaded again, got a run whose data were "
                "given in Python: name them with --data"
            )
        kept = {k: v for k, v in (recorded.get("init_args") or {}).items() if k != "download"}
        named = {"class_path": recorded["class_path"], "init_args": {**kept, **given}}
    allowed = {"allow": options["allow"], "files": run.config.get("files")}
    try:
        data: Data = build(named, "data", known={"seed": run.config.get("seed", 0)}, **allowed)
    except FileNotFoundError as error:
        if "source" in given:
            raise
        raise FileNotFoundError(
            f"{error}; name where the run's data are now with --data"
        ) from error
    return data
