r"""Mixtures from the options of ``em``, and their folders."""

__all__ = ["fitted", "likelihood_of", "write_run"]

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning

from pyro_vae.components import build, describe, files_of
from pyro_vae.data import Data
from pyro_vae.devices import find_device
from pyro_vae.em.mixture import Mixture
from pyro_vae.interrupts import Interrupts
from pyro_vae.likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    Likelihood,
    Masked,
    NormalLearnedScale,
    Poisson,
)
from pyro_vae.mixtures import mixture_for, program_of, vectors
from pyro_vae.pair import Pair
from pyro_vae.runs import Run, RunFolder, environment, programs_of

Options = Mapping[str, Any]

# which families take an option; all others are every family's
_ONLY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("covariance_type", "reg_covar", "allow_missing"), ("gaussian",)),
    **dict.fromkeys(("mean_precision_prior", "degrees_of_freedom_prior"), ("gaussian",)),
    "probability_prior": ("bernoulli", "binomial", "categorical"),
    "rate_prior": ("poisson",),
    "n_trials": ("binomial",),
    "n_categories": ("categorical",),
}
_EVERY = ("tol", "max_iter", "n_init", "weight_concentration_prior")


def likelihood_of(options: Options, data: Data) -> tuple[Likelihood, str]:
    r"""The likelihood whose family the components have, and the name of the family.

    Raises:
        ValueError: If an option was given that the family does not take, or entries are missing
            that may not be.
    """
    natural = data.natural
    missing = isinstance(natural, Masked)
    family = options["family"]
    if family == "auto":
        family = "gaussian"
        if isinstance(natural, Bernoulli | Binomial | Categorical | Poisson):
            family = type(natural).__name__.lower()
    for name, families in _ONLY.items():
        if options[name] not in (None, False) and family not in families:
            raise ValueError(
                f"expected options of the family {family}, got --{name.replace('_', '-')}, which "
                f"--family {' or '.join(families)} takes"
            )
    if missing and not options["allow_missing"]:
        raise ValueError(
            "expected data without missing entries, got --data.missing true: say "
            "--allow-missing instead, which the family gaussian takes"
        )
    if options["allow_missing"] and options["covariance_type"] in ("full", "tied"):
        raise ValueError(
            "expected features that are independent given the component where entries may be "
            f"missing, got --covariance-type {options['covariance_type']}: take diag or spherical"
        )
    if family != "gaussian" and data.standardization is not None:
        raise ValueError(
            f"expected data as they are for the family {family}, got standardised ones: say "
            "--data.standardize false, or take --family gaussian"
        )
    most = max(1, int(data.value_range[1]))
    trials = natural.total_count if isinstance(natural, Binomial) else most
    levels = natural.levels if isinstance(natural, Categorical) else most + 1
    known: dict[str, Likelihood] = {
        "bernoulli": Bernoulli(),
        "binomial": Binomial(options["n_trials"] or trials),
        "categorical": Categorical(options["n_categories"] or levels),
        "gaussian": NormalLearnedScale(),
        "poisson": Poisson(),
    }
    return known[family], family


def fitted(options: Options, data: Data, likelihood: Likelihood, family: str) -> Mixture:
    r"""A mixture, fitted to the training data."""
    x = data.epoch("train", torch.Generator().manual_seed(options["seed"]))["x"]
    own = {
        name: options[name]
        for name in _ONLY
        if options[name] not in (None, False) and name not in ("n_trials", "n_categories")
    }
    if options["allow_missing"]:  # of whose programs features must be independent
        own = {"covariance_type": "diag", **own}
    mixture = mixture_for(
        likelihood,
        x,
        options["n_components"],
        smoothing=options["smoothing"],
        init_params=options["init"],
        random_state=options["seed"],
        device=find_device(options["device"]),
        verbose=int(sys.stderr.isatty() and not options["quiet"]),
        **{name: options[name] for name in _EVERY},
        **own,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "EM did not converge", ConvergenceWarning)
        mixture.fit(vectors(x))
    return mixture


def write_run(mixture: Mixture, data: Data, folder: Path, options: Options) -> Run:
    r"""Writes a fitted mixture as a run of its program; signals wait until all is there."""
    place = find_device(options["device"])
    model, guide = program_of(mixture, data.event_shape).to(place), build("Empty", "guide")
    offset = float(data.log_jacobians(data.train["x"]).mean())
    history = [
        {"iteration": i, "step": i, "objective": value + offset}
        for i, value in enumerate(mixture.lower_bounds_, 1)
    ]
    own = {k: v for k, v in options.items() if k not in _UNKEPT}
    parts = {"model": describe(model), "guide": describe(guide), "data": describe(data)}
    config = {**own, **parts, "inputs": ["x"]}
    config["files"] = files_of(config)
    kept = {"programs": programs_of(config), "example": None}
    with Interrupts() as interrupts:
        with RunFolder(folder, overwrite=options["force"]) as files:
            about = {**environment(place, options["seed"]), "data": data.record}
            files.begin(config, about, kept)
            for row in history:
                files.log(row)
            files.save(Pair(model, guide).state(), {"history": history, "best": None})
        interrupts.obey()
    return Run(model, guide, history, folder, config)


_UNKEPT = ("inputs", "out", "force", "quiet", "json", "config", "allow", "files", "model", "guide")
