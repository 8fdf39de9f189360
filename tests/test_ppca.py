r"""The VAE against probabilistic PCA, where the evidence and the posterior are known.

A new objective is a row of ``BOUNDS``; of ``GAPS`` too, if it is the plain ELBO.
"""

import math
from collections.abc import Callable
from functools import cache

import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_vae import evaluate
from pyro_vae.guides import AmortizedMultivariateNormal, AmortizedNormal
from pyro_vae.likelihoods import Normal, NormalLearnedScale, NormalPredictedScale
from pyro_vae.models import VAE
from pyro_vae.objectives import CIWAE, ELBO, IWAE, MIWAE, PIWAE, TVO, Objective, Renyi
from pyro_vae.pair import Pair

Guide = AmortizedNormal | AmortizedMultivariateNormal
Bound = Callable[[VAE, Guide, Tensor], float]

N, F, D, VAR = 7, 5, 2, 0.3


def of(elbo: pyro.infer.ELBO) -> Bound:
    return lambda model, guide, x: -elbo.loss(model, guide, x)


pair_of = cache(Pair)  # inspected once


def ours(objective: Objective) -> Bound:
    def bound(model: VAE, guide: Guide, x: Tensor) -> float:
        draw = pair_of(model, guide).draw((x,), {}, objective.particles)
        return objective(draw).value.sum().item()

    return bound


def importance_sampled(model: VAE, guide: Guide, x: Tensor) -> float:
    return -N * float(evaluate(model, guide, x, metrics=["nll"], particles=10)["nll"])


# Bounds on log p(x) of the whole batch.
BOUNDS = {
    "ELBO, sampled": ours(ELBO("sampled")),
    "ELBO, sampled, particles": ours(ELBO("sampled", particles=3)),
    "IWAE": ours(IWAE(3)),
    "IWAE, dreg": ours(IWAE(3, "dreg")),
    "MIWAE": ours(MIWAE(2, 3)),
    "PIWAE": ours(PIWAE(2, 3)),
    "CIWAE": ours(CIWAE(0.3, 3)),
    "Renyi": ours(Renyi(0.5, 3)),
    "TVO": ours(TVO(3)),
    "evaluate": importance_sampled,
    "Trace_ELBO": of(Trace_ELBO()),
    "Trace_ELBO, particles": of(Trace_ELBO(3, vectorize_particles=True, max_plate_nesting=1)),
    "RenyiELBO": of(RenyiELBO(alpha=0, num_particles=3)),
}
GAPS = {
    "ELBO": ours(ELBO()),
    "ELBO, analytic": ours(ELBO("analytic", particles=3)),
    "ELBO, sampled": BOUNDS["ELBO, sampled"],
    "Trace_ELBO": BOUNDS["Trace_ELBO"],
    "TraceMeanField_ELBO": of(TraceMeanField_ELBO()),
}


def affine(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def inverse_positive(scale: Tensor) -> Tensor:
    return (scale - 1e-6).expm1().log()


def posterior(guide: Guide, x: Tensor) -> dist.TorchDistribution:
    return poutine.trace(guide).get_trace(x).nodes["z"]["fn"]


@pytest.fixture(params=["diagonal", "full"])
def ppca(request: pytest.FixtureRequest) -> tuple[VAE, Guide, Tensor, Tensor]:
    r"""Draws x ~ N(b, W W^T + v I), whose posterior has covariance v (W^T W + v I)^-1."""
    W, b = torch.randn(F, D), torch.randn(F)
    if request.param == "diagonal":
        W = torch.linalg.qr(W).Q  # then W^T W = I, and the posterior is diagonal

    covariance = VAR * torch.linalg.inv(W.T @ W + VAR * torch.eye(D))
    A = covariance @ W.T / VAR
    L = torch.linalg.cholesky(covariance)
    raw = inverse_positive(L.diagonal())
    if request.param == "full":
        raw = torch.cat([raw, L[*torch.tril_indices(D, D, offset=-1)]])
    encoder = affine(torch.cat([A, torch.zeros(len(raw), F)]), torch.cat([-A @ b, raw]))

    model = VAE((F,), D, Normal(math.sqrt(VAR)), decoder=affine(W, b))
    family = AmortizedNormal if request.param == "diagonal" else AmortizedMultivariateNormal
    guide = family((F,), {"z": D}, encoder)
    x = model(n=N).detach()
    evidence = dist.MultivariateNormal(b, W @ W.T + VAR * torch.eye(F)).log_prob(x).sum()

    return model, guide, x, evidence


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
def test_bound_is_tight_at_the_posterior(ppca: tuple, bound: Bound) -> None:
    model, guide, x, evidence = ppca

    for _ in range(3):  # every draw equals the evidence: the estimator has no variance
        assert bound(model, guide, x) == pytest.approx(evidence.item(), rel=1e-9)


@pytest.mark.parametrize("bound", GAPS.values(), ids=GAPS)
def test_gap_is_the_divergence_from_the_posterior(ppca: tuple, bound: Bound) -> None:
    model, guide, x, evidence = ppca

    p = posterior(guide, x)
    guide.encoder.bias.data.add_(0.3)
    q = posterior(guide, x)
    kl = kl_divergence(q, p).sum()

    draws = torch.tensor([bound(model, guide, x) for _ in range(400)])
    stderr = draws.std() / math.sqrt(len(draws))

    assert kl > 10 * stderr
    assert abs(draws.mean() - (evidence - kl)) < 4 * stderr  # fails for 6e-5 of the seeds


def test_learned_scale_is_the_same_model(ppca: tuple) -> None:
    model, guide, x, evidence = ppca
    model.likelihood = NormalLearnedScale(math.sqrt(VAR))

    assert -Trace_ELBO().loss(model, guide, x) == pytest.approx(evidence.item(), rel=1e-9)


def test_predicted_scale_is_the_same_model(ppca: tuple) -> None:
    model, guide, x, evidence = ppca
    weight, bias = model.decoder.weight.data, model.decoder.bias.data
    raw = torch.full((F,), math.sqrt(VAR) - 1e-3).expm1().log()
    model.decoder = affine(torch.cat([weight, torch.zeros(F, D)]), torch.cat([bias, raw]))
    model.likelihood = NormalPredictedScale(floor=1e-3)

    assert -Trace_ELBO().loss(model, guide, x) == pytest.approx(evidence.item(), rel=1e-9)


def test_pyro_trains_every_parameter(ppca: tuple) -> None:
    model, guide, x, _ = ppca
    before = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]

    svi = SVI(model, guide, Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(3):
        svi.step(x)

    after = (*model.parameters(), *guide.parameters())
    assert all((p != q).any() for p, q in zip(before, after, strict=True))
