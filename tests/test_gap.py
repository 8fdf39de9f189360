r"""The gap and its parts against divergences in closed form."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import transforms
from test_ppca import VAR, affine, inverse_positive
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.evaluation import Estimate
from pyro_vae.evaluation.free import Freed, offsets_of
from pyro_vae.evaluation.gap import gap
from pyro_vae.evaluation.setting import evaluating
from pyro_vae.guides import AmortizedMultivariateNormal, AmortizedNormal
from pyro_vae.likelihoods import Normal
from pyro_vae.models import VAE
from pyro_vae.pair import Pair

N, F, D, K = 6, 4, 2, 400
PARTS = ("gap", "gap.approximation", "gap.amortisation")


def split(model: Any, guide: Any, x: Tensor, **setting: Any) -> dict[str, Estimate]:
    setting = {"particles": K, "batch_size": None, "seed": 0, "steps": 200} | setting
    with evaluating(model, guide, seed=setting["seed"]) as place:
        sizes = {"data_size": len(x), "capture": False}
        return gap(Pair(model, guide), (x,), place, **sizes, **setting)


def check(
    found: dict[str, Estimate], approximation: Tensor, amortisation: Tensor, left: float = 1e-6
) -> None:
    r"""Averages are within 4 errors (1 in 10,000 tests fails), data within 6 of each's share.

    Beside errors there is what few steps of training have ``left`` to find.
    """
    expected = dict(
        zip(PARTS, (approximation + amortisation, approximation, amortisation), strict=True)
    )
    assert tuple(found) == (*PARTS, "gap.khat")
    for name, truth in expected.items():
        truth = truth.expand(len(found[name].per_datum))
        error = found[name].stderr
        assert abs(float(found[name]) - truth.mean()) <= 4 * error + left, name
        each = 6 * error * math.sqrt(len(truth)) + 10 * left
        assert ((found[name].per_datum - truth).abs() <= each).all(), name


class Exact:
    r"""Probabilistic PCA with a posterior that has correlations."""

    def __init__(self) -> None:
        self.W, self.b = torch.randn(F, D), torch.randn(F)
        self.W[:, 1] += 0.5 * self.W[:, 0]
        self.precision = (self.W.T @ self.W + VAR * torch.eye(D)) / VAR
        self.A = torch.linalg.inv(self.precision) @ self.W.T / VAR
        self.model = VAE((F,), D, Normal(math.sqrt(VAR)), decoder=affine(self.W, self.b))
        self.x = torch.randn(N, F)
        self.posterior = dist.MultivariateNormal(
            (self.x - self.b) @ self.A.T, precision_matrix=self.precision.expand(N, D, D)
        )
        # what the best normal with independent features lacks
        diagonal = self.precision.diagonal().log().sum()
        self.mean_field = (diagonal - torch.logdet(self.precision)) / 2

    def guide(self, family: Any, raw: Tensor) -> Any:
        r"""A guide whose mean is off by more where the data are larger."""
        weight = torch.cat([1.2 * self.A, torch.zeros(len(raw), F)])
        encoder = affine(weight, torch.cat([0.2 - self.A @ self.b, raw]))
        return family((F,), {"z": D}, encoder)

    def divergence(self, guide: Any) -> Tensor:
        q = poutine.trace(guide).get_trace(self.x).nodes["z"]["fn"]
        if isinstance(q, dist.Independent):
            q = dist.MultivariateNormal(q.mean, q.variance.diag_embed())
        return kl_divergence(q, self.posterior).detach()


def test_a_family_that_holds_the_posterior_has_no_approximation_gap() -> None:
    case = Exact()
    guide = case.guide(AmortizedMultivariateNormal, torch.tensor([0.1, -0.2, 0.05]))
    found = split(case.model, guide, case.x, steps=300)

    check(found, torch.zeros(N), case.divergence(guide))
    assert found["gap.approximation"].stderr < 1e-6  # the best is found, which has no variance
    assert found["gap.approximation"].unit == "nats"
    assert all(p.grad is None for p in (*case.model.parameters(), *guide.parameters()))


def test_independent_features_lack_the_correlations() -> None:
    case = Exact()
    guide = case.guide(AmortizedNormal, torch.tensor([0.1, -0.2]))
    found = split(case.model, guide, case.x, particles=2000)

    assert case.mean_field > 10 * found["gap.approximation"].stderr
    check(found, case.mean_field, case.divergence(guide) - case.mean_field)


def test_an_encoder_at_the_best_has_no_amortisation_gap() -> None:
    case = Exact()
    raw = inverse_positive(case.precision.diagonal().rsqrt())
    encoder = affine(torch.cat([case.A, torch.zeros(D, F)]), torch.cat([-case.A @ case.b, raw]))
    guide = AmortizedNormal((F,), {"z": D}, encoder)

    check(split(case.model, guide, case.x, particles=2000), case.mean_field, torch.zeros(()))


def test_batches_keep_the_order_of_data() -> None:
    case = Exact()
    guide = case.guide(AmortizedMultivariateNormal, torch.tensor([0.1, -0.2, 0.05]))
    found = split(case.model, guide, case.x, batch_size=4, particles=4000)

    truth, error = case.divergence(guide), found["gap"].stderr
    assert truth.std() > 6 * error  # so that another order would show
    check(found, torch.zeros(N), truth, left=5e-3)


def test_errors_are_those_of_repetitions() -> None:
    r"""The spread of 40 repetitions has a relative error of 11 %: 5 of them, 1 in 2 million."""
    case = Exact()
    guide = case.guide(AmortizedNormal, torch.tensor([0.1, -0.2]))
    setting = {"particles": 200, "steps": 3}
    runs = [split(case.model, guide, case.x, **setting, seed=seed) for seed in range(40)]

    for name in PARTS:
        spread = torch.tensor([float(run[name]) for run in runs]).std().item()
        stated = sum(run[name].stderr for run in runs) / len(runs)
        assert 0.45 < spread / stated < 1.55, name


def test_errors_know_that_a_weight_and_its_logarithm_move_together() -> None:
    r"""Weights with light tails, at the best guide: then most of the error of each cancels.

    The spread is known to 11 %; it is a third of the error that takes both to be independent.
    """

    def correlated(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            factor = torch.tensor([[1.0, 0.0], [0.25, 1.0]])
            z = pyro.sample("z", dist.MultivariateNormal(x.new_zeros(2), scale_tril=factor))
            pyro.sample("x", dist.Normal(z.sum(-1) * 0, 1.0), obs=x)

    def best(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            scale = torch.tensor([(1 + 0.25**2) ** -0.5, 1.0])  # of one given the other
            pyro.sample("z", dist.Normal(x.new_zeros(2), scale).to_event(1))

    x, setting = torch.zeros(N), {"particles": 200, "steps": 1}
    runs = [split(correlated, best, x, **setting, seed=seed) for seed in range(40)]
    found = [run["gap.approximation"] for run in runs]

    spread = torch.tensor([float(each) for each in found]).std().item()
    stated = sum(each.stderr for each in found) / len(found)
    assert 0.45 < spread / stated < 1.55


def normals(correlation: float, scale: float) -> tuple[Any, Any]:
    r"""A posterior with correlations, and normals without, of other widths than the best."""
    factor = torch.tensor([[1.0, 0.0], [correlation, math.sqrt(1 - correlation**2)]])

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.MultivariateNormal(x.new_zeros(2), scale_tril=factor))
            pyro.sample("x", dist.Normal(z.sum(-1) * 0, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            best = math.sqrt(1 - correlation**2)
            pyro.sample("z", dist.Normal(x.new_zeros(2), scale * best).to_event(1))

    return model, guide


@pytest.mark.parametrize(
    "correlation, scale, low, high", [(0.97, 1.0, 0.7, 1), (0.2, 1.0, 0, 0.03), (0.2, 0.3, 0, 0.03)]
)
def test_shapes_are_those_of_the_best_posterior(
    correlation: float, scale: float, low: float, high: float
) -> None:
    r"""Weights of normals without correlations have moments below 1 / correlation, thus a shape of
    the correlation; those of the guide itself, where it is too narrow, 0.93 and above.

    A shape of 100 largest weights has an error of at most 0.2: above 0.7 are 9 in 10 or more of
    those of 0.97 (fewer than 7 in 10 of 40: 1 in 10,000), and 1 in 100,000 of those of 0.2.
    """
    model, guide = normals(correlation, scale)
    found = split(model, guide, torch.zeros(40), particles=2000, steps=200)

    share = found["gap.khat"]
    assert low <= share <= high
    assert share.unit == "of the data"
    assert share == (share.per_datum > 0.7).double().mean()


def test_one_particle_has_no_error() -> None:
    case = Exact()
    guide = case.guide(AmortizedNormal, torch.zeros(2))
    found = split(case.model, guide, case.x, particles=1, steps=3)

    assert found["gap.approximation"] == 0
    assert all(math.isnan(found[name].stderr) for name in PARTS)


def chain(x: Tensor) -> None:
    r"""z1 -> z2 -> x."""
    with pyro.plate("data", x.shape[0], dim=-1):
        z1 = pyro.sample("z1", dist.Normal(x.new_zeros(()), 1.0))
        z2 = pyro.sample("z2", dist.Normal(z1, 0.5))
        pyro.sample("x", dist.Normal(z2, 0.7), obs=x)


PRECISION = torch.tensor([[1 + 4.0, -4.0], [-4.0, 4 + 1 / 0.49]], dtype=torch.float64)


@pytest.mark.parametrize("slope", [0.3, None])
def test_dependent_sites_keep_their_dependence(slope: float | None) -> None:
    r"""q(z1 | x) q(z2 | x, z1), whose slope in z1 is that of the posterior, or not."""
    a = float(-PRECISION[0, 1] / PRECISION[1, 1]) if slope is None else slope

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", dist.Normal(0.1 * x, 1.0))
            pyro.sample("z2", dist.Normal(a * z1 + 0.2, 0.4))

    x = torch.randn(N)
    means = torch.linalg.solve(PRECISION, torch.stack([0 * x, x / 0.49])).T
    factor = torch.tensor([[1.0, 0.0], [a, 0.4]])
    q = dist.MultivariateNormal(
        torch.stack([0.1 * x, 0.1 * a * x + 0.2], -1), scale_tril=factor.expand(N, 2, 2)
    )
    divergence = kl_divergence(q, dist.MultivariateNormal(means, precision_matrix=PRECISION))
    # the best variances are one over the curvatures along (1, a) and (0, 1)
    along = torch.tensor([1.0, a])
    curvatures = torch.stack([along @ PRECISION @ along, PRECISION[1, 1]])
    best = (curvatures.log().sum() - torch.logdet(PRECISION)) / 2

    assert (best > 0.05) == (slope is not None)
    check(split(chain, guide, x, particles=2000, steps=300), best, divergence - best)


def positive(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.LogNormal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z.log(), 1.0), obs=x)


def log_normal(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", dist.LogNormal(0.3 * x, 1.0))


def helper_and_delta(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        u = pyro.sample("u", dist.Normal(0.3 * x, 1.0), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Delta(u.exp(), log_density=-u))


@pytest.mark.parametrize("guide", [log_normal, helper_and_delta])
def test_positive_latents(guide: Callable[[Tensor], None]) -> None:
    x = torch.randn(N)
    truth = kl_divergence(dist.Normal(0.3 * x, 1.0), dist.Normal(x / 2, math.sqrt(0.5)))

    check(split(positive, guide, x), torch.zeros(N), truth)


def test_rates_that_are_gamma() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), 1.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("rate", dist.Gamma(1 + x, x.new_tensor(1.5)))

    x = torch.tensor([0.0, 3.0, 8.0])
    truth = kl_divergence(dist.Gamma(1 + x, torch.tensor(1.5)), dist.Gamma(2 + x, 2.0))

    found = split(model, guide, x, steps=400)
    assert found["gap.approximation"] < 1e-4  # of a constant gradient nothing is left but noise
    check(found, torch.full((3,), float(found["gap.approximation"])), truth)


def test_without_a_data_plate_all_data_are_one_datum() -> None:
    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
        fn = dist.Normal(mu.unsqueeze(-1), 1.0).expand((*mu.shape, len(x))).to_event(1)
        pyro.sample("x", fn, obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))

    x = torch.randn(N)
    posterior = dist.Normal(x.sum() / (N + 1), 1 / math.sqrt(N + 1))
    truth = kl_divergence(dist.Normal(torch.tensor(0.0), 1.0), posterior)

    found = split(model, guide, x, batch_size=2)
    check(found, torch.zeros(1), truth)
    assert found["gap"].unit == "nats (all data)"


P, Q = torch.rand(3, 2, dtype=torch.float64) + 0.2, torch.rand(3, 2, dtype=torch.float64) + 0.2
FAMILIES = {
    "Normal": (dist.Normal(P, Q).to_event(1), {"loc", "scale"}),
    "masked": (dist.Normal(P, Q).mask(P > 0.5).to_event(1), {"loc", "scale"}),
    "LogNormal": (dist.LogNormal(P, Q), {"loc", "scale"}),
    "Laplace": (dist.Laplace(P, Q), {"loc", "scale"}),
    "StudentT": (dist.StudentT(P, P, Q), {"df", "loc", "scale"}),
    "Gamma": (dist.Gamma(P, Q), {"concentration", "rate"}),
    "Beta": (dist.Beta(P, Q), {"concentration1", "concentration0"}),
    "AffineBeta": (dist.AffineBeta(P, Q, 0.0, 2.0), {"concentration1", "concentration0"}),
    "Dirichlet": (dist.Dirichlet(P), {"concentration"}),
    "relaxed": (dist.RelaxedOneHotCategorical(torch.tensor(0.5), probs=P), {"logits"}),
    "full": (
        dist.MultivariateNormal(P, torch.diag_embed(Q) + 0.1 * torch.ones(2, 2)),
        {"loc", "scale_tril"},
    ),
    "low rank": (
        dist.LowRankMultivariateNormal(P, P[..., None], Q),
        {"loc", "cov_factor", "cov_diag"},
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_made_again_and_move(name: str) -> None:
    fn, expected = FAMILIES[name]
    torch.manual_seed(0)
    value = fn.sample()
    offsets = offsets_of({"z": {"fn": fn, "value": value}})
    assert set(offsets["z"]) == expected

    def log_density(offsets: dict[str, dict[str, Tensor]]) -> Tensor:
        def guide() -> None:
            pyro.sample("z", fn)

        replayed = poutine.condition(Freed(offsets)(guide), data={"z": value})
        return poutine.trace(replayed).get_trace().nodes["z"]["fn"].log_prob(value)

    torch.testing.assert_close(log_density(offsets), fn.log_prob(value), rtol=1e-6, atol=1e-6)
    for key in expected:
        moved = {**offsets["z"], key: offsets["z"][key] + torch.tensor([0.5, 0.2])}
        assert not torch.allclose(log_density({"z": moved}), fn.log_prob(value), atol=1e-3), key


def flat(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def drawing(fn: Callable[[Tensor], Any]) -> Callable[[Tensor], None]:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", fn(x))

    return guide


def scaled(x: Tensor) -> None:
    with poutine.scale(scale=0.5):
        drawing(lambda x: dist.Normal(x, 1.0))(x)


def flow(x: Tensor) -> Any:
    return dist.TransformedDistribution(dist.Normal(x, 1.0), [transforms.AffineTransform(0.0, 2.0)])


@pytest.mark.parametrize(
    "guide, match",
    [
        (drawing(flow), "parameters of their own to be free, got TransformedDistribution at 'z'"),
        (drawing(lambda x: dist.Uniform(x - 9, x + 9)), "free, got Uniform at 'z'"),
        (drawing(lambda x: dist.Poisson(x.abs())), "reparametrised .* got Poisson at 'z'"),
        (drawing(dist.Delta), r"for the metric 'gap', got point estimates at \['z'\]"),
        (scaled, "no poutine.scale"),
        (drawing(lambda x: dist.Normal(x * math.inf, 1.0, validate_args=False)), "finite log-"),
    ],
)
def test_errors(guide: Callable[[Tensor], None], match: str) -> None:
    with pytest.raises(ValueError, match=match), pyro.validation_enabled(False):
        split(flat, guide, 1 + torch.rand(3))


def test_global_latents_are_refused() -> None:
    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))

    with pytest.raises(ValueError, match=r"local latents only .* \['mu'\]"):
        split(model, guide, torch.randn(3))
