r"""Mixtures as Pyro programs, against the estimators, scipy and enumeration by hand."""

from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from scipy import stats
from sklearn.exceptions import NotFittedError
from torch import Size, Tensor

from pyro_vae import fit
from pyro_vae.components import describe
from pyro_vae.distributions import Reshaped
from pyro_vae.em import (
    BernoulliMixture,
    BinomialMixture,
    CategoricalMixture,
    GaussianMixture,
    PoissonMixture,
)
from pyro_vae.em.mixture import Mixture
from pyro_vae.evaluation import evaluate, independent_evidence, mixture_evidence, sample
from pyro_vae.guides import Empty
from pyro_vae.likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    Normal,
    NormalLearnedScale,
    NormalPredictedScale,
    Poisson,
)
from pyro_vae.mixtures import mixture_for, program_of
from pyro_vae.models import FiniteGaussianMixture, FiniteMixture
from pyro_vae.objectives import ELBO
from pyro_vae.pair import Pair
from pyro_vae.svi import SVI

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

K, N = 3, 80


def counts(most: int, features: int = 4) -> np.ndarray:
    random = np.random.RandomState(0)
    p = random.uniform(0.1, 0.9, (K, features))[random.randint(K, size=N)]
    return random.binomial(most, p).astype(float)


def reals(missing: bool = False) -> np.ndarray:
    r"""Features of scales from 1e-4 to 10, whose components are correlated."""
    random = np.random.RandomState(1)
    x = random.randn(N, 4) @ random.randn(4, 4) + 3 * random.randint(K, size=(N, 1))
    x = x * [1, 10, 0.01, 1e-4]
    return np.where(random.rand(*x.shape) < 0.3, np.nan, x) if missing else x


ESTIMATORS: dict[str, tuple[Mixture, np.ndarray]] = {
    "bernoulli": (BernoulliMixture(K, probability_prior=1.2), counts(1)),
    "binomial": (BinomialMixture(K, n_trials=7), counts(7)),
    "categorical": (CategoricalMixture(K, n_categories=4), counts(2)),
    "poisson": (PoissonMixture(K), counts(30)),
    "many events": (PoissonMixture(K), 3e8 * (1 + counts(3))),
    "certain": (BernoulliMixture(K), np.concatenate([counts(1), np.ones((N, 1))], 1)),
    **{
        form: (GaussianMixture(K, covariance_type=form), reals())  # type: ignore[arg-type]
        for form in ("full", "tied", "diag", "spherical")
    },
    **{
        f"{form}, missing": (
            GaussianMixture(K, covariance_type=form, allow_missing=True),  # type: ignore[arg-type]
            reals(missing=True),
        )
        for form in ("diag", "spherical")
    },
}


def fitted(name: str, **options: Any) -> tuple[Mixture, np.ndarray]:
    mixture, x = ESTIMATORS[name]
    given = {"random_state": 0, "max_iter": 20, **options}
    return type(mixture)(**{**mixture.get_params(), **given}).fit(x), x


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_programs_evidence_is_the_estimators(name: str) -> None:
    mixture, x = fitted(name)
    model = program_of(mixture, (2, -(-x.shape[1] // 2)) if x.shape[1] % 2 == 0 else None)
    rows = torch.from_numpy(x).reshape(N, *model.event_shape)
    expected = mixture.score_samples(x)
    draw = Pair(model, Empty()).draw((rows,), {})

    found = draw.log_weights.detach()
    np.testing.assert_allclose(found[0], expected, rtol=1e-6, atol=1e-9)
    estimates = evaluate(model, Empty(), rows, particles=50)
    nll, elbo = estimates["nll"], estimates["elbo"]
    assert nll.per_datum is not None
    np.testing.assert_allclose(-nll.per_datum, expected, rtol=1e-6, atol=1e-9)
    assert (nll.stderr, elbo.stderr, float(estimates["khat"])) == (0, 0, 0)
    assert (float(estimates["nll.bias"]), float(estimates["ess"])) == (0, 1)
    assert float(elbo) == -float(nll)


def test_single_precision_keeps_six_digits() -> None:
    torch.set_default_dtype(torch.float32)
    for name in ("bernoulli", "binomial", "categorical", "poisson", "full", "diag"):
        mixture, x = fitted(name)
        nll = evaluate(program_of(mixture), Empty(), torch.from_numpy(x).float())["nll"]
        assert float(nll) == pytest.approx(-mixture.score(x), rel=2e-5)


def test_the_impossible_is_as_good_as_impossible() -> None:
    mixture, x = fitted("certain", n_components=1)
    never = torch.from_numpy(np.concatenate([x[:, :-1], np.zeros((N, 1))], 1))
    assert np.isneginf(mixture.score_samples(never.numpy())).all()
    assert evaluate(program_of(mixture), Empty(), never)["nll"] > 700


@pytest.mark.parametrize(
    "name, options",
    [
        ("bernoulli", {"probability_prior": 1.0}),
        ("poisson", {}),
        ("categorical", {}),
        ("full", {"reg_covar": 0}),
        ("diag", {"reg_covar": 0}),
    ],
)
def test_where_em_ends_the_gradient_is_zero(name: str, options: dict[str, Any]) -> None:
    mixture, x = fitted(name, max_iter=1000, tol=1e-13, **options)
    model = program_of(mixture)
    Pair(model, Empty()).draw((torch.from_numpy(x),), {}).log_weights.mean().backward()
    for parameter, value in model.named_parameters():
        assert value.grad is not None
        gradient = value.grad
        if parameter in ("locs", "scale_trils_unconstrained"):  # in standard deviations
            gradient = value.grad * torch.from_numpy(x.std(0))
        elif name == "diag" and parameter == "outputs":
            gradient = value.grad * torch.from_numpy(np.tile(x.std(0), 2))
        assert gradient.abs().max() < 1e-5, parameter


def test_evidence_is_the_enumeration_by_hand() -> None:
    torch.manual_seed(0)
    model = FiniteMixture((2, 2), 3, Poisson())
    model.logits.data = torch.randn(3)
    x = torch.randint(0, 5, (6, 2, 2)).double()
    rates = model.outputs.detach().exp().reshape(3, 2, 2)
    each = dist.Poisson(rates).to_event(2).log_prob(x[:, None])
    expected = (each + model.logits.detach().log_softmax(0)).logsumexp(1)
    found = evaluate(model, Empty(), x)["nll"].per_datum
    assert found is not None
    torch.testing.assert_close(-found, expected)
    torch.testing.assert_close(model.means.detach(), rates)


@pytest.mark.parametrize("name", ["binomial", "full"])
def test_loss_and_gradients_are_pyros(name: str) -> None:
    mixture, x = fitted(name, max_iter=2)
    batch, found = torch.from_numpy(x), []
    for theirs in (False, True):
        model, guide = program_of(mixture), Empty()
        svi = SVI(model, guide, torch.optim.SGD, ELBO())
        if theirs:
            elbo = TraceEnum_ELBO(max_plate_nesting=1)
            loss = elbo.differentiable_loss(model, guide, batch)
            loss.backward()
        else:
            loss = svi.step(batch)
        found.append({"loss": loss.detach(), **{n: p.grad for n, p in model.named_parameters()}})
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("program", [FiniteMixture, FiniteGaussianMixture])
def test_it_is_trained_by_gradient(program: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(60, 2).sign().clamp(min=0)
    run = fit(program((2,), 3), Empty(), x, epochs=5, batch_size=20, progress=False)
    assert run.history[-1]["elbo"] > run.history[0]["elbo"]


@pytest.mark.parametrize("name", ["binomial", "full", "diag"])
def test_samples_have_the_moments_of_the_mixture(name: str) -> None:
    r"""20,000 draws of 4 features: a z-score is above 5 in 1 of 400,000 seeds."""
    mixture, _ = fitted(name)
    model = program_of(mixture, (2, 2))
    drawn = sample(model, Empty(), 20_000).reshape(-1, 4)  # type: ignore[union-attr]
    mean = (mixture.weights_ @ model.means.detach().flatten(1).numpy()).tolist()
    z = (drawn.mean(0) - torch.tensor(mean)) / drawn.std(0) * 20_000**0.5
    assert z.abs().max() < 5
    exact = mixture.sample(20_000)[0].std(0)
    np.testing.assert_allclose(drawn.std(0), exact, rtol=0.05)


def test_a_program_can_be_built_again() -> None:
    mixture, _ = fitted("binomial")
    assert describe(program_of(mixture, (1, 2, 2))) == {
        "class_path": "pyro_vae.models.FiniteMixture",
        "init_args": {
            "event_shape": [1, 2, 2],
            "n_components": K,
            "likelihood": {
                "class_path": "pyro_vae.likelihoods.Binomial",
                "init_args": {"total_count": 7},
            },
        },
    }


PROGRAMS: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "another": (np.ones(3), None, TypeError, "an estimator of pyro_vae.em, got ndarray"),
    "unfitted": (GaussianMixture(2), None, NotFittedError, "not fitted"),
    "shape": (fitted("full")[0], (1, 3), ValueError, r"with 4 features, .* got \(1, 3\)"),
    "missing": (
        GaussianMixture(2, allow_missing=True).fit(reals()),
        None,
        ValueError,
        "expected independent features .* got covariance_type='full': fit 'diag' or 'spherical'",
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_no_program(name: str) -> None:
    mixture, shape, error, match = PROGRAMS[name]
    with pytest.raises(error, match=match):
        program_of(mixture, shape)


@pytest.mark.parametrize("program", [FiniteMixture, FiniteGaussianMixture])
def test_sizes_are_checked(program: Any) -> None:
    with pytest.raises(ValueError, match="components of at least 1, got 0"):
        program((2,), 0)
    with pytest.raises(ValueError, match=r"expected x with shape \(N, 2\)"):
        program((2,), 3)(torch.ones(4, 3))


def test_reshaped_is_the_distribution_of_vectors() -> None:
    root = torch.tril(torch.randn(5, 6, 6)) + 4 * torch.eye(6)
    base = dist.MultivariateNormal(torch.randn(5, 6), scale_tril=root)
    fn = Reshaped(base, (2, 3))
    x = torch.randn(4, 5, 2, 3)
    torch.testing.assert_close(fn.log_prob(x), base.log_prob(x.flatten(2)))
    assert (fn.batch_shape, fn.event_shape) == (Size([5]), Size([2, 3]))
    assert fn.expand((7, 5)).rsample((2,)).shape == (2, 7, 5, 2, 3)
    torch.testing.assert_close(fn.mean, base.mean.reshape(5, 2, 3))
    torch.testing.assert_close(fn.variance, base.variance.reshape(5, 2, 3))
    assert not bool(fn.support.check(x * torch.nan).any())
    with pytest.raises(ValueError, match="vectors of 4 features, got one with event shape"):
        Reshaped(base, (2, 2))


EVIDENCES: dict[str, tuple[Any, np.ndarray, Mixture]] = {
    "bernoulli": (Bernoulli(), counts(1), BernoulliMixture(K, probability_prior=1.5)),
    "binomial": (Binomial(7), counts(7), BinomialMixture(K, n_trials=7, probability_prior=1.5)),
    "categorical": (
        Categorical(5),
        counts(3),
        CategoricalMixture(K, n_categories=5, probability_prior=1.5),
    ),
    "poisson": (Poisson(), counts(9), PoissonMixture(K, rate_prior=(1.5, 0))),
}


@pytest.mark.parametrize("name", EVIDENCES)
def test_the_baseline_is_em(name: str) -> None:
    likelihood, x, mixture = EVIDENCES[name]
    train, test = torch.from_numpy(x[20:]), torch.from_numpy(x[:20])
    shifts = torch.linspace(-1, 2, 20)
    found = mixture_evidence(likelihood, train, test, shifts, n_components=K, seed=4)
    expected = mixture.set_params(random_state=4).fit(train).score_samples(test) + shifts
    assert found.per_datum is not None
    torch.testing.assert_close(found.per_datum, expected)
    assert (found.stderr, found.seed) == (0, 4)
    again = mixture_evidence(likelihood, train, test, shifts, n_components=K, seed=4)
    assert float(again) == float(found)


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "poisson"])
def test_a_mixture_of_one_is_independent_features(name: str) -> None:
    likelihood, x, _ = EVIDENCES[name]
    train, test = torch.from_numpy(x[20:]), torch.from_numpy(x[:20])
    found = mixture_evidence(likelihood, train, test, n_components=1)
    assert float(found) == pytest.approx(float(independent_evidence(likelihood, train, test)))


@pytest.mark.parametrize("likelihood", [Normal(), NormalLearnedScale(), NormalPredictedScale()])
def test_a_mixture_of_one_normal_counts_three_data_more(likelihood: Any) -> None:
    x = np.concatenate([reals(), np.full((N, 1), 2.0)], 1)  # a feature that is constant, too
    train, test = x[20:], x[:20]
    n, v = len(train), train.var(0)
    variance = (n * v + 3 * (n * v + v.mean()) / (n + 1)) / (n + 3)
    expected = stats.norm.logpdf(test, train.mean(0), np.sqrt(variance)).sum(1)
    tensors = torch.from_numpy(train), torch.from_numpy(test)
    found = mixture_evidence(likelihood, *tensors, n_components=1).per_datum
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("form, more", [("full", 6), ("tied", 6), ("diag", 3), ("spherical", 3)])
def test_smoothed_covariances(form: Any, more: int) -> None:
    x = reals()
    n, v = len(x), x.var(0)
    smooth = (n * v + v.mean()) / (n + 1)
    mixture = mixture_for(Normal(), torch.from_numpy(x), 1, covariance_type=form)
    found = mixture.fit(x).covariances_
    full = (n * np.cov(x.T, ddof=0) + more * np.diag(smooth)) / (n + more)
    expected = {
        **{"full": full[None], "tied": full},
        "diag": np.diag((n * np.diag(v) + more * np.diag(smooth)) / (n + more))[None],
        "spherical": [(4 * n * v.mean() + more * smooth.mean()) / (4 * n + more)],
    }[form]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


def test_without_smoothing_there_are_no_priors() -> None:
    x = torch.from_numpy(counts(1))
    for likelihood in (Bernoulli(), Binomial(1), Categorical(2), Poisson(), Normal()):
        mixture = mixture_for(likelihood, x, 2, smoothing=False)
        plain = type(mixture)(2).get_params()
        changed = {k for k, v in mixture.get_params().items() if v != plain[k]}
        assert changed <= {"n_trials", "n_categories"}


def test_no_mixture_of_a_family() -> None:
    x = torch.rand(20, 2)
    with pytest.raises(ValueError, match=r"fitted by EM .* got ContinuousBernoulli"):
        mixture_evidence(ContinuousBernoulli(), x, x)
    with pytest.raises(ValueError, match="at least as many data as components"):
        mixture_evidence(Bernoulli(), torch.ones(5, 2), torch.ones(5, 2))


def test_metrics_of_latents_say_that_there_are_none() -> None:
    x: Tensor = torch.ones(4, 2)
    for metric in ("gap", "mutual_information", "active_units"):
        with pytest.raises(
            ValueError, match=r"expected a guide that draws latents.* got (one|none)"
        ):
            evaluate(FiniteMixture((2,), 2), Empty(), x, (metric,))
