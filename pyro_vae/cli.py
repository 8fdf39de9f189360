r"""The command line: it parses, calls and prints."""

__all__ = ["main"]

import difflib
import math
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from inspect import isclass, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace
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
    fit = _fit_parser()
    try:
        options = _parser(fit).parse_args(arguments)
        _fit(options.fit, fit)
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
    fit = ArgumentParser(description="Train a model and its guide, evaluate and draw them.")
    fit.add_argument("--config", action="config", help="a config.yaml, such as a run's folder has")
    for name, default, text in (
        ("model", "VAE", "generative program, of pyro_vae.models"),
        ("guide", "AmortizedNormal", "program that draws its latents, of pyro_vae.guides"),
        ("objective", "ELBO", "what is maximised, of pyro_vae.objectives"),
        ("likelihood", None, "likelihood, of pyro_vae.likelihoods (by default the data's own)"),
        ("data", "digits", "digits, mnist, fashion-mnist, static-mnist, or an .npy, .npz or .csv"),
        ("label", None, "column of a .csv that holds labels, which no program gets"),
        ("binarization", "none", "none, static (drawn once) or dynamic (drawn each epoch)"),
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
    fit.add_argument(
        "--download", action="store_true", help="fetch files of the data that are not there"
    )
    return fit


def _fit(options: Namespace, parser: ArgumentParser) -> None:
    import pyro

    from pyro_vae.data import load
    from pyro_vae.loop import fit

    objective = _find("objectives", options.objective)()
    data = load(
        options.data,
        binarization=options.binarization,
        label=options.label,
        download=options.download,
        seed=options.seed,
    )
    if not data.test:
        raise ValueError(f"expected enough rows for a test split, got {data}")
    pyro.set_rng_seed(options.seed)
    likelihood = _likelihood(options.likelihood, data)
    known = {"event_shape": data.event_shape, "likelihood": likelihood}
    model = _build("models", options.model, known)
    guide = _build("guides", options.guide, known)
    folder = Path(options.out) if options.out else _new_folder(options)
    run = fit(
        model,
        guide,
        data,
        objective=objective,
        epochs=options.epochs,
        batch_size=options.batch_size,
        device=options.device,
        seed=options.seed,
        run_dir=folder,
        progress=sys.stderr.isatty(),
    )
    options.out = None  # as a config it repeats the run, in a folder of its own
    (folder / "config.yaml").write_text(parser.dump(options))
    _report(run, data, options)
    _draw(run, data, options, folder)
    print(f"Weights, metrics and pictures are in {folder}")  # noqa: T201


def _find(package: str, name: str) -> Any:
    r"""The class of that name in a package of ours."""
    module = import_module(f"pyro_vae.{package}")
    found = {n: c for n, c in vars(module).items() if isclass(c) and _is_program_part(c)}
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"expected one of pyro_vae.{package} ({', '.join(sorted(found))}), got {name!r}{hint}"
        )
    return found[name]


def _is_program_part(kind: type) -> bool:
    r"""Whether a class is to be built: no protocol, and no mere tuple of results."""
    return not getattr(kind, "_is_protocol", False) and not issubclass(kind, tuple)


def _build(package: str, name: str, known: dict[str, Any]) -> Any:
    r"""An instance, given those of the known arguments that its constructor has."""
    kind = _find(package, name)
    wanted = signature(kind).parameters
    return kind(**{key: value for key, value in known.items() if key in wanted})


def _likelihood(name: str | None, data: "Data") -> Any:
    r"""The data's own likelihood, or another that its constructor makes without arguments."""
    natural = data.likelihood
    if name is None or name == type(natural).__name__:
        return natural
    kind = _find("likelihoods", name)
    try:
        return kind()
    except TypeError as error:
        raise ValueError(
            f"expected a likelihood that needs no arguments, or the data's own "
            f"({type(natural).__name__}), got {name}: {error}; build it in Python"
        ) from error


def _new_folder(options: Namespace) -> Path:
    r"""The first of ``runs/vae-digits``, ``runs/vae-digits-2``, … that is free."""
    name = f"{options.model}-{Path(options.data).stem}".lower()
    count = 1
    while (path := Path("runs", name if count == 1 else f"{name}-{count}")).exists():
        count += 1
    return path


def _report(run: "Run", data: "Data", options: Namespace) -> None:
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
    console.print(report.table(rows, f"{options.model} on {data.name}, test data"))
    if loose:
        console.print(
            f"The evidence is a lower bound: at {share:.0%} of the data a few particles outweigh "
            "all others (Pareto shape above 0.7). More --particles raise it."
            if share > 0
            else "The evidence is a lower bound, of unknown error: take more --particles."
        )


def _draw(run: "Run", data: "Data", options: Namespace, folder: Path) -> None:
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
