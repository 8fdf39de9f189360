r"""The figures of a run: evaluated, laid out in a table, and as JSON."""

__all__ = ["MEMORISATION", "Scores", "score"]

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pyro_vae import report
from pyro_vae.capturable import Mode
from pyro_vae.cli.memorising import Pairs, compare
from pyro_vae.cli.merging import merged
from pyro_vae.cli.pictures import write_arrays
from pyro_vae.data import Data
from pyro_vae.data.dataset import Split
from pyro_vae.evaluation import (
    Estimate,
    evaluate,
    fold,
    independent_evidence,
    mixture_evidence,
)
from pyro_vae.evaluation.information import MOST
from pyro_vae.evaluation.metrics import DEFAULT
from pyro_vae.evaluation.mixture_baseline import COMPONENTS
from pyro_vae.evaluation.psis import is_loose
from pyro_vae.likelihoods import Bernoulli, Binomial, Categorical, Poisson
from pyro_vae.models import FiniteGaussianMixture, FiniteMixture
from pyro_vae.programs import bare_program
from pyro_vae.runs import Run

_LARGE = 2**28  # elements that independent features are fitted to at most
_LARGE_MIXED = 2**26  # and a mixture, which goes over them some twenty times

# what figures are called, and those that only the file has
_WORDS = {
    "elbo": "ELBO",
    "log_likelihood": "reconstruction",
    "nll": "evidence",
    "independent_features": "independent features",
    "mixture": f"mixture of {COMPONENTS} (EM)",
    "bpd": "bits per dimension",
    "prior": "evidence by prior",
    "ais": "evidence, annealed, at least",
    "bdmc.lower": "simulated data, at least",
    "bdmc.upper": "simulated data, at most",
    "bdmc.gap": "simulated data, gap",
    "rate": "rate (KL)",
    "distortion": "distortion",
    "active_units": "active units",
    "mutual_information": "information, at least",
    "mutual_information.above": "information, at most",
    "marginal_kl": "KL of the marginal",
    "barber_agakov": "information in samples, at least",
    "prior_mismatch": "mismatch with the prior",
    "shuffled": "reconstruction, shuffled",
    "shuffled.loss": "lost by shuffling",
    "trade_off": "trade-off (beta)",
    "trade_off.fit": "trade-off, fit",
    "interpolation.length": "length of interpolations",
    "interpolation.gap": "distance from data half-way",
    "lipschitz": "steepest slope",
    "lipschitz.relative": "steepest slope, relative",
    "gap": "gap of the bound",
    "gap.approximation": "gap, by the family",
    "gap.amortisation": "gap, by the encoder",
    "memorisation.ratio": "memorisation: distance ratio",
    "memorisation.closer": "memorisation: closer",
}
_UNSEEN = {
    *("kl", "ess", "khat", "nll.bias", "gap.khat"),
    *("prior.bias", "prior.ess", "prior.khat", "ais.bias", "ais.ess"),
    *("mutual_information.kl", "mutual_information.analytic"),
}
# which figure says whether weights can be trusted
_SHAPES = {
    **{"nll": "khat", "bpd": "khat", "prior": "prior.khat"},
    **{"gap": "gap.khat", "gap.approximation": "gap.khat"},
}
MEMORISATION = "memorisation"


@dataclass(frozen=True)
class Scores:
    r"""Estimates on a split of data, and what they were made with.

    Arguments:
        estimates: The estimates by name, as :func:`pyro_vae.evaluate` returns them.
        baselines: The evidence of simpler models by name, where it can be compared.
        setting: Which data, weights, particles and seed they were made with.
        rows: The rows of the split that they are of, with shape :math:`(N)`.
        refused: Why there is no evidence, if there is none.
        pairs: Samples beside training data, where they were compared.
    """

    estimates: dict[str, Estimate]
    baselines: Mapping[str, Estimate]
    setting: dict[str, Any]
    rows: Tensor
    refused: str = ""
    pairs: Pairs | None = None

    @property
    def document(self) -> dict[str, Any]:
        r"""The figures as plain data."""
        found = {**self.estimates, **self.baselines}
        figures = {name: estimate.to_dict() for name, estimate in found.items()}
        return {**self.setting, "estimates": figures}

    @property
    def text(self) -> str:
        r"""The content of a new ``evaluation.json``."""
        return json.dumps(self.document, indent=2, allow_nan=False) + "\n"

    def added(self, path: Path) -> str:
        r"""The content of an ``evaluation.json`` that may have other figures."""
        return json.dumps(merged(self.document, path), indent=2, allow_nan=False) + "\n"

    def _share(self, name: str) -> float:
        r"""The share of the data at which a few of a figure's weights outweigh all others."""
        return float(self.estimates.get(_SHAPES.get(name, ""), 0.0))

    def _is_loose(self, name: str) -> bool:
        r"""Whether a figure is only known to be a lower bound."""
        return is_loose(self._share(name))

    def save(self, path: Path) -> None:
        r"""Writes what is known of each datum, by figure, and which ``row`` it is."""
        known = {name: e.per_datum for name, e in self.estimates.items() if e.per_datum is not None}
        write_arrays(path, {"row": self.rows, **known})

    def table(self, title: str) -> Table:
        r"""The figures in rows."""
        several = sum(name.startswith("active_units.") for name in self.estimates) > 1
        unseen = _UNSEEN if several else _UNSEEN | {"active_units"}
        known = {**self.estimates, **self._information}
        shown = {n: e for n, e in known.items() if n not in unseen}
        rows = dict(row for name, e in fold(shown).items() for row in self._rows(name, e))
        return report.table(rows, title, Console().width)

    def _rows(self, name: str, estimate: Estimate) -> Iterator[tuple[str, Estimate]]:
        r"""What stands in the table for a figure: names and figures."""
        family, _, site = name.partition(".")
        words = _WORDS.get(name, name)
        if family == "kl":
            words = f"KL of {site}"
        elif family == "active_units" and site:
            words = f"active units of {site}"
        elif self._is_loose(name):
            words += ", at least" * (name != "bpd")
            # an average that a few weights dominate has an error that is not known
            estimate = replace(estimate, stderr=math.nan)
        yield words, -estimate if name == "nll" else estimate
        if name == "nll":
            yield from ((_WORDS[simpler], found) for simpler, found in self.baselines.items())

    @property
    def remark(self) -> str:
        r"""What should be known of the figures."""
        refused = [f"There is no evidence: {self.refused}"] if self.refused else []
        evidence = [name for name in ("nll", "prior") if self._is_loose(name)]
        bounds = {"evidence": evidence[:1], "gap": ["gap"] * self._is_loose("gap")}
        loose = [self._loose(what, name) for what, names in bounds.items() for name in names]
        return "\n".join([*refused, *loose, *self._unseen])

    @property
    def _information(self) -> dict[str, Estimate]:
        r"""The smaller of two upper bounds on the information in latents, where there are both."""
        name = "mutual_information.above"
        both = [self.estimates.get(n) for n in (name, "mutual_information.kl")]
        return {name: min(known)} if len(known := [e for e in both if e is not None]) > 1 else {}

    @property
    def _unseen(self) -> list[str]:
        r"""That there may be more information in latents than so few data can tell."""
        size = min(len(self.rows), MOST)
        information = self.estimates.get("mutual_information")
        if information is None or information < math.log(size) - 0.1:
            return []
        return [
            f"The information may be more: of {size} data no more than log {size} = "
            f"{math.log(size):.2f} nats can be seen."
        ]

    def _loose(self, what: str, name: str) -> str:
        r"""Why a figure is but a lower bound."""
        if (share := self._share(name)) > 0:
            return (
                f"The {what} is a lower bound: at {share:.0%} of the data a few particles "
                "outweigh all others (Pareto shape above 0.7). More --particles raise it."
            )
        return f"The {what} is a lower bound, of unknown error: take more --particles."


def score(
    run: Run,
    data: Data,
    split: Split,
    *,
    metrics: Sequence[str] = DEFAULT,
    particles: int,
    count: int | None = None,
    seed: int,
    device: str,
    inputs: Sequence[str],
    capture: Mode = "auto",
) -> Scores:
    r"""Evaluates a run on a split of data, or on a number of its rows."""
    rows, index = _chosen(data, split, count, seed)
    arguments: dict[str, Any] = {
        "data_size": len(data.splits[split]["x"]),
        "particles": particles,
        "inputs": tuple(inputs),
        "data_plate": run.config.get("data_plate"),
        "device": device,
        "seed": seed,
        "capture": capture,
    }
    names = [name for name in metrics if name != MEMORISATION]
    pairs = _pairs(run, rows, split, arguments) if len(names) < len(metrics) else None
    estimates, refused = _evaluated(run, rows, names, arguments) if names else ({}, "")
    if pairs is not None:
        estimates |= pairs.estimates
    setting = {
        "run": None if run.path is None else str(run.path),
        "weights": run.weights,
        "data": data.name,
        "split": split,
        "rows": len(rows.test["x"]),
        "metrics": list(metrics),
        "particles": particles,
        "seed": seed,
    }
    return Scores(estimates, _baselines(run, rows, estimates, seed), setting, index, refused, pairs)


def _chosen(data: Data, split: Split, count: int | None, seed: int) -> tuple[Data, Tensor]:
    r"""The data with a number of a split's rows in the place of the test split; which they are."""
    fields = data.splits[split]
    size = len(fields["x"])
    index = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    index = index[:count].sort().values
    if len(index) < size:
        fields = {name: field[index] for name, field in fields.items()}
    return (replace(data, test=fields) if fields is not data.test else data), index


def _pairs(run: Run, rows: Data, split: Split, arguments: Mapping[str, Any]) -> Pairs:
    r"""Samples and the training data next to them, beside data that were not trained on."""
    if split == "train":
        raise ValueError(
            "expected data that were not trained on, for the metric 'memorisation', got "
            "--split train: take test or validation data"
        )
    how = {name: arguments[name] for name in ("data_plate", "device", "seed", "capture")}
    return compare(run, rows, arguments["inputs"], how)


def _evaluated(
    run: Run, data: Data, metrics: Sequence[str], arguments: dict[str, Any]
) -> tuple[dict[str, Estimate], str]:
    r"""The figures, and why there is no evidence if that alone is refused."""
    try:
        return evaluate(run.model, run.guide, data, metrics, **arguments), ""
    except ValueError as error:
        others = tuple(name for name in metrics if name != "nll")
        if "metrics=" not in str(error) or len(others) in (0, len(metrics)):
            raise
        refused = str(error).partition("; ")[0]
        return evaluate(run.model, run.guide, data, others, **arguments), refused


def _baselines(
    run: Run, data: Data, estimates: dict[str, Estimate], seed: int
) -> dict[str, Estimate]:
    r"""The evidence of simpler models, if all are masses or all are densities."""
    discrete = isinstance(data.natural, Bernoulli | Binomial | Categorical | Poisson)
    if "nll" not in estimates or discrete != ("bpd" in estimates):
        return {}
    x, likelihood = data.train["x"], data.natural
    simpler: dict[str, Callable[[Tensor, Tensor, Tensor], Estimate]] = {}
    if math.prod(x.shape) <= _LARGE:
        simpler["independent_features"] = partial(independent_evidence, likelihood)
    is_mixture = isinstance(bare_program(run.model), FiniteMixture | FiniteGaussianMixture)
    if not is_mixture and math.prod(x.shape) * likelihood.parameters_per_feature <= _LARGE_MIXED:
        simpler["mixture"] = partial(mixture_evidence, likelihood, seed=seed)
    if not simpler:
        return {}
    generator = torch.Generator().manual_seed(seed)
    train, test = (data.epoch(split, generator)["x"] for split in ("train", "test"))
    found = {}
    for name, evidence in simpler.items():
        with suppress(ValueError):
            found[name] = evidence(train, test, data.log_jacobians(test))
    return found
