r"""Gaussian mixtures by EM of data and arguments that are wrong, or nearly."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from clusters import TYPES, clusters
from sklearn.exceptions import ConvergenceWarning

from pyro_vae.em import GaussianMixture

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_empty_components_begin_anew() -> None:
    x, means = clusters(K=2, D=2)
    lost = np.concatenate([means, [[1e3, 1e3]]])
    options = {"means_init": lost, "precisions_init": np.ones((3, 2)), "covariance_type": "diag"}
    mixture = GaussianMixture(3, random_state=0, **options)  # type: ignore[arg-type]
    with pytest.warns(ConvergenceWarning, match="components lost their data and began anew in 1"):
        mixture.fit(x)

    assert mixture.reseeded_ == [0]
    assert mixture.weights_.min() > 1e-3
    assert np.abs(mixture.means_).max() < 100


@pytest.mark.parametrize("form", TYPES)
@pytest.mark.parametrize("reg_covar", [0, 1e-6])
def test_degenerate_data_are_fitted(form: str, reg_covar: float) -> None:
    random = np.random.RandomState(0)
    duplicates = np.repeat(random.randn(3, 2), 10, 0)
    constant = np.concatenate([random.randn(30, 1), np.full((30, 1), 1 / 3)], 1)
    for x in (duplicates, constant, np.ones((5, 2)), duplicates.astype(np.float32)):
        mixture = GaussianMixture(
            2,
            covariance_type=form,
            reg_covar=reg_covar,
            random_state=0,  # type: ignore[arg-type]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(x)
        assert np.isfinite(mixture.score_samples(x)).all()
        assert mixture.regularized_ == 0 or reg_covar == 0


X = np.random.RandomState(0).randn(10, 2)
NAN, INF = X.copy(), X.copy()
NAN[3, 1], INF[3, 1] = np.nan, np.inf
ERRORS: dict[str, tuple[dict[str, Any], Any, dict[str, Any], type[Exception], str]] = {
    "few": ({"n_components": 11}, X, {}, ValueError, "at least as many data as components, got 10"),
    "nan": ({}, NAN, {}, ValueError, r"got NaN: fill them.*allow_missing=True"),
    "inf": ({}, INF, {}, ValueError, "expected finite numbers, got inf"),
    "components": ({"n_components": 0}, X, {}, ValueError, "n_components of at least 1, got 0"),
    "type": ({"covariance_type": "round"}, X, {}, ValueError, "covariance_type to be one of"),
    "tol": ({"tol": -1}, X, {}, ValueError, "tol of at least 0, got -1"),
    "reg": ({"reg_covar": "a"}, X, {}, TypeError, "reg_covar to be a number, got 'a'"),
    "init": ({"init_params": "best"}, X, {}, ValueError, "init_params to be one of"),
    "alpha": ({"weight_concentration_prior": 0.5}, X, {}, ValueError, "prior of at least 1"),
    "kappa": ({"mean_precision_prior": 0}, X, {}, ValueError, "mean_precision_prior above 0"),
    "means": ({"means_init": [[1.0]]}, X, {}, ValueError, r"means_init with shape \(1, 2\)"),
    "weights": ({"weights_init": [2.0]}, X, {}, ValueError, "that sum to 1"),
    "precisions": (
        {"precisions_init": -np.eye(2)[None]},
        X,
        {},
        ValueError,
        "precisions_init to be positive",
    ),
    "generator": ({}, (x for x in [X]), {}, TypeError, "gone through anew, got generator"),
    "shape": ({}, X[None], {}, ValueError, "Found array with dim 3"),
    "tensor": ({}, torch.ones(3), {}, ValueError, r"a tensor with shape \(N, D\), got \(3,\)"),
    "batch": ({}, [X, X[:, :1]], {}, ValueError, r"batches with shape \(B, 2\), got \(10, 1\)"),
    "nothing": ({}, X, {"sample_weight": np.zeros(10)}, ValueError, "at least one non-zero"),
    "batched": ({}, [X], {"sample_weight": np.ones(10)}, ValueError, "no sample_weight with"),
    "table": ({}, "mine.csv", {}, ValueError, "the name of a .npy file, got mine.csv: read it"),
    "mean alone": ({"mean_prior": [0, 0]}, X, {}, ValueError, "expected mean_precision_prior"),
    "infinite": (
        {"degrees_of_freedom_prior": np.inf},
        X,
        {},
        ValueError,
        "degrees_of_freedom_prior to be finite, got inf",
    ),
    "no square": (
        {"covariance_prior": -np.eye(2)},
        X,
        {},
        ValueError,
        "covariance_prior to be positive semi-definite and symmetric, got",
    ),
    "asymmetric": (
        {"covariance_prior": [[2, 1], [0, 2]]},
        X,
        {},
        ValueError,
        "semi-definite and symmetric, got",
    ),
    "negative": (
        {"covariance_prior": [1, -1], "covariance_type": "diag"},
        X,
        {},
        ValueError,
        r"covariance_prior to be positive, got \[1.0, -1.0\]",
    ),
    "device": ({"device": "abacus"}, X, {}, ValueError, "expected a device that is here"),
}


@pytest.mark.parametrize("options, x, more, error, match", ERRORS.values(), ids=list(ERRORS.keys()))
def test_errors(
    options: dict[str, Any], x: Any, more: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        GaussianMixture(**options).fit(x, **more)


def test_other_features_are_an_error() -> None:
    mixture = GaussianMixture().fit(X)
    with pytest.raises(ValueError, match="X has 1 features"):
        mixture.score(X[:, :1])
    with pytest.raises(ValueError, match="X has 1 features"):
        mixture.score(torch.from_numpy(X[:, :1]))
    with pytest.raises(ValueError, match="got NaN"):
        mixture.score(NAN)
    with pytest.raises(ValueError, match="n_samples of at least 1, got 0"):
        mixture.sample(0)
