r"""Gaussian mixtures by EM lose no digits where components are far, narrow or degenerate."""

from typing import Any

import numpy as np
import pytest
from clusters import TYPES, clusters
from sklearn.mixture import GaussianMixture as Theirs

from pyro_vae.em import GaussianMixture

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def exact_log_density(mixture: GaussianMixture, x: np.ndarray) -> np.ndarray:
    r"""The log density of the attributes' mixture, in 64 bits of mantissa."""
    K, D = mixture.means_.shape
    long = np.longdouble
    factors = np.asarray(mixture.precisions_cholesky_, long)
    joint = []
    for k in range(K):
        factor = {
            "full": lambda k=k: factors[k],
            "tied": lambda: factors,
            "diag": lambda k=k: np.diag(factors[k]),
            "spherical": lambda k=k: np.eye(D, dtype=long) * factors[k],
        }[mixture.covariance_type]()
        white = (x.astype(long) - mixture.means_[k].astype(long)) @ factor
        normal = np.log(np.diag(factor)).sum() - D * np.log(2 * long(np.pi)) / 2
        joint.append(np.log(long(mixture.weights_[k])) + normal - (white**2).sum(1) / 2)
    most = np.max(joint, 0)
    return most + np.log(np.exp(np.array(joint) - most).sum(0))


@pytest.mark.parametrize("form", TYPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("separation", [0.0, 3.0, 30.0, 1e2, 1e3, 1e4])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_no_digits_are_lost(form: str, dtype: Any, separation: float, offset: float) -> None:
    r"""The worst error is at most ten times scikit-learn's; seen: 3.4, and mostly below 1."""
    x, means = clusters(separation, D=8)
    x, means = (x + offset).astype(dtype), (means + offset).astype(dtype)
    options: dict[str, Any] = {"covariance_type": form, "random_state": 0, "max_iter": 2}
    ours = GaussianMixture(4, means_init=means, **options).fit(x)
    error = np.abs(ours.score_samples(x) - exact_log_density(ours, x)).max()
    eps = np.finfo(dtype).eps

    assert error < 2e4 * eps  # far narrower than any difference that one would see
    try:
        theirs = Theirs(4, means_init=means, **options).fit(x)
    except ValueError:  # that it cannot do
        return
    assert error <= 10 * np.abs(theirs.score_samples(x) - exact_log_density(theirs, x)).max()


@pytest.mark.parametrize("form", TYPES)
def test_far_and_narrow_components_are_fitted_in_float32(form: str) -> None:
    x, means = clusters(1e4, D=3)
    x = x.astype(np.float32)
    options: dict[str, Any] = {
        "covariance_type": form,
        "means_init": means,
        "max_iter": 20,
        "init_params": "random_from_data",
        "random_state": 0,
    }
    single = GaussianMixture(4, **options).fit(x)
    double = GaussianMixture(4, **options).fit(x.astype(np.float64))

    np.testing.assert_allclose(single.covariances_, double.covariances_, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(single.means_, double.means_, rtol=1e-6)


@pytest.mark.parametrize("form", ["full", "diag", "spherical"])
def test_components_may_become_narrow_at_once(form: str) -> None:
    r"""Broad starts at clusters 1e-4 wide: differences of squares would leave nothing in float32.

    Data are numbers of float32, so that both types see the same; a variance of 100 data, each
    rounded to 1e-7 beside 1e-4 once more, is good to 1e-3.
    """
    random = np.random.RandomState(0)
    means = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    x = (np.repeat(means, 100, 0) + 1e-4 * random.randn(300, 2)).astype(np.float32)
    wide = {"full": np.array([50 * np.eye(2)] * 3), "diag": np.full((3, 2), 50.0)}
    found = []
    for y in (x, x.astype(np.float64)):
        mixture = GaussianMixture(
            3,
            covariance_type=form,  # type: ignore[arg-type]
            reg_covar=0,
            means_init=means,
            precisions_init=wide.get(form, np.full(3, 50.0)),
            max_iter=1,
            init_params="random_from_data",
        )
        found.append(mixture.fit(y).covariances_)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-3 * found[1].max())
    assert found[1].max() < 1e-7


def test_covariances_that_are_raised_are_counted_in_every_iteration() -> None:
    x = np.arange(12.0)[:, None] * [1, 2]  # on a line
    for iterations in (1, 4):
        mixture = GaussianMixture(
            reg_covar=0, init_params="random_from_data", max_iter=iterations, tol=0
        )
        assert mixture.fit(x).regularized_ == iterations
