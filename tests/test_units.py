r"""Figures of standardised data are those that the same model has on the data's own numbers."""

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_vae
from pyro_vae.data import Data, load

N, UNIT = 12, torch.tensor([1000.0, 0.01, 30.0, 2.0])

# those of which the densities of data are a part
DENSITIES = {
    "elbo": {"elbo", "log_likelihood"},
    "nll": {"nll"},
    "prior": {"prior"},
    "ais": {"ais"},
    "bdmc": {"bdmc.lower", "bdmc.upper"},
    "rate_distortion": {"distortion"},
    "shuffled": {"shuffled"},
}


def pair(loc: Tensor, unit: Tensor, plate: bool) -> tuple[Any, Any]:
    r"""A latent that moves all features by as many units; what is NaN is not observed."""

    at = torch.nn.Parameter(torch.tensor(0.2))

    def rows(x: Tensor) -> Any:
        return pyro.plate("data", x.shape[0], dim=-1) if plate else nullcontext()

    def model(x: Tensor) -> None:
        with rows(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0).to_event(not plate))
            noisy = dist.Normal(z[..., None] * unit + loc, 0.5 * unit).mask(~x.isnan())
            pyro.sample("x", noisy.to_event(2 - plate), obs=torch.where(x.isnan(), loc, x))

    def guide(x: Tensor) -> None:
        with rows(x):
            pyro.sample("z", dist.Normal(at.expand(len(x)), 0.7).to_event(not plate))

    return model, guide


def source(holes: bool) -> Tensor:
    x = torch.randn(2 * N, 4) * UNIT + 5 * UNIT
    if holes:
        x[torch.rand(x.shape) < 0.4] = math.nan
        x[N] = math.nan
    return x


def standardized(x: Tensor, holes: bool) -> tuple[Data, Tensor, Tensor]:
    r"""The data with the second half for testing, and what they were standardised by."""
    splits = {"train": x[:N], "valid": x[:N], "test": x[N:]}
    data = load(splits, standardize=True, missing=holes)
    assert data.standardization is not None
    return data, data.standardization.loc, data.standardization.scale


CASES = [
    (metric, holes, plate)
    for metric in DENSITIES
    for holes in (False, True)
    for plate in (True, False)
    if plate or metric not in ("shuffled", "rate_distortion")
]


@pytest.mark.parametrize(("metric", "holes", "plate"), CASES)
def test_figures_are_in_the_units_of_the_data(metric: str, holes: bool, plate: bool) -> None:
    r"""The noise is the same, so that nothing but rounding is between the two.

    Hamiltonian chains enlarge it, up to another decision: theirs may be half a nat apart, the
    units of a single feature are up to seven.
    """
    x = source(holes)
    data, loc, scale = standardized(x, holes)
    ones = torch.ones(4)
    found = pyro_vae.evaluate(*pair(0 * ones, ones, plate), data, (metric,), 8, seed=1)
    expected = pyro_vae.evaluate(*pair(loc, scale, plate), x[N:], (metric,), 8, seed=1)
    assert DENSITIES[metric] <= found.keys() == expected.keys()
    for name, estimate in expected.items():
        one, other = found[name], estimate
        near = 0.5 if metric in ("ais", "bdmc") else 1e-6
        figures = (one.value, one.stderr, one.data_stderr)
        known = (other.value, other.stderr, other.data_stderr)
        assert figures == pytest.approx(known, abs=near, nan_ok=True)
        if other.per_datum is not None:
            pairs = one.per_datum, other.per_datum
            torch.testing.assert_close(*pairs, rtol=1e-6, atol=4 * near, equal_nan=True)


@pytest.mark.parametrize(
    ("objective", "plate", "holes"),
    [
        (None, True, True),
        (None, True, False),
        (None, False, False),
        (pyro.infer.Trace_ELBO(), True, True),
        (pyro.infer.Trace_ELBO(), True, False),
    ],
)
def test_rows_of_a_fit_are_in_the_units_of_the_data(
    objective: Any, plate: bool, holes: bool
) -> None:
    x = source(holes)
    data, loc, scale = standardized(x, holes)
    plain = replace(data, train={"x": x[:N]}, validation={"x": x[:N]}, standardization=None)
    ones = torch.ones(4)
    rows = []
    for programs, given in ((pair(0 * ones, ones, plate), data), (pair(loc, scale, plate), plain)):
        setting: dict[str, Any] = {"batch_size": 5, "epochs": 1, "progress": False}
        run = pyro_vae.fit(*programs, given, objective=objective, **setting)
        rows.append(run.history[0])
    assert rows[0] == pytest.approx(rows[1])
