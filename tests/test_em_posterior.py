r"""The objective of Gaussian mixtures by EM: the log posterior, which never decreases."""

import warnings
from typing import Any

import numpy as np
import pytest
from clusters import PARAMETERS, TYPES, clusters, start
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import dirichlet, gamma, invwishart, multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Theirs

from pyro_vae.em import GaussianMixture

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    form=st.sampled_from(TYPES),
    K=st.integers(1, 4),
    D=st.integers(1, 3),
    seed=st.integers(0, 10**6),
    separation=st.floats(0, 5),
    prior=st.booleans(),
)
def test_the_objective_never_decreases(
    form: str, K: int, D: int, seed: int, separation: float, prior: bool
) -> None:
    random = np.random.RandomState(seed)
    x = random.randn(40, D) + separation * random.randn(4, D).repeat(10, 0)
    options: dict[str, Any] = {}
    if prior:
        options = {
            "weight_concentration_prior": 2.5,
            "mean_precision_prior": 0.3,
            "degrees_of_freedom_prior": D + 1.5,
        }
    mixture = GaussianMixture(
        K,
        covariance_type=form,  # type: ignore[arg-type]
        reg_covar=0,
        init_params="random_from_data",
        random_state=seed,
        max_iter=40,
        tol=0,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(x)
    changes = np.diff(mixture.lower_bounds_)
    excepted = [i for i in mixture.reseeded_ if i < len(changes)]
    if mixture.regularized_:  # a likelihood without bound
        return

    assert np.delete(changes, excepted).min(initial=0) > -1e-9 * np.abs(mixture.lower_bounds_).max()


@pytest.mark.parametrize("form", TYPES)
def test_weights_are_repetitions(form: str) -> None:
    x, means = clusters(D=3)
    times = np.random.RandomState(0).randint(0, 4, len(x))
    options = start(form, means)
    weighted = GaussianMixture(4, max_iter=5, **options).fit(x, sample_weight=times)
    repeated = GaussianMixture(4, max_iter=5, **options).fit(x.repeat(times, 0))

    assert weighted.lower_bound_ == pytest.approx(repeated.lower_bound_, rel=1e-12)
    for name in PARAMETERS:
        np.testing.assert_allclose(getattr(weighted, name), getattr(repeated, name), rtol=1e-9)


def log_prior(form: str, mean: np.ndarray, covariance: np.ndarray, D: int) -> float:
    m, strength, degrees = np.arange(D) / 2, 0.7, D + 2.5
    if form in ("full", "tied"):
        scale = np.eye(D) + 0.3
        density = invwishart(degrees, scale).logpdf(covariance) if form == "full" else 0.0
        return float(density + multivariate_normal(m, covariance / strength).logpdf(mean))
    variances = np.broadcast_to(covariance, (D,))
    # 1 / variance is a gamma variable; its density times the Jacobian
    density = gamma(degrees / 2, scale=2 / 1.3).logpdf(1 / variances) - 2 * np.log(variances)
    share = density.sum() if form == "diag" else density[0]
    return float(share + multivariate_normal(m, np.diag(variances) / strength).logpdf(mean))


@pytest.mark.parametrize("form", TYPES)
def test_the_m_step_under_a_prior_is_the_brute_force_maximum(form: str) -> None:
    r"""With one component the fit is one M-step; with the tied form, that of scipy's search too."""
    D = 2
    x = np.random.RandomState(0).randn(7, D) @ np.array([[1.0, 0.4], [0.0, 0.8]]) + 1
    scatter: Any = {"diag": np.full(D, 1.3), "spherical": 1.3}.get(form, np.eye(D) + 0.3)
    mixture = GaussianMixture(
        1,
        covariance_type=form,  # type: ignore[arg-type]
        reg_covar=0,
        mean_prior=np.arange(D) / 2,
        mean_precision_prior=0.7,
        degrees_of_freedom_prior=D + 2.5,
        covariance_prior=scatter,
        max_iter=3,
    ).fit(x)

    def unpacked(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if form in ("full", "tied"):
            root = np.array([[np.exp(p[2]), 0], [p[3], np.exp(p[4])]])
            return p[:2], root @ root.T
        return p[:2], np.exp(p[2 : 4 if form == "diag" else 3])

    def objective(p: np.ndarray) -> float:
        mean, covariance = unpacked(p)
        dense = covariance if covariance.ndim == 2 else np.eye(D) * covariance
        prior = log_prior("full" if form == "tied" else form, mean, covariance, D)
        return -(multivariate_normal(mean, dense).logpdf(x).sum() + prior)

    best = minimize(objective, np.zeros(5), method="BFGS", options={"gtol": 1e-9})
    mean, covariance = unpacked(best.x)

    np.testing.assert_allclose(mixture.means_[0], mean, atol=1e-6)
    found = mixture.covariances_ if form == "tied" else mixture.covariances_[0]
    np.testing.assert_allclose(
        found, covariance if form != "spherical" else covariance[0], atol=1e-6
    )


@pytest.mark.parametrize("form", TYPES)
def test_the_penalised_objective_is_the_log_posterior(form: str) -> None:
    D, K = 2, 2
    x, means = clusters(K=K, D=D)
    scatter: Any = {"diag": np.full(D, 1.3), "spherical": 1.3}.get(form, np.eye(D) + 0.3)
    options = start(form, means, 0)
    mixture = GaussianMixture(
        K,
        max_iter=1,
        weight_concentration_prior=1.8,
        mean_prior=np.arange(D) / 2,
        mean_precision_prior=0.7,
        degrees_of_freedom_prior=D + 2.5,
        covariance_prior=scatter,
        **options,
    ).fit(x)
    theirs = Theirs(K, max_iter=1, **options).fit(x)
    precisions = options["precisions_init"]
    invert = np.linalg.inv if form in ("full", "tied") else np.reciprocal
    covariances = invert(precisions)
    each = [covariances] * K if form == "tied" else covariances
    total = theirs.lower_bound_ * len(x) + dirichlet([1.8] * K).logpdf(options["weights_init"])
    total += sum(log_prior(form, m, c, D) for m, c in zip(means, each, strict=True))
    if form == "tied":
        total += invwishart(D + 2.5, scatter).logpdf(covariances)

    assert mixture.lower_bound_ * len(x) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("degrees", [None, 1.0, 6.0])
@pytest.mark.parametrize("strength", [None, 0.7])
@pytest.mark.parametrize("form", TYPES)
def test_other_units_change_the_objective_by_the_jacobian(
    form: str, strength: float | None, degrees: float | None
) -> None:
    r"""That of data and parameters which have priors, proper or not (one degree of freedom)."""
    D, K, N = 3, 2, 60
    x = clusters(K=K, D=D)[0][:N]
    units = np.full(D, 1e3) if form == "spherical" else np.array([1e3, 0.2, 7.0])
    found = []
    for y in (x, x * units):
        mixture = GaussianMixture(
            K,
            covariance_type=form,  # type: ignore[arg-type]
            reg_covar=0,
            means_init=y[:K],
            mean_precision_prior=strength,
            degrees_of_freedom_prior=degrees,
            max_iter=5,
            tol=0,
            random_state=0,
            init_params="random_from_data",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found.append(mixture.fit(y).lower_bound_ * N)
    log = np.log(units)
    jacobian = N * log.sum() + (K * log.sum() if strength else 0)
    if degrees:
        jacobian += {
            "full": K * (D + 1) * log.sum(),
            "tied": (D + 1) * log.sum(),
            "diag": K * 2 * log.sum(),
            "spherical": K * 2 * log[0],
        }[form]
    assert found[0] - found[1] == pytest.approx(jacobian, rel=1e-10)
