r"""What collapsed Gibbs sampling says to data and arguments that it does not take."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from pyro_vae.gibbs import (
    BetaBernoulli,
    GammaPoisson,
    NormalInverseGamma,
    NormalInverseWishart,
    collapsed_gibbs,
)
from pyro_vae.models.components import GaussianComponents

X = np.zeros((3, 2))
ERRORS: list[tuple[str, Callable[[], object], type[Exception], str]] = [
    ("flat", lambda: collapsed_gibbs(X[0], GammaPoisson()), ValueError, r"shape \(N, D\), got"),
    ("nan", lambda: collapsed_gibbs(X + np.nan, GammaPoisson()), ValueError, "6 of 6 values NaN"),
    ("bits", lambda: collapsed_gibbs(X + 2, BetaBernoulli()), ValueError, "0 or 1, got 2"),
    ("counts", lambda: collapsed_gibbs(X - 1, GammaPoisson()), ValueError, "counts .* got -1"),
    ("half", lambda: collapsed_gibbs(X + 0.5, GammaPoisson()), ValueError, "counts .* got 0.5"),
    (
        "features",
        lambda: collapsed_gibbs(X, NormalInverseGamma([0.0] * 3)),
        ValueError,
        r"mean_prior to be a number or 2 of them, .* got shape \(3,\)",
    ),
    (
        "matrix",
        lambda: collapsed_gibbs(X, NormalInverseWishart(0, 1, 3, np.eye(3))),
        ValueError,
        r"covariance_prior with shape \(2, 2\)",
    ),
    (
        "degrees",
        lambda: collapsed_gibbs(X, NormalInverseWishart(0, 1, 1, 1)),
        ValueError,
        "above D - 1 = 1, got 1",
    ),
    (
        "indefinite",
        lambda: collapsed_gibbs(X, NormalInverseWishart(0, 1, 3, [[1.0, 2.0], [2.0, 1.0]])),
        ValueError,
        "positive definite",
    ),
    ("psi", lambda: NormalInverseGamma(covariance_prior=-1), ValueError, "covariance_prior .* -1"),
    ("m", lambda: NormalInverseGamma(mean_prior=np.inf), ValueError, "mean_prior to be finite"),
    ("rank", lambda: NormalInverseGamma(np.eye(2)), ValueError, "at most 1 dimensions"),
    ("pair", lambda: BetaBernoulli((1, 2, 3)), ValueError, "number or two, got"),
    ("zero", lambda: GammaPoisson((1.0, 0.0)), ValueError, "rate_prior to be positive .* got 0"),
    (
        "alpha",
        lambda: collapsed_gibbs(X, GammaPoisson(), concentration=0),
        ValueError,
        "concentration to be positive",
    ),
    (
        "three",
        lambda: collapsed_gibbs(X, GammaPoisson(), concentration=(1, 1, 1)),
        ValueError,
        "concentration to be a positive number or two",
    ),
    ("draws", lambda: collapsed_gibbs(X, GammaPoisson(), draws=0), ValueError, "draws of at least"),
    ("burn", lambda: collapsed_gibbs(X, GammaPoisson(), burn_in=-1), ValueError, "burn_in of at"),
    (
        "points",
        lambda: collapsed_gibbs(X, GammaPoisson(), draws=1).density([[1.0]]),
        ValueError,
        r"points with shape \(M, 2\)",
    ),
    (
        "one point",
        lambda: collapsed_gibbs(X, GammaPoisson(), draws=1).density([1.0, 2.0]),
        ValueError,
        r"points with shape \(N, D\), got \(2,\)",
    ),
    (
        "no point",
        lambda: collapsed_gibbs(X, GammaPoisson(), draws=1).density([[math.nan, 1.0]]),
        ValueError,
        "finite points, got 1 of 2 values NaN",
    ),
    (
        "no count",
        lambda: collapsed_gibbs(X, GammaPoisson(), draws=1).density([[0.5, 1.0]]),
        ValueError,
        "counts .* got 0.5",
    ),
    (
        "half a sweep",
        lambda: collapsed_gibbs(X, GammaPoisson(), burn_in=2.5),
        TypeError,
        "burn_in to be an integer, got 2.5",
    ),
    (
        "components of models",
        lambda: collapsed_gibbs(X, GaussianComponents(2)),
        TypeError,
        "components of pyro_vae.gibbs, as NormalInverseGamma.*, got GaussianComponents",
    ),
    (
        "far",
        lambda: collapsed_gibbs(X + 1e9, NormalInverseWishart(0.0, 1.0, 4.0, 1.0), draws=1),
        ValueError,
        r"data near mean_prior, got some so far .* give mean_prior=x.mean\(0\)",
    ),
]


@pytest.mark.parametrize("name, call, error, match", ERRORS, ids=[row[0] for row in ERRORS])
def test_errors(name: str, call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_one_number_is_both() -> None:
    assert BetaBernoulli(2.0).probability_prior == (2.0, 2.0)
    assert GammaPoisson(3.0).rate_prior == (3.0, 3.0)
    assert BetaBernoulli((0.7, 1.3)).probability_prior == (0.7, 1.3)
