r"""``pyro-vae evaluate``."""

__all__ = ["parser", "run"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from pyro_vae.cli.common import add_capture, show, show_json
from pyro_vae.cli.opened import open_run, run_parser


def parser() -> ArgumentParser:
    r"""The options of ``evaluate``."""
    text = "Estimate a run's bound, evidence and other figures on data."
    found = run_parser("evaluate", text, "particles")
    text = "draws for each datum; of ais and bdmc, temperatures"
    found.add_argument("--particles", type=PositiveInt, default=1000, help=text)
    text = "how many data, drawn by seed (by default all)"
    found.add_argument("--count", type=PositiveInt | None, default=None, help=text)
    add_metrics(found)
    add_capture(found, "chunks of data and particles")
    return found


def add_metrics(parser: ArgumentParser) -> None:
    r"""Adds the options that say what is estimated, and where each datum's figures go."""
    from pyro_vae.components import summary
    from pyro_vae.evaluation.metrics import DEFAULT, METRICS

    texts = [f"{name}: {summary(metric).rstrip('.')}" for name, metric in METRICS.items()]
    texts += ["memorisation: How near samples are to training data, and a picture of the nearest"]
    kind: Any = Literal[(*METRICS, "memorisation")]
    parser.add_argument(
        "--metrics",
        type=kind,
        nargs="+",
        default=list(DEFAULT),
        metavar="NAME",
        help=f"what is estimated; {'; '.join(texts)}",
    )
    text = "file.npz for the figures of each datum"
    parser.add_argument("--per-datum", type=str | None, default=None, metavar="FILE", help=text)


def run(flags: Sequence[str]) -> int:
    r"""Evaluates a run; returns the exit code."""
    with open_run(parser(), flags) as opened:
        from pyro_vae import report
        from pyro_vae.cli.scores import score

        options, split = opened.options, opened.options["split"]
        names = ("metrics", "particles", "count", "seed", "device", "capture")
        setting = {name: options[name] for name in names}
        scores = score(opened.run, opened.data, split, inputs=opened.inputs, **setting)
        if opened.own_data:
            name = "evaluation.json" if split == "test" else f"evaluation-{split}.json"
            opened.run.write(name, scores.added(opened.folder / name))
            if scores.pairs is not None:
                report.save(scores.pairs.draw(), opened.folder / "memorisation.png")
        if options["per_datum"] is not None:
            scores.save(Path(options["per_datum"]))
        if options["json"]:
            show_json(scores.document)
        elif not options["quiet"]:
            title = f"{opened.data.name}, {split} data, {opened.run.weights} weights"
            show(scores.table(title), *filter(None, [scores.remark]))
    return 0
