r"""The command line: it parses, calls and prints."""

__all__ = ["main"]

import math
import re
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt, restricted_number_type

from pyro_vae import __version__

if TYPE_CHECKING:  # importing torch takes seconds, and --help needs none
    from torch import Tensor

    from pyro_vae.data import Data, Fields
    from pyro_vae.data.dataset import Split
    from pyro_vae.runs import Run


Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])


def main(arguments: Sequence[str] | None = None) -> int:
    r"""Runs ``pyro-vae``; returns the exit code, 2 for an error of the user's.

    Example:
        >>> main(["fit", "--model", "VAEE"])
        2
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["fit"]:
            _fit(words[1:])
        else:
            _parser(_fit_parser()).parse_args(words)
    except (ArgumentError, OSError, TypeError, ValueError) as error:
        print("pyro-vae: error:", " ".join(str(error).split()), file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("pyro-vae: interrupted", file=sys.stderr)  # noqa: T201
        return 130
    return 0


def _parser(fit: ArgumentParser) -> ArgumentParser:
    parser = ArgumentParser(
        prog="pyro-vae",
        description="Trains and evaluates deep latent-variable models, written as Pyro programs.",
        exit_on_error=False,
        version=__version__,
    )
    commands = parser.add_subcommands(title="commands", metavar="fit")
    commands.add_subcommand("fit", fit, help="train, evaluate and draw a model")
    return parser


def _fit_parser() -> ArgumentParser:
    fit = ArgumentParser(
        prog="pyro-vae fit",
        usage="pyro-vae fit [OPTIONS]",
        description="Train a model and its guide, evaluate and draw them.",
        exit_on_error=False,
    )
    for name, default, text in (
        ("device", "auto", "auto (CUDA where there is one), cpu, cuda, …"),
        ("out", None, "the run's folder (by default a new one in runs)"),
    ):
        kind = str if default else str | None
        fit.add_argument(f"--{name}", type=kind, default=default, help=text)
    for name, whole, value, text in (
        ("epochs", PositiveInt, 100, "passes over the training data"),
        ("batch-size", PositiveInt, 64, "data in a batch"),
        ("seed", Seed, 0, "of initialisation, noise and order"),
        ("particles", PositiveInt, 1000, "draws for each datum's evidence"),
    ):
        fit.add_argument(f"--{name}", type=whole, default=value, help=text)
    return fit


def _fit(flags: Sequence[str]) -> None:
    import pyro

    from pyro_vae import components
    from pyro_vae.cli.options import parse_options
    from pyro_vae.loop import fit

    found = parse_options(_fit_parser(), flags)
    options = SimpleNamespace(**found)
    allowed = {"allow": options.allow, "files": options.files}
    objective = components.build(options.objective, "objective", **allowed)
    optimizer = components.build(options.optimizer, "optimizer", **allowed)
    data = components.build(options.data, "data", known={"seed": options.seed})
    if not data.test:
        raise ValueError(f"expected enough rows for a test split, got {data}")
    pyro.set_rng_seed(options.seed)
    likelihood = data.likelihood
    if options.likelihood is not None:
        likelihood = components.build(options.likelihood, "likelihood", **allowed)
    known = {"event_shape": data.event_shape, "likelihood": likelihood}
    model = components.build(options.model, "model", known=known, **allowed)
    guide = components.build(options.guide, "guide", known=known, **allowed)
    folder = Path(options.out) if options.out else _new_folder(options)
    run = fit(
        model,
        guide,
        data,
        objective=objective,
        optimizer=optimizer,
        epochs=options.epochs,
        batch_size=options.batch_size,
        device=options.device,
        seed=options.seed,
        run_dir=folder,
        progress=sys.stderr.isatty(),
    )
    parts = ("model", "guide", "objective", "likelihood", "optimizer", "schedule", "data")
    own = {
        key: found[key] for key in (*parts, "device", "epochs", "batch_size", "seed", "particles")
    }
    files = components.files_of(own)
    config = components.dump_config({"format": 1, **own, "files": files})
    (folder / "config.yaml").write_text(config)
    _report(run, data, options)
    _draw(run, data, options, folder)
    print(f"Weights, metrics and pictures are in {folder}")  # noqa: T201


def _name(spec: dict[str, Any]) -> str:
    return re.split(r"[.:]", spec["class_path"])[-1]


def _new_folder(options: SimpleNamespace) -> Path:
    r"""The first of ``runs/vae-digits``, ``runs/vae-digits-2``, … that is free."""
    source = Path(options.data["init_args"]["source"]).stem
    name = f"{_name(options.model)}-{source}".lower()
    count = 1
    while (path := Path("runs", name if count == 1 else f"{name}-{count}")).exists():
        count += 1
    return path


def _report(run: "Run", data: "Data", options: SimpleNamespace) -> None:
    r"""Evaluates a run on the test data and prints what came out."""
    from rich.console import Console

    from pyro_vae import report
    from pyro_vae.evaluation import evaluate, independent_evidence

    estimates = evaluate(run.model, run.guide, data, particles=options.particles, seed=options.seed)
    train, test = (_drawn(data, split, options.seed)["x"] for split in ("train", "test"))
    baseline = independent_evidence(data.natural, train, test, data.log_jacobian)
    share, evidence = float(estimates["khat"]), -estimates["nll"]
    loose = not share <= 0.1
    if loose:  # the error of an average that a few weights dominate is not known
        evidence = replace(evidence, stderr=math.nan)
    rows = {
        "ELBO": estimates["elbo"],
        "reconstruction": estimates["log_likelihood"],
        **{f"KL of {k.removeprefix('kl.')}": e for k, e in estimates.items() if "kl." in k},
        "evidence, at least" if loose else "evidence": evidence,
        "independent features": baseline,
    }
    if "bpd" in estimates:
        bits = estimates["bpd"]
        rows["bits per dimension"] = replace(bits, stderr=math.nan) if loose else bits
    console = Console()
    console.print(report.table(rows, f"{_name(options.model)} on {data.name}, test data"))
    if loose:
        console.print(
            f"The evidence is a lower bound: at {share:.0%} of the data a few particles outweigh "
            "all others (Pareto shape above 0.7). More --particles raise it."
            if share > 0
            else "The evidence is a lower bound, of unknown error: take more --particles."
        )


def _draw(run: "Run", data: "Data", options: SimpleNamespace, folder: Path) -> None:
    r"""Draws samples, reconstructions, latents and curves into the run's folder."""
    import torch

    from pyro_vae import report
    from pyro_vae.evaluation import encode, reconstruct, sample

    model, guide = run.model, run.guide
    image = len(data.event_shape) == 3
    scale = data.value_range if image else None
    fields = _drawn(data, "test", options.seed)
    x, labels = fields["x"], fields.get("y")
    # the first rows of a test set may be all of one class
    some = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    shown, many = x[some[:16]], some[:2000]
    means = torch.cat([z.flatten(1) for z in encode(model, guide, x[many]).values()], dim=1)
    # of images the means, which show shapes without the noise of pixels
    samples = _observed(sample(model, guide, 64, mean=image, seed=options.seed))
    title = "Samples: means given z" if image else "Samples"
    reconstructed = _observed(reconstruct(model, guide, shown))
    pictures = {
        "samples": report.samples(data.restore(samples), scale, title=title),
        "reconstructions": report.reconstructions(
            data.restore(shown), data.restore(reconstructed), scale, 8
        ),
        "latents": report.latents(means, None if labels is None else labels[many], data.classes),
        "curves": report.curves(run.history),
    }
    for name, figure in pictures.items():
        report.save(figure, folder / f"{name}.png")


def _drawn(data: "Data", split: "Split", seed: int) -> "Fields":
    r"""A split, drawn as :func:`pyro_vae.evaluate` draws it."""
    import torch

    return data.epoch(split, torch.Generator().manual_seed(seed))


def _observed(found: "Tensor | dict[str, Tensor]") -> "Tensor":
    r"""What there is of ``x`` where a model observes several sites."""
    return found["x"] if isinstance(found, dict) else found
