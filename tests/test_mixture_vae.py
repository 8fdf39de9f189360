r"""The VAE with a mixture prior where its decoder is linear: a mixture of Gaussians in closed form.

.. math::
    p(x) = \sum_c \pi_c \, \mathcal{N}(W \mu_c + b, W \, \text{diag} \, \sigma^2_c W^\top + v I)
"""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import VAR
from linear import Linear as Standard
from pyro import poutine
from test_ppca import affine, inverse_positive
from torch import Tensor, nn

from pyro_vae import evaluate, responsibilities
from pyro_vae.em import GaussianMixture
from pyro_vae.guides import AmortizedNormal
from pyro_vae.likelihoods import Normal, NormalPredictedScale
from pyro_vae.models import MixtureVAE
from pyro_vae.pair import Pair

N, F, D, K = 7, 5, 2, 3


class Linear:
    r"""A mixture VAE with a linear decoder, and its evidence and posterior."""

    def __init__(self) -> None:
        self.W, self.b = torch.randn(F, D), torch.randn(F)
        decoder = affine(self.W, self.b)
        self.model = MixtureVAE((F,), D, K, Normal(math.sqrt(VAR)), decoder)
        self.weights = torch.tensor([0.2, 0.5, 0.3])
        self.locs, self.scales = 2 * torch.randn(K, D), 0.3 + torch.rand(K, D)
        self.model.begin_at(self.weights, self.locs, self.scales.square())
        prior = self.scales.square().diag_embed()
        means = self.locs @ self.W.T + self.b
        covariances = self.W @ prior @ self.W.T + VAR * torch.eye(F)
        self.components = dist.MultivariateNormal(means, covariances)
        self.covariances = (prior.inverse() + self.W.T @ self.W / VAR).inverse()
        self.x = torch.randn(N, F) @ torch.randn(F, F)

    def joint(self, x: Tensor) -> Tensor:
        r"""log p(x, c), with shape (N, K)."""
        return self.components.log_prob(x.unsqueeze(-2)) + self.weights.log()

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        r"""p(z | x), a mixture of Gaussians for each datum."""
        precise = self.locs / self.scales.square() + ((x - self.b) @ self.W / VAR).unsqueeze(-2)
        locs = (self.covariances @ precise.unsqueeze(-1)).squeeze(-1)  # (N, K, D)
        parts = dist.MultivariateNormal(locs, self.covariances.expand(*locs.shape, D))
        return dist.MixtureSameFamily(dist.Categorical(logits=self.joint(x)), parts)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", self.posterior(x))


def prior(model: MixtureVAE) -> dist.TorchDistribution:
    components = dist.Normal(model.locs, model.log_scales.exp()).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(logits=model.logits), components)


@pytest.mark.parametrize("particles", [1, 4])
def test_the_prior_of_z_is_the_mixture(particles: int) -> None:
    case = Linear()
    draw = Pair(case.model, AmortizedNormal((F,), {"z": D})).draw((case.x,), {}, particles)
    z = draw.values["z"]
    expected = (
        dist.Normal(case.locs, case.scales).log_prob(z.unsqueeze(-2)).sum(-1) + case.weights.log()
    ).logsumexp(-1)
    noise = dist.Normal(z @ case.W.T + case.b, math.sqrt(VAR)).log_prob(case.x).sum(-1)

    assert list(draw.log_prior) == ["z"]
    for exact in (expected, prior(case.model).log_prob(z)):
        torch.testing.assert_close(
            draw.log_prior["z"], exact.view(particles, N), rtol=1e-12, atol=1e-13
        )
    torch.testing.assert_close(draw.log_likelihood, noise.view(particles, N), rtol=1e-11, atol=0)


def test_every_particle_of_the_posterior_weighs_the_evidence() -> None:
    case = Linear()
    draw = Pair(case.model, case.guide).draw((case.x,), {}, 5)
    evidence = case.joint(case.x).logsumexp(-1).expand(5, N)
    torch.testing.assert_close(draw.log_weights, evidence, rtol=1e-11, atol=0)


def test_importance_sampling_finds_the_evidence() -> None:
    r"""Within 4.5 standard errors, beside which its bias of 3e-5 is small: 1 seed in 10^5."""
    case = Linear()
    posterior = case.posterior(case.x)
    outputs = torch.cat([posterior.mean, inverse_positive(2 * posterior.variance.sqrt())], -1)
    inputs = torch.cat([case.x, torch.ones(N, 1)], -1)
    solution = (torch.linalg.pinv(inputs) @ outputs).T  # a linear encoder that comes near
    guide = AmortizedNormal((F,), {"z": D}, affine(solution[:, :F], solution[:, F]))
    found = evaluate(case.model, guide, case.x, metrics=["nll"], particles=20_000)
    evidence = case.joint(case.x).logsumexp(-1).mean().item()
    assert found["nll"].stderr < 0.01
    assert abs(-float(found["nll"]) - evidence) < 4.5 * found["nll"].stderr


def test_gradients_of_the_prior_are_those_of_its_responsibilities() -> None:
    r"""As in the M-step: r_c (z - mu) / s^2, r_c ((z - mu)^2 / s^2 - 1) and r_c - pi_c."""
    case = Linear()
    draw = Pair(case.model, case.guide).draw((case.x,), {})
    draw.log_prior["z"].sum().backward()
    z = draw.values["z"].detach().unsqueeze(-2)
    white = (z - case.locs) / case.scales
    joint = dist.Normal(case.locs, case.scales).log_prob(z).sum(-1) + case.weights.log()
    r = joint.softmax(-1)  # (N, K)
    model = case.model

    expected = (r.unsqueeze(-1) * white / case.scales).sum(0)
    torch.testing.assert_close(model.locs.grad, expected, rtol=1e-9, atol=1e-12)
    expected = (r.unsqueeze(-1) * (white.square() - 1)).sum(0)
    torch.testing.assert_close(model.log_scales.grad, expected, rtol=1e-9, atol=1e-12)
    expected = r.sum(0) - N * case.weights
    torch.testing.assert_close(model.logits.grad, expected, rtol=1e-9, atol=1e-12)


def test_responsibilities_at_one_latent_are_those_of_the_prior() -> None:
    case, z = Linear(), torch.randn(N, D)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Delta(z, event_dim=1))

    joint = dist.Normal(case.locs, case.scales).log_prob(z.unsqueeze(1)).sum(-1)
    expected = (joint + case.weights.log()).softmax(-1)
    found = responsibilities(case.model, guide, case.x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


def test_responsibilities_average_over_the_posterior() -> None:
    r"""E p(c | z) is p(c | x): within 4.5 errors, of at most sqrt(r (1 - r) / S): 1 in 10^4."""
    case, S = Linear(), 2000
    expected = case.joint(case.x).softmax(-1)
    found = responsibilities(case.model, case.guide, case.x, particles=S)
    error = (expected * (1 - expected) / S).sqrt()
    assert ((found - expected).abs() < 4.5 * error + 1e-12).all()
    assert (expected.max(-1).values < 0.999).any()  # there is something to average


def test_one_standard_component_is_the_plain_vae() -> None:
    case = Standard()
    model = MixtureVAE((F,), D, 1, Normal(math.sqrt(VAR)), case.decoder)
    model.begin_at([1.0], torch.zeros(1, D), torch.ones(1, D))
    pyro.set_rng_seed(0)
    found = Pair(model, case.guide).draw((case.x,), {}, 3).log_weights
    pyro.set_rng_seed(0)
    expected = Pair(case.model, case.guide).draw((case.x,), {}, 3).log_weights
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)


def test_begins_at_a_fitted_mixture() -> None:
    z = torch.cat([torch.randn(40, D), 4 + 0.5 * torch.randn(60, D)])
    mixture = GaussianMixture(2, covariance_type="diag", random_state=0).fit(z)
    model = MixtureVAE((F,), D, 2)
    model.begin_at(mixture.weights_, mixture.means_, mixture.covariances_)
    draw = Pair(model, AmortizedNormal((F,), {"z": D})).draw((torch.ones(N, F),), {})
    expected = mixture.score_samples(draw.values["z"].detach())
    torch.testing.assert_close(draw.log_prior["z"][0].detach(), expected, rtol=1e-8, atol=1e-8)


def test_a_decoder_is_made_for_the_likelihood() -> None:
    made = []

    def maker(inputs: int, outputs: int, event_shape: torch.Size, parameters: int) -> nn.Module:
        made.append((inputs, outputs, event_shape, parameters))
        return nn.Linear(inputs, outputs)

    model = MixtureVAE((2, F), D, K, NormalPredictedScale(), maker)
    assert made == [(D, 2 * 2 * F, torch.Size([2, F]), 2)]
    assert model(n=4).shape == (4, 2, F)
    assert MixtureVAE((2, F), D, K, NormalPredictedScale())(n=4).shape == (4, 2, F)


def test_components_begin_at_different_places() -> None:
    model = MixtureVAE((F,), D, K)
    assert (torch.cdist(model.locs, model.locs) + torch.eye(K) > 1e-3).all()
    torch.testing.assert_close(model.logits.softmax(0), torch.full((K,), 1 / K))


@pytest.mark.parametrize("component", [None, 1])
def test_generated_data_have_the_moments_of_the_mixture(component: int | None) -> None:
    r"""Of all components or of one, within 4.5 standard errors: 1 seed in 3,500 of 40 figures."""
    case, n = Linear(), 20_000
    model, weights = case.model, case.weights
    if component is not None:
        chosen = torch.full((n,), component)
        model = poutine.condition(model, data={"component": chosen})
        weights = torch.eye(K)[component]
    x, means = model(n=n).detach(), case.components.mean
    second = case.components.covariance_matrix + means.unsqueeze(-1) * means.unsqueeze(-2)
    products = x.unsqueeze(-1) * x.unsqueeze(-2)
    for found, each in ((x, means), (products, second)):
        exact = torch.tensordot(weights, each, 1)
        assert ((found.mean(0) - exact).abs() < 4.5 * found.std(0) / math.sqrt(n)).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"weights": torch.ones(2)}, r"weights with shape \(3,\), got \(2,\): .*n_components=3"),
        ({"means": torch.ones(3, 1)}, r"means with shape \(3, 2\), got \(3, 1\)"),
        (
            {"variances": torch.eye(D).expand(3, D, D)},
            r"variances with shape \(3, 2\), got \(3, 2, 2\): .*covariance_type='diag'",
        ),
        (
            {"weights": [0.5, 0.5, 0.0]},
            r"weights that are positive and finite, got [\s\S]*: fit a mixture without",
        ),
        ({"variances": -torch.ones(3, 2)}, "variances that are positive and finite, got"),
        ({"variances": torch.full((3, 2), torch.inf)}, "variances that are positive and finite"),
        ({"means": torch.full((3, 2), torch.nan)}, "means that are finite, got"),
        ({"means": torch.full((3, 2), torch.inf)}, "means that are finite, got"),
    ],
)
def test_refused_mixtures(change: dict[str, Any], match: str) -> None:
    model = MixtureVAE((F,), D, K)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given = {"weights": torch.ones(K) / K, "means": torch.ones(K, D), "variances": [[1.0] * D] * K}
    with pytest.raises(ValueError, match=match):
        model.begin_at(**{**given, **change})
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"n_components": 0}, ValueError, "n_components of at least 1, got 0"),
        ({"n_components": 2.5}, TypeError, "n_components to be an integer, got 2.5"),
        ({"latents": 0}, ValueError, "z"),
        ({"decoder": 3}, TypeError, "a network"),
    ],
)
def test_refused_arguments(arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        MixtureVAE((F,), **arguments)
