r"""Gaussian mixtures against scikit-learn's, more digits, brute force and weights of repetition."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import dirichlet, gamma, invwishart, multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Theirs
from sklearn.utils.estimator_checks import check_estimator

from pyro_vae.em import GaussianMixture

TYPES = ("full", "tied", "diag", "spherical")
PARAMETERS = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def clusters(
    separation: float = 3.0, K: int = 4, D: int = 5, size: int = 60, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    r"""Data of K Gaussians with covariances of their own, and the means."""
    random = np.random.RandomState(seed)
    means = separation * random.randn(K, D)
    parts = [mean + random.randn(size, D) @ random.randn(D, D) / 2 for mean in means]
    return np.concatenate(parts), means


def start(form: str, means: np.ndarray, seed: int = 1) -> dict[str, Any]:
    K, D = means.shape
    root = np.random.RandomState(seed).randn(K, D, D) / 3
    full = root @ root.transpose(0, 2, 1) + np.eye(D)
    precisions = {
        "full": full,
        "tied": full[0],
        "diag": np.einsum("kdd->kd", full),
        "spherical": full[:, 0, 0],
    }
    return {
        "covariance_type": form,
        "weights_init": np.arange(1, K + 1) / (K * (K + 1) / 2),
        "means_init": means,
        "precisions_init": precisions[form],
    }


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


# -- digits


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


# -- what EM promises


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


# -- what goes wrong


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
