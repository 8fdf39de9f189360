r"""What EM promises: in no iteration does the objective decrease by more than rounding."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vae.em import (
    BernoulliMixture,
    BinomialMixture,
    CategoricalMixture,
    GaussianMixture,
    PoissonMixture,
)
from pyro_vae.em.mixture import Mixture

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N, D = 50, 3
FORMS = ("full", "tied", "diag", "spherical")
GAUSSIAN = {"mean_precision_prior": 0.3, "degrees_of_freedom_prior": D + 1.5}
# name -> (mixture, its priors, the most that a datum can be; None: reals)
FAMILIES: dict[str, tuple[Mixture, dict[str, Any], int | None]] = {
    "bernoulli": (BernoulliMixture(), {"probability_prior": (1.5, 2.0)}, 1),
    "binomial": (BinomialMixture(n_trials=4), {"probability_prior": 1.2}, 4),
    "categorical": (CategoricalMixture(n_categories=4), {"probability_prior": 1.3}, 3),
    "poisson": (PoissonMixture(), {"rate_prior": (1.5, 0.3)}, 20),
    **{
        form: (GaussianMixture(covariance_type=form, reg_covar=0), GAUSSIAN, None)  # type: ignore[arg-type]
        for form in FORMS
    },
}


def data(most: int | None, dtype: Any, random: np.random.RandomState) -> np.ndarray:
    cluster = random.randint(3, size=N)
    if most is None:
        found = random.randn(N, D) + 3 * random.randn(3, D)[cluster]
    else:
        found = random.binomial(most, random.uniform(0.05, 0.95, (3, D))[cluster])
    return found.astype(dtype)


def narrowest(mixture: Any) -> float:
    r"""The smallest variance in any direction; the data's are about 1."""
    covariances = mixture.covariances_
    full = mixture.covariance_type in ("full", "tied")
    return float((np.linalg.eigvalsh(covariances) if full else covariances).min())


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(FAMILIES)),
    dtype=st.sampled_from([np.float64, np.float32]),
    how=st.sampled_from(["random", "random_from_data", "k-means++"]),
    K=st.integers(1, 8),
    prior=st.booleans(),
    weighted=st.booleans(),
    missing=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_the_objective_never_decreases(
    name: str, dtype: Any, how: str, K: int, prior: bool, weighted: bool, missing: bool, seed: int
) -> None:
    estimator, priors, most = FAMILIES[name]
    random = np.random.RandomState(seed)
    x = data(most, dtype, random)
    options: dict[str, Any] = {"weight_concentration_prior": 1.5, **priors} if prior else {}
    if missing and most is None:
        x[random.rand(*x.shape) < 0.2] = np.nan
        options["allow_missing"] = True
    changed = {"n_components": K, "init_params": how, "random_state": seed, "tol": 0}
    mixture = type(estimator)(
        **{**estimator.get_params(), **options, **changed, "max_iter": 20}
    ).fit(x, sample_weight=random.uniform(0.2, 3, N) if weighted else None)

    assert np.isfinite(mixture.lower_bounds_).all()
    if most is None and narrowest(mixture) < 1e-6:  # a likelihood without bound
        return
    changes = np.diff(mixture.lower_bounds_)
    rounding = 1e-10 if dtype is np.float64 else 1e-5
    fell = np.flatnonzero(changes < -rounding * (1 + np.abs(mixture.lower_bounds_).max()))
    assert set(fell) <= set(mixture.reseeded_)
    assert len(mixture.reseeded_) <= K


@pytest.mark.parametrize("name", ["bernoulli", "poisson", "diag"])
def test_an_iteration_that_begins_anew_is_counted(name: str) -> None:
    estimator, _, most = FAMILIES[name]
    x = data(most, np.float64, np.random.RandomState(0))
    options: dict[str, Any] = {"weights_init": [0.5, 0.5, 0.0], "init_params": "random_from_data"}
    changed = {"n_components": 3, "random_state": 0, "tol": 0, "max_iter": 10, **options}
    mixture = type(estimator)(**{**estimator.get_params(), **changed}).fit(x)
    assert mixture.reseeded_ == [0]
    assert np.delete(np.diff(mixture.lower_bounds_), 0).min() > -1e-10
    assert mixture.weights_.min() > 0
