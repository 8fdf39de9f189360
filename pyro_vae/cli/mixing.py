r"""``pyro-vae em``."""

__all__ = ["parser", "run"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeFloat, PositiveFloat, PositiveInt

from pyro_vae.cli.common import add_setting, new_parser, note, precision, say
from pyro_vae.cli.finishing import finish
from pyro_vae.cli.opened import DATA
from pyro_vae.cli.places import absolute, new_folder, tidy

if TYPE_CHECKING:  # importing torch takes seconds, and --help needs none
    from pyro_vae.em.mixture import Mixture

# what the folder's configuration has besides options
_RECORDED = ("model", "guide", "inputs")


def parser() -> ArgumentParser:
    r"""The options of ``em``, but for those of the data."""
    text = (
        "Fit a mixture to data by expectation-maximisation, evaluate and draw it: an exact "
        "baseline, and a run like any other."
    )
    found = new_parser("em", text)
    family: Any = Literal["auto", "gaussian", "bernoulli", "binomial", "poisson", "categorical"]
    start: Any = Literal["kmeans", "k-means++", "random", "random_from_data"]
    form: Any = Literal["full", "tied", "diag", "spherical"] | None
    numbers: Any = list[float] | None
    for flag, kind, default, text in (
        ("--family", family, "auto", "of the components (auto: the likelihood of the data)"),
        ("--n-components", PositiveInt, 10, "components"),
        ("--tol", NonNegativeFloat, 1e-3, "change of the objective at which it ends, in nats"),
        ("--max-iter", PositiveInt, 100, "most iterations"),
        ("--n-init", PositiveInt, 1, "starts, of which the best is taken"),
        ("--init", start, "kmeans", "where it begins"),
        ("--smoothing", bool, True, "whether priors keep all that can occur from being impossible"),
        ("--weight-concentration-prior", PositiveFloat | None, None, "of the weights (Dirichlet)"),
        ("--probability-prior", PositiveFloat | None, None, "of probabilities (by default 1.5)"),
        ("--rate-prior", numbers, None, "of Poisson rates: shape, rate (by default [1.5, 0])"),
        ("--n-trials", PositiveInt | None, None, "of the binomial (by default the data's)"),
        ("--n-categories", PositiveInt | None, None, "of the categorical (by default the data's)"),
        ("--covariance-type", form, None, "of the Gaussian (by default full)"),
        ("--reg-covar", NonNegativeFloat | None, None, "added to each variance of the Gaussian"),
        ("--mean-precision-prior", PositiveFloat | None, None, "of the Gaussian's means"),
        ("--degrees-of-freedom-prior", PositiveFloat | None, None, "of its covariances"),
        ("--out", str | None, None, "the run's folder (by default a new one in runs)"),
    ):
        found.add_argument(flag, type=kind, default=default, help=text)
    for flag, text in (
        ("--allow-missing", "NaN means that an entry is missing (Gaussian only; --data.missing)"),
        ("--force", "delete the run that is in --out first"),
    ):
        found.add_argument(flag, action="store_true", help=text)
    add_setting(found, "the start and the samples", "float32")
    return found


def run(flags: Sequence[str]) -> int:
    r"""Fits, evaluates and draws; returns the exit code."""
    from pyro_vae.cli.options import parse_options

    parts = {**DATA, "data": "digits"}
    options = parse_options(parser(), flags, parts, recorded=_RECORDED)
    options["data"] = absolute(options["data"])
    if options["allow_missing"]:
        options["data"]["init_args"]["missing"] = True
    with precision(options["precision"]):
        _run(options)
    return 0


def _run(options: dict[str, Any]) -> None:
    from pyro_vae.cli.expectation import fitted, likelihood_of, write_run
    from pyro_vae.cli.programs import build_data
    from pyro_vae.devices import find_device
    from pyro_vae.runs import RunFolder

    if options["out"]:  # before anything is computed
        RunFolder.check(Path(options["out"]), options["force"])
    find_device(options["device"])
    data = build_data(options)
    likelihood, family = likelihood_of(options, data)
    mixture = fitted(options, data, likelihood, family)
    folder = Path(options["out"]) if options["out"] else new_folder("em", data)
    setting = {"device": options["device"], "seed": options["seed"], "inputs": ["x"]}
    with tidy(folder):
        made = write_run(mixture, data, folder, options)
        _say(mixture, made.history[-1]["objective"], options)
        finish(
            made,
            data,
            f"Mixture of {mixture.n_components} ({family})",
            options,
            {**setting, "capture": False},
            pictures=("draws", "means", "curves"),
            metrics=("nll",),
            particles=1,
        )


def _say(mixture: "Mixture", objective: float, options: Mapping[str, Any]) -> None:
    r"""Says how EM went."""
    count = f"{mixture.n_iter_} iteration{'' if mixture.n_iter_ == 1 else 's'}"
    if not (options["quiet"] or options["json"]):
        priors = ", priors included" if options["smoothing"] else ""
        say(f"EM took {count}, to an objective of {objective:.2f} nats per datum{priors}")
    if not (mixture.converged_ or options["quiet"]):
        note(f"EM did not converge in {count}: take more (--max-iter), or a larger --tol")
