r"""What mixtures and their families say to arguments that they do not take."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pyro_vae.gibbs import GammaPoisson
from pyro_vae.models import BayesianGaussianMixture, BayesianMixture
from pyro_vae.models.components import (
    BernoulliComponents,
    BinomialComponents,
    CategoricalComponents,
    FullGaussianComponents,
    GaussianComponents,
    PoissonComponents,
    SemiconjugateGaussianComponents,
)
from pyro_vae.models.weights import DirichletWeights, FixedWeights

MISTAKES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no features": (lambda: GaussianComponents(0), ValueError, "features of at least 1, got 0"),
    "shape": (
        lambda: GaussianComponents(2, [1.0, 2.0, 3.0]),
        ValueError,
        r"mean_prior to be a number or 2 of them, .* got shape \(3,\)",
    ),
    "no precision": (
        lambda: GaussianComponents(2, mean_precision_prior=0.0),
        ValueError,
        "mean_precision_prior to be positive finite, got 0",
    ),
    "no freedom": (
        lambda: BayesianGaussianMixture(2, degrees_of_freedom_prior=-1.0),
        ValueError,
        "degrees_of_freedom_prior to be positive finite, got -1",
    ),
    "NaN": (
        lambda: SemiconjugateGaussianComponents(2, math.nan),
        ValueError,
        "mean_prior to be finite, got nan",
    ),
    "no scale": (
        lambda: SemiconjugateGaussianComponents(2, 0.0, [1.0, 0.0]),
        ValueError,
        "mean_scale_prior to be positive finite, got 0",
    ),
    "nothing correlated": (
        lambda: FullGaussianComponents(1),
        ValueError,
        "at least 2 features, .* got 1: take SemiconjugateGaussianComponents",
    ),
    "no correlation": (
        lambda: FullGaussianComponents(2, correlation_concentration_prior=0.0),
        ValueError,
        "correlation_concentration_prior to be a positive number, got 0.0",
    ),
    "three": (
        lambda: BernoulliComponents(2, (1.0, 2.0, 3.0)),  # type: ignore[arg-type]
        ValueError,
        "probability_prior to be a positive number or two, got",
    ),
    "matrix": (
        lambda: BernoulliComponents(2, torch.ones(2, 2)),
        ValueError,
        "probability_prior to be a positive number or two, got",
    ),
    "no rate": (lambda: PoissonComponents(2, (1.0, 0.0)), ValueError, "rate_prior to be positive"),
    "no trials": (lambda: BinomialComponents(2, 0), ValueError, "n_trials of at least 1, got 0"),
    "half a category": (
        lambda: CategoricalComponents(2, 1.5),  # type: ignore[arg-type]
        TypeError,
        "n_categories to be an integer, got 1.5",
    ),
    "no components": (
        lambda: BayesianGaussianMixture(2, 0),
        ValueError,
        "n_components of at least 1, got 0",
    ),
    "no concentration": (
        lambda: DirichletWeights(2, 0.0),
        ValueError,
        "weight_concentration_prior to be a positive number, got 0",
    ),
    "endless concentration": (
        lambda: DirichletWeights(2, math.inf),
        ValueError,
        "weight_concentration_prior to be a positive number, got inf",
    ),
    "two concentrations": (
        lambda: DirichletWeights(2, [1.0, 2.0]),  # type: ignore[arg-type]
        ValueError,
        "weight_concentration_prior to be a positive number, got",
    ),
    "endless correlation": (
        lambda: FullGaussianComponents(2, correlation_concentration_prior=math.inf),
        ValueError,
        "correlation_concentration_prior to be a positive number, got inf",
    ),
    "endless weight": (
        lambda: FixedWeights([1.0, math.inf]),
        ValueError,
        "a list of positive weights, got",
    ),
    "a number of weights": (
        lambda: BayesianMixture(PoissonComponents(2), 3),  # type: ignore[arg-type]
        TypeError,
        r"weights of pyro_vae.models.weights, as DirichletWeights\(3\), got 3",
    ),
    "another family": (
        lambda: BayesianMixture(GammaPoisson(), FixedWeights([1.0])),  # type: ignore[arg-type]
        TypeError,
        "family of pyro_vae.models.components, .* got <pyro_vae.gibbs.discrete.GammaPoisson",
    ),
    "a class": (
        lambda: BayesianMixture(PoissonComponents, FixedWeights([1.0])),  # type: ignore[arg-type]
        TypeError,
        "family of pyro_vae.models.components, .* got <class",
    ),
    "no weight": (lambda: FixedWeights([1.0, 0.0]), ValueError, "a list of positive weights, got"),
    "data": (
        lambda: BayesianGaussianMixture(2)(torch.zeros(4, 3)),
        ValueError,
        r"expected x with shape \(N, 2\), .* got shape \(4, 3\)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake: str) -> None:
    call, kind, message = MISTAKES[mistake]
    with pytest.raises(kind, match=message):
        call()


def test_pairs_are_numbers_tensors_or_one_for_both() -> None:
    expected = PoissonComponents(3, (2.0, 0.5)).rate_prior
    assert expected.equal(torch.tensor([[2.0] * 3, [0.5] * 3]))
    assert PoissonComponents(3, torch.tensor([2.0, 0.5])).rate_prior.equal(expected)
    assert PoissonComponents(3, 2.0).rate_prior.equal(torch.full((2, 3), 2.0))
