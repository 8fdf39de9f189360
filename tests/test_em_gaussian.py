r"""Gaussian mixtures by EM beside scikit-learn's, step by step and by interface."""

from typing import Any

import numpy as np
import pytest
import torch
from clusters import PARAMETERS, TYPES, clusters, start
from sklearn.mixture import GaussianMixture as Theirs
from sklearn.utils.estimator_checks import check_estimator

from pyro_vae.em import GaussianMixture

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def assert_same(ours: GaussianMixture, theirs: Theirs, tolerance: float) -> None:
    for name in PARAMETERS:
        expected = getattr(theirs, name)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            getattr(ours, name), expected, rtol=0, atol=tolerance * scale, err_msg=name
        )


@pytest.mark.parametrize("form", TYPES)
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_a_step_is_scikit_learns(form: str, steps: int) -> None:
    x, means = clusters()
    x = x + np.arange(5) * 7  # away from the origin
    options = start(form, means + np.arange(5) * 7)
    ours = GaussianMixture(4, max_iter=steps, tol=0, **options).fit(x)
    theirs = Theirs(4, max_iter=steps, tol=0, **options).fit(x)

    assert_same(ours, theirs, 1e-10)
    np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-12)
    np.testing.assert_allclose(ours.score_samples(x), theirs.score_samples(x), rtol=1e-10)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-10)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
    assert ours.bic(x) == pytest.approx(theirs.bic(x), rel=1e-12)
    assert ours.aic(x) == pytest.approx(theirs.aic(x), rel=1e-12)


@pytest.mark.parametrize("D", [8, 9, 20, 37])
def test_a_step_is_scikit_learns_where_features_are_taken_in_parts(D: int) -> None:
    x, means = clusters(0.1, D=D, size=200)
    options = start("full", means)
    ours = GaussianMixture(4, max_iter=3, tol=0, **options).fit(x)
    theirs = Theirs(4, max_iter=3, tol=0, **options).fit(x)

    assert_same(ours, theirs, 1e-8)
    np.testing.assert_allclose(ours.score_samples(x), theirs.score_samples(x), rtol=1e-8)
    assert theirs.predict_proba(x).max(1).min() < 0.9
    covariances = torch.from_numpy(ours.covariances_)
    assert torch.equal(covariances, covariances.mT)


@pytest.mark.parametrize("form", TYPES)
@pytest.mark.parametrize("how", ["kmeans", "random"])
def test_a_fit_from_the_same_seed_is_scikit_learns(form: str, how: str) -> None:
    x, _ = clusters(1.5)
    options: dict[str, Any] = {
        "covariance_type": form,
        "init_params": how,
        "random_state": 3,
        "n_init": 2,
        "max_iter": 50,
    }
    ours, theirs = GaussianMixture(3, **options).fit(x), Theirs(3, **options).fit(x)

    assert (ours.n_iter_, ours.converged_) == (theirs.n_iter_, theirs.converged_)
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, rel=1e-10)
    assert_same(ours, theirs, 1e-8)


@pytest.mark.parametrize("form", TYPES)
def test_float32_arrives_at_the_same_likelihood(form: str) -> None:
    x, means = clusters(2.0)
    options = start(form, means)
    ours = GaussianMixture(4, max_iter=100, tol=1e-5, **options).fit(x.astype(np.float32))
    theirs = Theirs(4, max_iter=100, tol=1e-5, **options).fit(x)

    assert ours.score(x) == pytest.approx(theirs.score(x), rel=1e-4)
    assert ours.score_samples(x.astype(np.float32)).dtype == np.float32


# -- the interface


def test_scikit_learn_accepts_it() -> None:
    check_estimator(GaussianMixture(1), on_skip=None)
    check_estimator(
        GaussianMixture(3),
        expected_failed_checks={
            "check_sample_weight_equivalence_on_dense_data": "k-means draws other starts"
        },
        on_skip=None,
    )


@pytest.mark.parametrize("kind", ["tensor", "file", "batches", "float16", "fortran", "frozen"])
def test_data_come_in_many_ways(kind: str, tmp_path: Any) -> None:
    x, means = clusters(D=3)
    path = tmp_path / "x.npy"
    np.save(path, x)
    frozen = x.copy()
    frozen.flags.writeable = False
    given: Any = {
        "tensor": torch.from_numpy(x),
        "file": path,
        "batches": [x[:50], torch.from_numpy(x[50:101]), (x[101:],)],
        "float16": x.astype(np.float16),
        "fortran": np.asfortranarray(x),
        "frozen": frozen,
    }[kind]
    options = start("full", means)
    expected = GaussianMixture(4, max_iter=3, **options).fit(x)
    mixture = GaussianMixture(4, max_iter=3, **options).fit(given)
    tolerance = 1e-2 if kind == "float16" else 1e-10

    np.testing.assert_allclose(mixture.means_, expected.means_, rtol=tolerance, atol=tolerance)
    score = mixture.score_samples(given)
    assert isinstance(score, torch.Tensor if kind == "tensor" else np.ndarray)
    np.testing.assert_allclose(score, expected.score_samples(x), rtol=10 * tolerance)
    assert mixture.predict_proba(given).shape == (len(x), 4)


def test_a_warm_start_goes_on() -> None:
    x, means = clusters()
    options = start("full", means)
    whole = GaussianMixture(4, max_iter=6, tol=0, **options).fit(x)
    parts = GaussianMixture(4, max_iter=3, tol=0, warm_start=True, **options)
    parts.fit(x).fit(x)

    np.testing.assert_allclose(parts.covariances_, whole.covariances_, rtol=1e-9)


@pytest.mark.parametrize("form", TYPES)
def test_samples_have_the_moments_of_the_mixture(form: str) -> None:
    r"""200,000 draws: the largest of 20 z-scores is above 5 in 1 of 80,000 seeds."""
    x, means = clusters(D=3)
    mixture = GaussianMixture(4, max_iter=3, random_state=0, **start(form, means)).fit(x)
    drawn, labels = mixture.sample(200_000)
    for k in range(4):
        own = drawn[labels == k]
        covariance = mixture._form.dense(torch.from_numpy(mixture.covariances_), 4, 3)[k].numpy()
        z = (own.mean(0) - mixture.means_[k]) / np.sqrt(np.diag(covariance) / len(own))
        assert np.abs(z).max() < 5
        assert np.abs(np.cov(own.T) - covariance).max() < 0.05 * np.diag(covariance).max()
