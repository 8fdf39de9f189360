r"""Mixtures of discrete components against enumeration, scipy, brute force and repetition."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from scipy.stats import beta, binom, dirichlet, gamma, poisson
from sklearn.utils.estimator_checks import check_estimator

from pyro_vae.em import BernoulliMixture, BinomialMixture, CategoricalMixture, PoissonMixture
from pyro_vae.em.mixture import Mixture

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

Density = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of (N, D) under (D, …): (N)


def random_data(most: int, D: int = 3, N: int = 60, seed: int = 0) -> np.ndarray:
    random = np.random.RandomState(seed)
    p = random.uniform(0.1, 0.9, (2, D))[random.randint(2, size=N)]
    return random.binomial(most, p).astype(float)


# name -> (mixture, the name of its parameter, density of a component, data)
FAMILIES: dict[str, tuple[Mixture, str, Density, np.ndarray]] = {
    "bernoulli": (
        BernoulliMixture(2, probability_prior=(1.5, 2.0)),
        "probabilities_",
        lambda x, p: binom(1, p).logpmf(x).sum(1),
        random_data(1),
    ),
    "binomial": (
        BinomialMixture(2, n_trials=4, probability_prior=1.2),
        "probabilities_",
        lambda x, p: binom(4, p).logpmf(x).sum(1),
        random_data(4),
    ),
    "poisson": (
        PoissonMixture(2, rate_prior=(1.5, 0.3)),
        "rates_",
        lambda x, p: poisson(p).logpmf(x).sum(1),
        random_data(9),
    ),
    "categorical": (
        CategoricalMixture(2, n_categories=3, probability_prior=1.3),
        "probabilities_",
        lambda x, p: np.log([[p[d, int(c)] for d, c in enumerate(row)] for row in x]).sum(1),
        random_data(2),
    ),
}
NAMES = sorted(FAMILIES)


def fresh(name: str, **options: Any) -> tuple[Any, str, Density, np.ndarray]:
    mixture, parameter, density, x = FAMILIES[name]
    given = {"random_state": 0, "init_params": "random", **options}
    return mixture.__class__(**{**mixture.get_params(), **given}), parameter, density, x


def joint(mixture: Any, parameter: str, density: Density, x: np.ndarray) -> np.ndarray:
    parts = [density(x, p) for p in getattr(mixture, parameter)]
    return np.array(parts).T + np.log(mixture.weights_)


@pytest.mark.parametrize("name", NAMES)
def test_densities_are_scipys(name: str) -> None:
    mixture, parameter, density, x = fresh(name, max_iter=3)
    mixture.fit(x)
    expected = joint(mixture, parameter, density, x)
    score = logsumexp(expected, axis=1)

    np.testing.assert_allclose(mixture.score_samples(x), score, rtol=1e-12)
    np.testing.assert_allclose(
        mixture.predict_proba(x), np.exp(expected - score[:, None]), rtol=1e-10
    )
    np.testing.assert_allclose(
        mixture.score_samples(x.astype(np.float32)), score, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["bernoulli", "binomial", "categorical"])
def test_probabilities_of_all_data_sum_to_one(name: str) -> None:
    mixture, _, _, x = fresh(name, max_iter=5)
    values = range(int(x.max()) + 1)
    everything = np.array(list(itertools.product(values, repeat=3)), dtype=float)

    assert np.exp(mixture.fit(x).score_samples(everything)).sum() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_an_iteration_is_the_two_steps_by_hand(name: str) -> None:
    mixture, parameter, density, x = fresh(name, max_iter=1, warm_start=True)
    mixture.fit(x)
    expected = joint(mixture, parameter, density, x)
    r = np.exp(expected - logsumexp(expected, axis=1)[:, None])
    mixture.fit(x)
    N = r.sum(0)[:, None]
    by_hand = {
        "bernoulli": lambda: (r.T @ x + 0.5) / (N + 1.5),
        "binomial": lambda: (r.T @ x + 0.2) / (4 * N + 0.4),
        "poisson": lambda: (r.T @ x + 0.5) / (N + 0.3),
        "categorical": lambda: (
            (np.stack([r.T @ (x == c) for c in range(3)], 2) + 0.3) / (N[..., None] + 0.9)
        ),
    }[name]()

    np.testing.assert_allclose(getattr(mixture, parameter), by_hand, rtol=1e-10)
    np.testing.assert_allclose(mixture.weights_, r.mean(0), rtol=1e-10)


def log_prior(name: str, p: np.ndarray) -> float:
    return {
        "bernoulli": lambda: beta(1.5, 2.0).logpdf(p).sum(),
        "binomial": lambda: beta(1.2, 1.2).logpdf(p).sum(),
        "poisson": lambda: gamma(1.5, scale=1 / 0.3).logpdf(p).sum(),
        "categorical": lambda: sum(dirichlet([1.3] * 3).logpdf(row) for row in p.reshape(-1, 3)),
    }[name]()


@pytest.mark.parametrize("name", NAMES)
def test_the_objective_is_the_log_posterior(name: str) -> None:
    mixture, parameter, density, x = fresh(
        name, max_iter=1, weight_concentration_prior=1.4, warm_start=True
    )
    mixture.fit(x)
    total = logsumexp(joint(mixture, parameter, density, x), axis=1).sum()
    total += log_prior(name, getattr(mixture, parameter))
    total += dirichlet([1.4] * mixture.n_components).logpdf(mixture.weights_)

    assert mixture.fit(x).lower_bound_ * len(x) == pytest.approx(total, rel=1e-12)


def test_few_data_of_large_counts_have_the_density_of_many() -> None:
    r"""Logarithms of factorials are looked up for many data, and computed for few."""
    many = random_data(40, N=100)
    for mixture in (BinomialMixture(2, n_trials=40), PoissonMixture(2)):
        found = mixture.set_params(random_state=0).fit(many).score_samples(many)
        few = np.concatenate([mixture.score_samples(row[None]) for row in many])
        np.testing.assert_allclose(found, few, rtol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_flat_priors_add_nothing(name: str) -> None:
    mixture, parameter, density, x = fresh(name)
    plain = type(mixture)().get_params()
    flat = {k: plain[k] for k in ("probability_prior", "rate_prior") if k in plain}
    mixture.set_params(**flat, max_iter=1, weight_concentration_prior=1.0, warm_start=True).fit(x)
    total = logsumexp(joint(mixture, parameter, density, x), axis=1).sum()

    assert mixture.fit(x).lower_bound_ * len(x) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("name", ["bernoulli", "binomial", "poisson"])
def test_the_m_step_under_a_prior_is_the_brute_force_maximum(name: str) -> None:
    mixture, parameter, density, x = fresh(name, n_components=1, max_iter=2)
    x = x[:, :1]
    mixture.fit(x)

    def objective(p: float) -> float:
        return -(density(x, np.array([p])).sum() + log_prior(name, np.array([p])))

    bounds = (1e-6, 20 if name == "poisson" else 1 - 1e-6)
    best = minimize_scalar(objective, bounds=bounds, method="bounded", options={"xatol": 1e-10})

    assert getattr(mixture, parameter)[0, 0] == pytest.approx(best.x, rel=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(NAMES),
    K=st.integers(1, 5),
    seed=st.integers(0, 10**6),
    how=st.sampled_from(["random", "random_from_data", "k-means++"]),
    prior=st.booleans(),
)
def test_the_objective_never_decreases(name: str, K: int, seed: int, how: str, prior: bool) -> None:
    options: dict[str, Any] = (
        {}
        if prior
        else {
            "bernoulli": {"probability_prior": 1.0},
            "binomial": {"probability_prior": 1.0},
            "poisson": {"rate_prior": (1.0, 0.0)},
            "categorical": {"probability_prior": 1.0},
        }[name]
    )
    mixture, _, _, x = fresh(
        name, n_components=K, random_state=seed, init_params=how, max_iter=60, tol=0, **options
    )
    changes = np.diff(mixture.fit(x).lower_bounds_)
    excepted = [i for i in mixture.reseeded_ if i < len(changes)]

    assert np.isfinite(mixture.lower_bounds_).all()
    assert np.delete(changes, excepted).min(initial=0) > -1e-10


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_repetitions(name: str) -> None:
    mixture, parameter, _, x = fresh(name, max_iter=1)
    times = np.random.RandomState(1).randint(0, 4, len(x))
    init = getattr(mixture.fit(x), parameter)
    options = {parameter + "init": init, "max_iter": 4, "init_params": "random_from_data"}
    options["weights_init"] = [0.3, 0.7]
    weighted = fresh(name, **options)[0].fit(x, sample_weight=times)
    repeated = fresh(name, **options)[0].fit(x.repeat(times, 0))

    np.testing.assert_allclose(
        getattr(weighted, parameter), getattr(repeated, parameter), rtol=1e-10
    )
    assert weighted.lower_bound_ == pytest.approx(repeated.lower_bound_, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_means_of_the_mixture(name: str) -> None:
    r"""100,000 draws, 6 z-scores: one is above 5 in 1 of 290,000 seeds."""
    mixture, parameter, _, x = fresh(name, max_iter=5)
    drawn, labels = mixture.fit(x).sample(100_000)
    for k, p in enumerate(getattr(mixture, parameter)):
        own = drawn[labels == k]
        scale = 4 if name == "binomial" else 1
        mean = p @ np.arange(3) if name == "categorical" else scale * p
        z = (own.mean(0) - mean) / (own.std(0) / np.sqrt(len(own)))
        assert np.abs(z).max() < 5
    assert np.isfinite(mixture.score_samples(drawn[:100])).all()


def test_what_was_never_seen_is_impossible_and_what_is_certain_costs_nothing() -> None:
    x = np.array([[0.0, 1, 0], [0, 1, 1]])
    mixture = BernoulliMixture(1).fit(x)

    np.testing.assert_allclose(mixture.score_samples(x), np.log([0.5, 0.5]), rtol=1e-14)
    assert np.isneginf(mixture.score_samples([[1, 1, 0], [0, 0, 0]])).all()
    assert (mixture.predict_proba([[1, 1, 0]]) == 0).all()
    counts = PoissonMixture(1).fit(x)
    assert np.isneginf(counts.score([[1, 0, 0]]))
    codes = CategoricalMixture(1, n_categories=3).fit(x)
    np.testing.assert_allclose(codes.score_samples(x), np.log([0.5, 0.5]), rtol=1e-14)
    assert np.isneginf(codes.score([[0, 2, 0]]))


REFUSED = "it is fitted to reals, which are no data of the family"
CHECKS = (
    "check_fit_score_takes_y",
    "check_estimators_overwrite_params",
    "check_dont_overwrite_parameters",
    "check_estimators_fit_returns_self",
    "check_readonly_memmap_input",
    "check_n_features_in_after_fitting",
    "check_positive_only_tag_during_fit",
    "check_estimators_dtypes",
    "check_sample_weights_not_an_array",
    "check_sample_weights_list",
    "check_sample_weights_shape",
    "check_sample_weights_not_overwritten",
    "check_sample_weight_equivalence_on_dense_data",
    "check_dtype_object",
    "check_pipeline_consistency",
    "check_estimators_nan_inf",
    "check_estimators_pickle",
    "check_f_contiguous_array_estimator",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_fit2d_1sample",
    "check_fit2d_1feature",
    "check_dict_unchanged",
    "check_fit_idempotent",
    "check_fit_check_is_fitted",
    "check_n_features_in",
    "check_fit2d_predict1d",
)


@pytest.mark.parametrize("name", NAMES)
def test_scikit_learn_accepts_it_but_for_its_data(name: str) -> None:
    results = check_estimator(
        FAMILIES[name][0],
        expected_failed_checks=dict.fromkeys(CHECKS, REFUSED),
        on_skip=None,
    )

    failed = [result for result in results if result["status"] == "xfail"]
    assert len(failed) >= 20
    for result in failed:
        words = str(result["exception"]) + str(result["exception"].__cause__)
        assert "expected" in words, result["check_name"]
        assert "take Gaussian components" in words or "negative input" in words


X = np.array([[0.0, 1], [1, 0], [2, 1]])
ERRORS: dict[str, tuple[Mixture, Any, str]] = {
    "bits": (BernoulliMixture(), X, "expected 0s and 1s, got 2: convert the data"),
    "half": (PoissonMixture(), X / 2, "expected counts .* got 0.5"),
    "minus": (PoissonMixture(), -X, "expected counts .* got -1"),
    "trials": (BinomialMixture(n_trials=1), X, "0s and 1s"),
    "no trials": (BinomialMixture(n_trials=0), X, "n_trials of at least 1, got 0"),
    "codes": (CategoricalMixture(n_categories=2), X, "from 0 to n_categories - 1 = 1, got 2"),
    "many": (CategoricalMixture(), X * 4000, "whole numbers from 0 to 4095"),
    "prior": (BernoulliMixture(probability_prior=0.5), X, "probability_prior of at least 1"),
    "three": (BernoulliMixture(probability_prior=(1, 2, 3)), X, "a number or two"),  # type: ignore[arg-type]
    "rate": (PoissonMixture(rate_prior=(1, -1)), X, "rate_prior of at least 0, got -1"),
    "init": (PoissonMixture(rates_init=[[-1, 1]]), X, "rates_init of at least 0, got -1"),
    "above": (BinomialMixture(n_trials=2, probabilities_init=[[0, 2]]), X, "from 0 to 1, got 0"),
    "sum": (
        CategoricalMixture(probabilities_init=np.full((1, 2, 3), 0.5)),
        X,
        "that sum to 1 for each feature",
    ),
}


@pytest.mark.parametrize("mixture, x, match", ERRORS.values(), ids=list(ERRORS.keys()))
def test_errors(mixture: Mixture, x: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        mixture.fit(x)
