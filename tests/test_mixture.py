r"""Mixtures as Pyro programs, beside scipy's densities, EM, and an evidence in closed form."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.infer
import pytest
import torch
from points import hidden
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from scipy import stats
from scipy.special import logsumexp

from pyro_vae.layout import sample_sites
from pyro_vae.models import BayesianMixture
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


def test_weights_that_are_known_are_no_site() -> None:
    model = BayesianMixture(SemiconjugateGaussianComponents(1), FixedWeights([1, 1, 1]))
    x = torch.randn(6, 1)
    trace = poutine.trace(model).get_trace(x)
    assert list(sample_sites(trace)) == ["variances", "means", "component", "x"]
    torch.testing.assert_close(trace.nodes["component"]["fn"].probs, torch.full((6, 3), 1 / 3))
    assert FixedWeights([1, 1, 2])().tolist() == [0.25, 0.25, 0.5]
