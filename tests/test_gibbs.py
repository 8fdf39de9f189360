r"""Collapsed Gibbs sampling against the enumeration of all partitions, scipy and quadrature.

The tests of draws compare averages over 32 chains, whose standard errors are below 0.01 where
nothing else is said: each figure fails once in 10^5 seeds, by Student's distribution with 31
degrees of freedom.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from enumerated import partitions
from scipy import integrate, stats
from scipy.special import gammaln, logsumexp

from pyro_vae.distributions import ChineseRestaurant, canonical
from pyro_vae.gibbs import (
    BetaBernoulli,
    Conjugate,
    Figures,
    GammaPoisson,
    NormalInverseGamma,
    NormalInverseWishart,
    Partitions,
    collapsed_gibbs,
)
from pyro_vae.gibbs.concentration import resample
from pyro_vae.gibbs.sampler import _Chains

CHAINS = 32
MOST = stats.t(CHAINS - 1).ppf(1 - 0.5e-5)
WISHART = np.array([[2.0, 0.5], [0.5, 1.0]])


def gaussian(y: np.ndarray, x: np.ndarray) -> float:
    r"""By the textbook's formulas, about the mean of the data."""
    m, kappa, nu, psi = np.array([0.3, -0.2]), 0.2, 3.0, np.array([1.5, 0.7])
    n = len(x)
    mean = x.mean(0) if n else np.zeros(2)
    strength, degrees = kappa + n, nu + n
    squares = psi + ((x - mean) ** 2).sum(0) + kappa * n / strength * (mean - m) ** 2
    loc = (kappa * m + n * mean) / strength
    scale = np.sqrt(squares * (strength + 1) / (strength * degrees))
    return stats.t(degrees, loc, scale).logpdf(y).sum()


def wishart(y: np.ndarray, x: np.ndarray) -> float:
    m, kappa, nu = np.array([0.3, -0.2]), 0.2, 4.0
    n = len(x)
    mean = x.mean(0) if n else np.zeros(2)
    strength, degrees = kappa + n, nu + n - 1
    scatter = WISHART + (x - mean).T @ (x - mean)
    scatter = scatter + kappa * n / strength * np.outer(mean - m, mean - m)
    loc = (kappa * m + n * mean) / strength
    shape = scatter * (strength + 1) / (strength * degrees)
    return stats.multivariate_t(loc, shape, degrees).logpdf(y)


def bernoulli(y: np.ndarray, x: np.ndarray) -> float:
    return stats.bernoulli((0.7 + x.sum(0)) / (2.0 + len(x))).logpmf(y).sum()


def poisson(y: np.ndarray, x: np.ndarray) -> float:
    rate = 0.4 + len(x)
    return stats.nbinom(1.5 + x.sum(0), rate / (rate + 1)).logpmf(y).sum()


def close(scale: float) -> np.ndarray:
    return scale * np.random.RandomState(0).randn(5, 2) + [[-1], [-1], [0.5], [1], [1]]


def remembered(log_density: Callable[[np.ndarray, np.ndarray], float]) -> Any:
    r"""Partitions share most of their clusters."""
    known: dict[tuple[bytes, bytes], float] = {}

    def found(y: np.ndarray, x: np.ndarray) -> float:
        key = y.tobytes(), x.tobytes()
        if key not in known:
            known[key] = log_density(y, x)
        return known[key]

    return found


# name -> (family, log density of y given the data of its cluster, data, points)
Row = tuple[Conjugate, Callable[[np.ndarray, np.ndarray], float], np.ndarray, np.ndarray]
BITS = np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=float)
COUNTS = np.array([[0, 3], [1, 2], [6, 0], [7, 1], [2, 9]], dtype=float)
FAMILIES: dict[str, Row] = {
    "gaussian": (
        NormalInverseGamma([0.3, -0.2], 0.2, 3.0, [1.5, 0.7]),
        gaussian,
        close(0.8),
        np.array([[0.0, 0.0], [-1.5, 0.5]]),
    ),
    "wishart": (
        NormalInverseWishart([0.3, -0.2], 0.2, 4.0, WISHART),
        wishart,
        close(0.8),
        np.array([[0.0, 0.0], [-1.5, 0.5]]),
    ),
    "seven gaussian": (
        NormalInverseGamma([0.3, -0.2], 0.2, 3.0, [1.5, 0.7]),
        remembered(gaussian),
        np.concatenate([close(0.8), [[-1.2, -0.4], [1.4, 0.9]]]),
        np.array([[0.0, 0.0], [-1.5, 0.5]]),
    ),
    "bernoulli": (BetaBernoulli((0.7, 1.3)), bernoulli, BITS, BITS[1:3]),
    "poisson": (GammaPoisson((1.5, 0.4)), poisson, COUNTS, COUNTS[1:3]),
}
NAMES = sorted(FAMILIES)


@pytest.mark.parametrize("name", NAMES)
def test_predictive_densities_are_scipys(name: str) -> None:
    family, log_density, x, points = FAMILIES[name]
    parts = [x[:0], x[:1], x[1:4], x]
    counts = np.array([len(part) for part in parts], dtype=float)
    sums = np.stack([family.statistics(part).sum(0) for part in parts])
    for shape in ((4,), (2, 2)):
        predictive = family.predictive(counts.reshape(shape), sums.reshape(*shape, -1))
        for y in points:
            found = family.log_density(y, predictive)
            assert found.shape == shape
            expected = [log_density(y, part) for part in parts]
            np.testing.assert_allclose(found.ravel(), expected, rtol=1e-10)


def test_the_prior_of_gaussians_is_what_it_says() -> None:
    r"""The predictive density by quadrature over mean and variance."""
    m, kappa, nu, psi = 0.4, 0.5, 5.0, 1.2
    x, y = np.array([0.9, -0.3]), 1.1

    nodes, weights = np.polynomial.legendre.leggauss(200)
    variance = np.exp(4 * nodes)  # and means within ten standard deviations
    scale = variance[:, None] ** 0.5
    mu = 10 * scale * nodes
    volume = (4 * weights * variance)[:, None] * (10 * scale * weights)
    prior = stats.invgamma(nu / 2, scale=psi / 2).pdf(variance)[:, None]
    prior = prior * stats.norm(m, scale / kappa**0.5).pdf(mu)

    def joint(data: np.ndarray) -> float:
        likelihood = np.prod([stats.norm(mu, scale).pdf(each) for each in data], axis=0)
        return (volume * prior * likelihood).sum()

    family = NormalInverseGamma(m, kappa, nu, psi)
    predictive = family.predictive(np.array(2.0), family.statistics(x[:, None]).sum(0))
    found = math.exp(family.log_density(np.array([y]), predictive))
    assert found == pytest.approx(joint(np.array([*x, y])) / joint(x), rel=1e-4)


def test_in_one_dimension_wishart_is_gamma() -> None:
    x = np.random.RandomState(0).randn(6, 1)
    found = []
    for kind in (NormalInverseGamma, NormalInverseWishart):
        family = kind(0.3, 0.2, 3.0, 1.7)
        predictive = family.predictive(np.array(6.0), family.statistics(x).sum(0))
        found.append(family.log_density(np.array([0.8]), predictive))
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def log_joint(name: str, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    r"""All partitions of the data, and their log densities with the data."""
    _, log_density, x, _ = FAMILIES[name]
    every = partitions(len(x))
    log_p = ChineseRestaurant(torch.tensor(alpha), len(x)).log_prob(every).numpy()
    labels = every.numpy()
    for j, row in enumerate(labels):
        for i, label in enumerate(row):
            log_p[j] += log_density(x[i], x[:i][row[:i] == label])
    return labels, log_p


def predictive_density(name: str, labels: np.ndarray, y: np.ndarray, alpha: float) -> float:
    _, log_density, x, _ = FAMILIES[name]
    total = alpha * math.exp(log_density(y, x[:0]))
    for label in set(labels.tolist()):
        part = x[labels == label]
        total += len(part) * math.exp(log_density(y, part))
    return total / (alpha + len(x))


def agree(found: Figures, exact: Any, sharp: float = 0.01) -> None:
    exact = np.asarray(exact)
    assert (found.stderr < sharp).all()
    assert (np.abs(found.value - exact) <= MOST * found.stderr + 1e-3 * sharp).all()


def by_chain(values: np.ndarray) -> Figures:
    return Figures(values.mean(0), values.std(0, ddof=1) / len(values) ** 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_draws_have_the_posterior_of_all_partitions(name: str) -> None:
    family, _, x, points = FAMILIES[name]
    alpha = 1.2
    labels, log_p = log_joint(name, alpha)
    p = np.exp(log_p - logsumexp(log_p))
    found = collapsed_gibbs(
        x, family, concentration=alpha, draws=250, burn_in=10, chains=CHAINS, seed=1
    )

    assert len(labels) == {5: 52, 7: 877}[len(x)]
    seen = (found.labels[:, :, None] == labels).all(-1)  # (C, S, 52) or of 877
    assert seen.any(-1).all()
    agree(by_chain(seen.mean(1)[:, p > 0.005]), p[p > 0.005])
    T = labels.max(1) + 1
    clusters = found.number_of_clusters()
    agree(clusters, [p[t == T].sum() for t in range(len(clusters.value))])
    together = (labels[:, :, None] == labels[:, None, :]).astype(float)
    pairs = by_chain((found.labels[..., None] == found.labels[:, :, None]).mean(1))
    agree(pairs, np.einsum("p,pij", p, together))
    np.testing.assert_allclose(found.co_clustering(), pairs.value, rtol=1e-12)
    mean = [p @ [predictive_density(name, row, y, alpha) for row in labels] for y in points]
    agree(found.density(points), mean)


def test_concentrations_are_drawn_with_partitions() -> None:
    r"""Against the enumeration of partitions, and quadrature over the concentration."""
    family, _, x, _ = FAMILIES["gaussian"]
    a, b = 2.0, 1.0
    grid = np.linspace(1e-6, 25, 4001)
    labels, log_p = log_joint("gaussian", 1.0)
    T = labels.max(1) + 1
    log_likelihood = (
        log_p
        - ChineseRestaurant(torch.tensor(1.0), 5).log_prob(torch.from_numpy(labels)).numpy()
        + sum(gammaln((labels == t).sum(1).clip(1)) for t in range(5))
    )
    prior = stats.gamma(a, scale=1 / b).logpdf(grid) + gammaln(grid) - gammaln(grid + 5)
    weights = np.exp(log_likelihood[:, None] + T[:, None] * np.log(grid) + prior)
    weights /= weights.sum()
    found = collapsed_gibbs(
        x, family, concentration=(a, b), draws=400, burn_in=20, chains=CHAINS, seed=2
    )

    clusters = found.number_of_clusters()
    p = weights.sum(1)
    agree(clusters, [p[t == T].sum() for t in range(len(clusters.value))])
    agree(by_chain(found.concentration.mean(1)), weights.sum(0) @ grid, 0.05)
    agree(by_chain((found.concentration < 1).mean(1)), weights.sum(0)[grid < 1].sum(), 0.02)


@pytest.mark.parametrize("size, clusters", [(50, 6), (3, 2), (1, 1)])
def test_a_concentration_given_the_number_of_clusters(size: int, clusters: int) -> None:
    r"""Chains in parallel, against quadrature, within 4.5 standard errors: 1 in 10^5 seeds."""
    a, b = 1.5, 0.8

    def log_density(alpha: float) -> float:
        log_p = stats.gamma(a, scale=1 / b).logpdf(alpha) + clusters * math.log(alpha)
        return log_p + gammaln(alpha) - gammaln(alpha + size)

    total = integrate.quad(lambda t: math.exp(log_density(t) + 100), 1e-9, 40)[0]
    mean = integrate.quad(lambda t: t * math.exp(log_density(t) + 100), 1e-9, 40)[0] / total
    square = integrate.quad(lambda t: t**2 * math.exp(log_density(t) + 100), 1e-9, 40)[0] / total
    random, alpha = np.random.default_rng(0), np.ones(20_000)
    for _ in range(15):
        alpha = resample(alpha, np.full(len(alpha), clusters), size, (a, b), random)

    for found, exact in ((alpha, mean), (alpha**2, square)):
        assert abs(found.mean() - exact) < 4.5 * found.std() / len(alpha) ** 0.5


def test_data_that_say_nothing_leave_the_prior() -> None:
    r"""So many clusters that room is made for more, and their number as at a restaurant."""
    size, alpha = 60, 20.0
    x = np.random.RandomState(0).randint(2, size=(size, 1))
    certain = BetaBernoulli((1e14, 1e14))
    found = collapsed_gibbs(
        x, certain, concentration=alpha, draws=60, burn_in=5, chains=CHAINS, seed=3
    )

    expected = ChineseRestaurant(torch.tensor(alpha), size).expected_tables.item()
    agree(by_chain(found.clusters.mean(1)), expected, 0.2)
    seats = found.labels[:, -1]
    assert (canonical(torch.from_numpy(seats)) == torch.from_numpy(seats)).all()
    assert found.density(np.array([[1.0]])).value == pytest.approx(0.5, rel=1e-9)


def test_an_empty_cluster_keeps_no_rounding_error() -> None:
    x = np.random.RandomState(0).randn(12, 1) / 3
    state = _Chains(x, NormalInverseGamma(), np.full(400, 1.0), np.random.default_rng(0))
    for _ in range(4):
        state.sweep()
        empty = state.sums[:, 0] == 0
        assert (state.sums[empty] == 0).all()


def test_averages_are_those_of_the_draws() -> None:
    family, _, x, points = FAMILIES["poisson"]
    labels = partitions(5)[::3].numpy().astype(np.int32)[:16].reshape(2, 8, 5)
    alpha = np.linspace(0.5, 2, 16).reshape(2, 8)
    found = Partitions(labels, alpha, x, family)

    flat = labels.reshape(16, 5)
    together = np.mean([[[a == b for b in row] for a in row] for row in flat], 0)
    np.testing.assert_allclose(found.co_clustering(), together, rtol=1e-12)
    np.testing.assert_array_equal(
        found.clusters, [[len(set(r)) for r in c] for c in labels.tolist()]
    )
    densities = [
        [
            [predictive_density("poisson", r, y, a) for y in points]
            for r, a in zip(*each, strict=True)
        ]
        for each in zip(labels, alpha, strict=True)
    ]
    figures = found.density(torch.from_numpy(points))
    np.testing.assert_allclose(figures.value, np.mean(densities, (0, 1)), rtol=1e-10)
    means = np.mean(densities, 1)
    np.testing.assert_allclose(figures.stderr, np.abs(means[0] - means[1]) / 2, rtol=1e-8)


def test_the_consensus_is_nearest_to_the_co_clustering_matrix() -> None:
    r"""Of all draws, in least squares; many sets of draws, in which another would do in some."""
    every, random = partitions(5).numpy().astype(np.int32), np.random.RandomState(0)
    family, _, x, _ = FAMILIES["poisson"]
    for _ in range(20):
        flat = every[random.randint(len(every), size=10)]
        found = Partitions(flat[None], np.ones((1, 10)), x, family)
        together = (flat[:, :, None] == flat[:, None]).astype(float)
        distances = ((together - together.mean(0)) ** 2).sum((1, 2))
        chosen = (found.consensus() == flat).all(1)
        assert distances[chosen].min() == pytest.approx(distances.min(), rel=1e-12)


@pytest.mark.parametrize("name", ["gaussian", "wishart"])
def test_clusters_that_are_apart_are_found(name: str) -> None:
    random = np.random.RandomState(0)
    truth = random.randint(4, size=60)
    centres = np.array([[-20.0, 0], [20, 0], [0, 20], [0, -20]])
    x = centres[truth] + random.randn(60, 2)
    family = {
        "gaussian": NormalInverseGamma(0, 0.01, 4, 4),
        "wishart": NormalInverseWishart(0, 0.01, 4, 4),
    }[name]
    found = collapsed_gibbs(x, family, concentration=0.1, draws=30, burn_in=30, chains=2)

    assert (found.consensus() == canonical(torch.from_numpy(truth)).numpy()).all()
    assert found.number_of_clusters().value.argmax() == 4


def test_tensors_and_seeds() -> None:
    family, _, x, _ = FAMILIES["gaussian"]
    options: dict[str, Any] = {"draws": 5, "burn_in": 1, "chains": 2}
    first = collapsed_gibbs(x, family, seed=4, **options)
    same = collapsed_gibbs(torch.from_numpy(x), family, seed=4, **options)
    other = collapsed_gibbs(x, family, seed=5, **options)

    np.testing.assert_array_equal(first.labels, same.labels)
    np.testing.assert_array_equal(first.concentration, same.concentration)
    assert (first.labels != other.labels).any()
    assert first.labels.shape == (2, 5, 5)
    single = collapsed_gibbs(x, family, draws=3, burn_in=0, chains=1)
    assert np.isnan(single.number_of_clusters().stderr).all()
    assert (collapsed_gibbs(x[:1], family, draws=3).labels == 0).all()
