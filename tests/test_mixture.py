r"""Mixtures as Pyro programs, beside scipy's densities, EM, and an evidence in closed form."""

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.infer
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value
from scipy import stats
from scipy.optimize import minimize
from scipy.special import gammaln, logsumexp
from torch import Tensor

import pyro_vae
from pyro_vae import SVI, em
from pyro_vae.em.coordinates import Coordinates
from pyro_vae.layout import sample_sites
from pyro_vae.models import BayesianGaussianMixture, BayesianMixture
from pyro_vae.models.components import (
    BernoulliComponents,
    BinomialComponents,
    CategoricalComponents,
    Components,
    FullGaussianComponents,
    GaussianComponents,
    PoissonComponents,
    SemiconjugateGaussianComponents,
)
from pyro_vae.models.weights import DirichletWeights, FixedWeights
from pyro_vae.objectives import ELBO
from pyro_vae.pair import Pair

N, D, K = 11, 2, 3
M, S, NU, PSI, KAPPA = (0.3, -0.2), (1.5, 2.0), 5.0, (1.5, 0.7), 0.4

Values = dict[str, np.ndarray]
Density = Callable[[Values], np.ndarray]


def variances(v: Values) -> np.ndarray:
    return stats.invgamma(NU / 2, scale=np.array(PSI) / 2).logpdf(v["variances"]).sum()


def normal(x: np.ndarray, v: Values) -> np.ndarray:
    return stats.norm(v["means"], np.sqrt(v["variances"])).logpdf(x[:, None]).sum(-1)


def full(x: np.ndarray, v: Values) -> np.ndarray:
    roots = v["scales"][..., None] * v["correlations"]
    parts = zip(v["means"], roots, strict=True)
    return np.stack([stats.multivariate_normal(m, r @ r.T).logpdf(x) for m, r in parts], 1)


def codes(x: np.ndarray, v: Values) -> np.ndarray:
    p, c = v["probabilities"], x.astype(int)
    return sum(np.log(p[:, d, c[:, d]]).T for d in range(D))


def product(kind: Any, name: str, *before: Any) -> Callable[[np.ndarray, Values], np.ndarray]:
    return lambda x, v: kind(*before, v[name]).logpmf(x[:, None]).sum(-1)


# the family, log p(x | c = k) with shape (N, K), and the log prior of each site, as scipy has them
FAMILIES: dict[str, tuple[Callable[[], Components], Any, dict[str, Density]]] = {
    "Gaussian": (
        lambda: GaussianComponents(D, M, KAPPA, NU, PSI),
        normal,
        {
            "variances": variances,
            "means": lambda v: (
                stats.norm(M, np.sqrt(v["variances"] / KAPPA)).logpdf(v["means"]).sum()
            ),
        },
    ),
    "semiconjugate Gaussian": (
        lambda: SemiconjugateGaussianComponents(D, M, S, NU, PSI),
        normal,
        {"variances": variances, "means": lambda v: stats.norm(M, S).logpdf(v["means"]).sum()},
    ),
    "full Gaussian": (
        lambda: FullGaussianComponents(D, M, S, PSI, 1.7),
        full,
        {
            "scales": lambda v: stats.halfnorm(scale=PSI).logpdf(v["scales"]).sum(),
            "means": lambda v: stats.norm(M, S).logpdf(v["means"]).sum(),
            # of two features, a density over the correlation is r = 2 b - 1, b ~ Beta(η, η)
            "correlations": lambda v: (
                stats.beta(1.7, 1.7, loc=-1, scale=2).logpdf(v["correlations"][:, 1, 0]).sum()
            ),
        },
    ),
    "Bernoulli": (
        lambda: BernoulliComponents(D, (2.0, 3.0)),
        product(stats.bernoulli, "probabilities"),
        {"probabilities": lambda v: stats.beta(2, 3).logpdf(v["probabilities"]).sum()},
    ),
    "binomial": (
        lambda: BinomialComponents(D, 6, 2.5),
        product(stats.binom, "probabilities", 6),
        {"probabilities": lambda v: stats.beta(2.5, 2.5).logpdf(v["probabilities"]).sum()},
    ),
    "Poisson": (
        lambda: PoissonComponents(D, (2.0, 0.5)),
        product(stats.poisson, "rates"),
        {"rates": lambda v: stats.gamma(2, scale=2).logpdf(v["rates"]).sum()},
    ),
    "categorical": (
        lambda: CategoricalComponents(D, 4, 1.5),
        codes,
        {
            "probabilities": lambda v: sum(
                stats.dirichlet([1.5] * 4).logpdf(p) for p in v["probabilities"].reshape(-1, 4)
            )
        },
    ),
}


def hidden(model: Any) -> Any:
    return poutine.block(model, hide=["component"])


def at(model: Any, values: dict[str, Tensor]) -> AutoDelta:
    return AutoDelta(hidden(model), init_loc_fn=init_to_value(values=values))


def log_posterior(model: Any, values: dict[str, Tensor], x: Tensor) -> float:
    r"""That of the values, up to the evidence, in nats per datum."""
    with torch.no_grad():
        return Pair(model, at(model, values)).draw((x,), {}).log_weights.mean().item()


@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_densities_are_those_of_scipy(family: str, particles: int) -> None:
    components, likelihood, priors = FAMILIES[family]
    model = BayesianMixture(components(), DirichletWeights(K, 1.5))
    x = model(n=N).detach()
    guide = AutoNormal(hidden(model), init_scale=0.5)
    draw = Pair(model, guide).draw((x,), {}, particles)

    assert draw.log_likelihood.shape == (particles, N)
    assert set(draw.log_prior) == {"weights", *priors}
    for s in range(particles):
        values = {n: v.detach().numpy() for n, v in draw.values.items()}
        values = {n: v[s] if particles > 1 else v for n, v in values.items()}
        values["weights"] = values["weights"].reshape(K)
        expected = logsumexp(np.log(values["weights"]) + likelihood(x.numpy(), values), axis=1)
        np.testing.assert_allclose(draw.log_likelihood[s].detach(), expected, rtol=1e-9)
        for name, prior in priors.items():
            found = draw.log_prior[name][s].item()
            assert found == pytest.approx(float(prior(values)), rel=1e-9), name
        prior = stats.dirichlet([1.5] * K).logpdf(values["weights"])
        assert draw.log_prior["weights"][s].item() == pytest.approx(prior, rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_generates_what_it_observes(family: str) -> None:
    r"""Data of known parameters: means within 4.5 standard errors, one failure in 10^5 features.

    Each of any type and on any device that the module is moved to.
    """
    components = FAMILIES[family][0]()
    model = BayesianMixture(components, FixedWeights([1.0, 2.0, 1.0]))
    trace = poutine.trace(hidden(model)).get_trace(n=1)
    fixed = {name: trace.nodes[name]["value"] for name in FAMILIES[family][2]}
    known = poutine.condition(model, data=fixed)
    x = known(n=20_000)
    with pyro.plate("components", K, dim=-1):
        observation = poutine.condition(components, data=fixed)()
    each = observation(torch.arange(K))
    expected = torch.tensor([0.25, 0.5, 0.25]) @ each.mean.reshape(K, D)

    assert x.shape == (20_000, D)
    error = x.std(0) / math.sqrt(len(x))
    assert ((x.mean(0) - expected).abs() <= 4.5 * error + 1e-12).all()
    assert model.float()(n=4).dtype == torch.float32
    assert model.double()(n=4).dtype == torch.float64


@pytest.mark.parametrize("shape", [(), (5,), (3, 1, 1), (3, 1, 4)])
@pytest.mark.parametrize("particles", [None, 2])
def test_components_are_picked_by_indices_of_any_shape(
    shape: tuple[int, ...], particles: int | None
) -> None:
    components = GaussianComponents(D)
    values = torch.randn(*([] if particles is None else [particles]), K, D)
    data = {"means": values, "variances": torch.ones_like(values)}
    with pyro.plate("components", K, dim=-1):
        observation = poutine.condition(components, data=data)()
    c = torch.randint(K, shape)
    found = observation(c).mean

    if particles is None:
        assert found.equal(values[c])
    else:  # particles stand at dim -2 of the batch, left of the data
        full = c.expand(torch.broadcast_shapes(c.shape, (particles, 1)))
        place = torch.arange(particles)[:, None].expand(full.shape)
        assert found.equal(values[place, full])


def gaussian(alpha: float = 2.0) -> tuple[BayesianGaussianMixture, Any, dict[str, Tensor], Tensor]:
    r"""A model, its estimator from a start, the start, and data."""
    x = torch.randn(40, D) + 3 * torch.randint(3, (40, 1)) * torch.tensor([1.0, -1.0])
    start = {
        "weights": torch.tensor([0.3, 0.3, 0.4]),
        "means": x[:K].clone(),
        "variances": torch.tensor([[1.3, 0.8]]).repeat(K, 1),
    }
    estimator = partial(
        em.GaussianMixture,
        K,
        covariance_type="diag",
        reg_covar=0,
        weight_concentration_prior=alpha,
        mean_prior=M,
        mean_precision_prior=KAPPA,
        degrees_of_freedom_prior=NU,
        covariance_prior=PSI,
        weights_init=start["weights"],
        means_init=start["means"],
        precisions_init=1 / start["variances"],
    )
    return BayesianGaussianMixture(D, K, alpha, M, KAPPA, NU, PSI), estimator, start, x


def bernoulli(alpha: float = 2.0) -> tuple[BayesianMixture, Any, dict[str, Tensor], Tensor]:
    p = torch.tensor([[0.1] * 4, [0.9, 0.9, 0.2, 0.2], [0.2, 0.3, 0.9, 0.8]])
    x = torch.bernoulli(p[torch.randint(3, (40,))])
    start = {"weights": torch.tensor([0.3, 0.3, 0.4]), "probabilities": 0.2 + 0.6 * p}
    estimator = partial(
        em.BernoulliMixture,
        K,
        weight_concentration_prior=alpha,
        probability_prior=(2.0, 1.5),
        weights_init=start["weights"],
        probabilities_init=start["probabilities"],
    )
    components = BernoulliComponents(4, (2.0, 1.5))
    return BayesianMixture(components, DirichletWeights(K, alpha)), estimator, start, x


CASES = {"Gaussian": gaussian, "Bernoulli": bernoulli}


def left_out(case: str, alpha: float, x: Tensor) -> float:
    r"""What the log of the prior has and EM's objective, in units of its own, leaves out."""
    total = gammaln(K * alpha) - K * gammaln(alpha)
    if case == "Bernoulli":
        return total + K * 4 * (gammaln(3.5) - gammaln(2.0) - gammaln(1.5))
    a, b = NU / 2, np.array(PSI) / 2
    gammas = (a * np.log(b) - gammaln(a)).sum()
    units = Coordinates.of(x.mean(0), x.var(0, correction=0), x.dtype, common=False).scale
    total += K * (NU + 3) * units.log().sum().item()
    return total + K * (gammas + D * 0.5 * math.log(KAPPA / (2 * math.pi)))


def fitted(mixture: Any) -> dict[str, Tensor]:
    names = {"weights": "weights_", "means": "means_", "variances": "covariances_"}
    names["probabilities"] = "probabilities_"
    return {
        site: torch.from_numpy(getattr(mixture, name))
        for site, name in names.items()
        if hasattr(mixture, name)
    }


@pytest.mark.parametrize("case", CASES)
def test_the_log_posterior_is_the_objective_of_em(case: str) -> None:
    model, estimator, start, x = CASES[case]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = estimator(max_iter=1).fit(x)
    after = estimator(max_iter=2000, tol=1e-14).fit(x)
    constant = left_out(case, 2.0, x) / len(x)

    # an objective is that of the parameters before the last M-step
    assert log_posterior(model, start, x) == pytest.approx(before.lower_bound_ + constant, abs=1e-9)
    found = log_posterior(model, fitted(after), x)
    assert found == pytest.approx(after.lower_bound_ + constant, abs=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_gradients_and_em_reach_the_same_posterior(case: str) -> None:
    r"""From one start: by our bound, by Pyro's, and by EM; to 1e-6 nats per datum."""
    model, estimator, start, x = CASES[case]()
    optimum = log_posterior(model, fitted(estimator(max_iter=2000, tol=1e-14).fit(x)), x)
    assert optimum > log_posterior(model, start, x) + 0.1

    guide = at(model, start)
    ours = SVI(model, guide, partial(torch.optim.Adam, lr=0.3), ELBO(), reduction="mean")
    for _ in range(180):
        loss = ours.step(x)
    assert -loss.item() == pytest.approx(optimum, abs=1e-6)

    pyro.clear_param_store()
    theirs = pyro.infer.SVI(
        model, at(model, start), pyro.optim.Adam({"lr": 0.3}), TraceEnum_ELBO(max_plate_nesting=1)
    )
    for _ in range(180):
        loss = theirs.step(x)
    assert -loss / len(x) == pytest.approx(optimum, abs=1e-6)


def one_gaussian(size: int) -> tuple[BayesianMixture, np.ndarray, float]:
    r"""A single component under its conjugate prior, data of one feature, and their evidence."""
    model = BayesianMixture(GaussianComponents(1, 0.3, KAPPA, NU, 1.5), FixedWeights([1.0]))
    x = np.random.RandomState(0).randn(size) * 1.2 + 0.5
    a, b = NU / 2, 1.5 / 2
    kappa, a_n = KAPPA + size, a + size / 2
    squares = ((x - x.mean()) ** 2).sum() + KAPPA * size / kappa * (x.mean() - 0.3) ** 2
    b_n = b + squares / 2
    evidence = a * math.log(b) - a_n * math.log(b_n) + gammaln(a_n) - gammaln(a)
    evidence += 0.5 * math.log(KAPPA / kappa) - size / 2 * math.log(2 * math.pi)
    return model, x, float(evidence)


def mean_field(x: np.ndarray) -> tuple[np.ndarray, float, float]:
    r"""The best normal over the mean and one over the log variance, by hand.

    Returns:
        The two means and the logs of the two scales; the bound; and the expected log density.
    """
    size, a, b, m = len(x), NU / 2, 1.5 / 2, 0.3

    def density(q: np.ndarray) -> float:
        u, t, v, w = q[0], q[1], *np.exp(q[2:])
        precision = math.exp(-t + w * w / 2)  # its expectation
        squares = ((x - u) ** 2).sum() + size * v * v + KAPPA * ((u - m) ** 2 + v * v)
        total = -(size + 1) / 2 * math.log(2 * math.pi) - (size + 1) / 2 * t
        total += -precision * squares / 2 + 0.5 * math.log(KAPPA)
        return total + a * math.log(b) - gammaln(a) - (a + 1) * t - b * precision

    def bound(q: np.ndarray) -> float:
        # the entropy in the coordinates of the variance, of which the log is normal
        return density(q) + math.log(2 * math.pi) + 1 + q[2] + q[3] + q[1]

    start = np.array([x.mean(), math.log(x.var()), -2.0, -2.0])
    best = minimize(lambda q: -bound(q), start, method="Nelder-Mead", tol=1e-12).x
    return best, bound(best), density(best)


def test_the_mean_field_bound_is_below_the_evidence_by_what_it_must_be() -> None:
    r"""A single component, of which all is known in closed form.

    The bound within 4.5 standard errors: one failure in 10^5.
    """
    model, data, evidence = one_gaussian(60)
    (u, t, v, w), bound, density = mean_field(data)
    x = torch.from_numpy(data)[:, None]
    values = {"means": torch.tensor([[u]]), "variances": torch.tensor([[math.exp(t)]])}
    guide = AutoNormal(hidden(model), init_loc_fn=init_to_value(values=values))
    guide(x)
    guide.scales.means = torch.tensor([[math.exp(v)]])
    guide.scales.variances = torch.tensor([[math.exp(w)]])

    found = pyro_vae.evaluate(model, guide, x, ("elbo",), particles=4000)["elbo"]
    assert 0 < evidence - bound < 0.02  # nats of all 60 data: the posterior is nearly normal
    assert abs(float(found) - bound / 60) <= 4.5 * found.stderr + 1e-6
    assert found.stderr < 1e-3

    # a normal with p parameters spends p/2 nats of the log density at its peak: p = 2 here
    prior = {"mean_prior": [0.3], "mean_precision_prior": KAPPA, "covariance_prior": [1.5]}
    peak = em.GaussianMixture(
        covariance_type="diag", reg_covar=0, degrees_of_freedom_prior=NU, **prior
    ).fit(x)
    best = {name: value for name, value in fitted(peak).items() if name != "weights"}
    assert log_posterior(model, best, x) * 60 - density == pytest.approx(2 / 2, rel=0.1)


def test_the_bound_of_pyro_is_ours() -> None:
    r"""On average: within 4.5 standard errors of the difference, one failure in 10^5."""
    model, _, start, x = gaussian()
    guide = AutoNormal(hidden(model), init_loc_fn=init_to_value(values=start), init_scale=0.05)
    found = pyro_vae.evaluate(model, guide, x, ("elbo",), particles=2000)["elbo"]
    theirs = TraceEnum_ELBO(max_plate_nesting=1, num_particles=100, vectorize_particles=True)
    pyro.set_rng_seed(5)
    with torch.no_grad():
        each = torch.tensor([-theirs.loss(model, guide, x) / len(x) for _ in range(20)])
    error = math.hypot(found.stderr, each.std().item() / math.sqrt(20))
    assert abs(float(found) - each.mean().item()) <= 4.5 * error
    assert error < 0.02


def test_works_with_predictive() -> None:
    model, _, start, _ = gaussian()
    samples = {name: value.expand(7, *value.shape) for name, value in start.items()}
    found = Predictive(model, samples)(n=5)
    assert found["x"].shape == (7, 5, D)
    assert found["component"].shape == (7, 5)
    guided = Predictive(model, guide=at(model, start), num_samples=4)(torch.randn(5, D))
    assert guided["means"].shape == (4, K, D)


def test_weights_that_are_known_are_no_site() -> None:
    model = BayesianMixture(SemiconjugateGaussianComponents(1), FixedWeights([1, 1, 1]))
    x = torch.randn(6, 1)
    trace = poutine.trace(model).get_trace(x)
    assert list(sample_sites(trace)) == ["variances", "means", "component", "x"]
    torch.testing.assert_close(trace.nodes["component"]["fn"].probs, torch.full((6, 3), 1 / 3))
    assert FixedWeights([1, 1, 2])().tolist() == [0.25, 0.25, 0.5]
