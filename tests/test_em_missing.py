r"""Missing values in Gaussian mixtures against scipy's marginals and conditionals by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from pyro_vae.em import GaussianMixture

TYPES = ("full", "tied", "diag", "spherical")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def holes(share: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    r"""Data with entries missing, of one row all of them, and the same data without."""
    random = np.random.RandomState(seed)
    x = np.concatenate([random.randn(60, 3) @ random.randn(3, 3) + mean for mean in (0, 4)])
    missing = random.rand(*x.shape) < share
    missing[7] = True
    return np.where(missing, np.nan, x), x


def fitted(form: str, x: np.ndarray, **options: Any) -> GaussianMixture:
    mixture = GaussianMixture(
        2,
        covariance_type=form,  # type: ignore[arg-type]
        allow_missing=True,
        random_state=0,
        **options,
    )
    return mixture.fit(x)


def dense(mixture: GaussianMixture) -> np.ndarray:
    return mixture._form.dense(torch.from_numpy(mixture.covariances_), 2, 3).numpy()


def by_hand(mixture: GaussianMixture, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Joint log densities (N, K), conditional means (N, K, D), and covariances (N, K, D, D)."""
    densities, means, spreads = [], [], []
    for row in x:
        o, m = ~np.isnan(row), np.isnan(row)
        for k, (mean, cov) in enumerate(zip(mixture.means_, dense(mixture), strict=True)):
            log_p = np.log(mixture.weights_[k])
            if o.any():
                marginal = multivariate_normal(mean[o], cov[np.ix_(o, o)])
                log_p += marginal.logpdf(row[o])
            gain = cov[np.ix_(m, o)] @ np.linalg.inv(cov[np.ix_(o, o)])
            filled, spread = row.copy(), np.zeros((3, 3))
            filled[m] = mean[m] + gain @ (row[o] - mean[o])
            spread[np.ix_(m, m)] = cov[np.ix_(m, m)] - gain @ cov[np.ix_(o, m)]
            densities.append(log_p)
            means.append(filled)
            spreads.append(spread)
    N = len(x)
    return (
        np.reshape(densities, (N, 2)),
        np.reshape(means, (N, 2, 3)),
        np.reshape(spreads, (N, 2, 3, 3)),
    )


@pytest.mark.parametrize("form", TYPES)
def test_densities_are_those_of_scipys_marginals(form: str) -> None:
    x, _ = holes()
    mixture = fitted(form, x, max_iter=3)
    joint, _, _ = by_hand(mixture, x)

    np.testing.assert_allclose(mixture.score_samples(x), logsumexp(joint, axis=1), atol=1e-10)


@pytest.mark.parametrize("form", TYPES)
def test_imputed_is_the_conditional_mean(form: str) -> None:
    x, _ = holes()
    mixture = fitted(form, x, max_iter=3)
    joint, means, _ = by_hand(mixture, x)
    r = np.exp(joint - logsumexp(joint, axis=1)[:, None])
    imputed = mixture.impute(x)

    np.testing.assert_allclose(imputed, np.einsum("nk,nkd->nd", r, means), rtol=1e-9)
    there = ~np.isnan(x)
    np.testing.assert_array_equal(imputed[there], x[there])
    assert mixture.impute(torch.from_numpy(x).float()).dtype == torch.float32


def test_an_iteration_is_the_two_steps_by_hand() -> None:
    x, _ = holes()
    mixture = fitted("full", x, max_iter=1, warm_start=True, reg_covar=0)
    joint, means, spreads = by_hand(mixture, x)
    mixture.fit(x)
    r = np.exp(joint - logsumexp(joint, axis=1)[:, None])
    for k in range(2):
        mean = r[:, k] @ means[:, k] / r[:, k].sum()
        apart = means[:, k] - mean
        squares = np.einsum("n,nd,ne->de", r[:, k], apart, apart)
        squares += np.einsum("n,nde->de", r[:, k], spreads[:, k])
        np.testing.assert_allclose(mixture.means_[k], mean, rtol=1e-10)
        np.testing.assert_allclose(mixture.covariances_[k], squares / r[:, k].sum(), rtol=1e-10)


@pytest.mark.parametrize("form", TYPES)
def test_nothing_missing_changes_nothing(form: str) -> None:
    _, x = holes()
    expected = GaussianMixture(2, covariance_type=form, random_state=0, max_iter=5)  # type: ignore[arg-type]

    np.testing.assert_allclose(
        fitted(form, x, max_iter=5).covariances_, expected.fit(x).covariances_, rtol=1e-10
    )


@pytest.mark.parametrize("form", TYPES)
def test_the_objective_never_decreases(form: str) -> None:
    x, _ = holes(0.5)
    for seed in range(5):
        mixture = fitted(form, holes(0.5, seed)[0], max_iter=60, tol=0, reg_covar=0)
        assert np.diff(mixture.lower_bounds_).min() > -1e-10
    assert np.isfinite(fitted(form, x).sample(5)[0]).all()
