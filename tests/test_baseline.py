r"""The evidence of independent features, against scipy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor, nn

from pyro_vae.evaluation import independent_evidence
from pyro_vae.likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    Normal,
    NormalLearnedScale,
    NormalPredictedScale,
    Poisson,
)


def smoothed(x: np.ndarray, greatest: float) -> np.ndarray:
    return (x.sum(0) + greatest / 2) / (len(x) + 1)


BASELINES: dict[str, tuple[Any, Tensor, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "bernoulli": (
        Bernoulli(),
        torch.eye(4),
        lambda a, b: stats.bernoulli.logpmf(b, smoothed(a, 1)),
    ),
    "binomial": (
        Binomial(16),
        torch.arange(17.0)[:, None] * torch.tensor([1.0, 0.0]),
        lambda a, b: stats.binom.logpmf(b, 16, smoothed(a, 16) / 16),
    ),
    "numbers": (
        Poisson(),
        torch.tensor([0.0, 3.0, 5.0]),
        lambda a, b: stats.poisson.logpmf(b, (a.sum() + 0.5) / len(a))[:, None],
    ),
    "poisson": (
        Poisson(),
        torch.tensor([[0.0, 3.0], [0.0, 9.0], [0.0, 1.0]]),
        lambda a, b: stats.poisson.logpmf(b, (a.sum(0) + 0.5) / len(a)),
    ),
    "categorical": (
        Categorical(3),
        torch.tensor([[0.0, 2.0], [0.0, 1.0], [1.0, 1.0]]),
        lambda a, b: np.log(((a == b[:, None]).sum(1) + 0.5) / (len(a) + 1.5)),
    ),
    **dict.fromkeys(
        ("normal", "learned", "predicted"),
        (
            Normal(),
            torch.tensor([[0.5, 3.0], [2.0, 3.0], [-1.0, 3.0]]),
            lambda a, b: stats.norm.logpdf(
                b, a.mean(0), np.sqrt((len(a) * a.var(0) + a.var(0).mean()) / (len(a) + 1))
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", BASELINES)
def test_evidence_of_independent_features(name: str) -> None:
    likelihood, x, density = BASELINES[name]
    others = {"learned": NormalLearnedScale(), "predicted": NormalPredictedScale()}
    test = x.flip(0)[:3]
    shifts = torch.tensor([0.25, -1.0, 2.0])
    found = independent_evidence(others.get(name, likelihood), x.float(), test.float(), shifts)

    expected = density(x.numpy(), test.numpy()).sum(-1) + shifts.numpy()
    torch.testing.assert_close(found.per_datum, torch.tensor(expected), rtol=1e-6, atol=1e-6)
    assert found.stderr == 0
    assert found.data_stderr == pytest.approx(stats.sem(expected), rel=1e-5)


def test_evidence_of_independent_grey_levels() -> None:
    r"""The fit is the truncated exponential with the smoothed mean."""
    x = torch.tensor([[0.0, 0.3, 1.0], [0.0, 0.9, 1.0], [0.0, 0.1, 0.8]])
    found = independent_evidence(ContinuousBernoulli(), x, x)

    density = 0.0
    for column, mean in zip(x.numpy().T, smoothed(x.numpy(), 1), strict=True):
        mirrored, nearer = (column, mean) if mean < 0.5 else (1 - column, 1 - mean)
        rate = optimize.brentq(
            lambda b, m=nearer: stats.truncexpon.mean(b, scale=1 / b) - m, 1e-6, 99
        )
        density = density + stats.truncexpon.logpdf(mirrored, b=rate, scale=1 / rate)
    torch.testing.assert_close(found.per_datum, torch.tensor(density))


@pytest.mark.parametrize(
    "likelihood, train, test, match",
    [
        (Bernoulli(), torch.ones(3, 2), torch.ones(3, 4), r"got \(3, 2\) and \(3, 4\)"),
        (Bernoulli(), torch.ones(0, 2), torch.ones(3, 2), r"got \(0, 2\)"),
        (nn.Identity(), torch.ones(3, 2), torch.ones(3, 2), r"likelihoods .* got Identity"),
    ],
)
def test_baseline_errors(likelihood: Any, train: Tensor, test: Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        independent_evidence(likelihood, train, test)
