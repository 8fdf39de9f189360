r"""Gradients of importance-weighted bounds against those of integrals, and what noise they have."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from rowwise import MODELS, Quadrature, check_mean, row_gradients
from torch import Tensor, nn

from pyro_vae.draws import Draw
from pyro_vae.objectives import CIWAE, ELBO, IWAE, MIWAE, PIWAE, TVO, Objective, Renyi
from pyro_vae.pair import Pair

ROWS = 20_000

Term = Callable[[Tensor], Tensor]  # of log-weights with shape (2, P, P)


def mean(log_w: Tensor) -> Tensor:
    return log_w.mean(0)


def log_mean(log_w: Tensor) -> Tensor:
    return log_w.exp().mean(0).log()


def combined(log_w: Tensor) -> Tensor:
    return 0.3 * log_w.mean(0) + 0.7 * log_w.exp().mean(0).log()


def powers(log_w: Tensor) -> Tensor:
    return (0.6 * log_w).exp().mean(0).log() / 0.6


# the estimator, the bound of its value and the model's gradient, that of the guide's
UNBIASED: dict[str, tuple[Objective, Term, Term]] = {
    "ELBO": (ELBO("sampled", particles=2), mean, mean),
    "ELBO, stl": (ELBO(particles=2, gradient="stl"), mean, mean),
    "IWAE": (IWAE(2), log_mean, log_mean),
    "IWAE, dreg": (IWAE(2, "dreg"), log_mean, log_mean),
    "MIWAE": (MIWAE(3, 2), log_mean, log_mean),
    "PIWAE": (PIWAE(2, 1), log_mean, mean),
    "CIWAE": (CIWAE(0.3, 2), combined, combined),
    "Renyi": (Renyi(0.4, 2), powers, powers),
    "Renyi, one": (Renyi(1.0, 2), mean, mean),
    "TVO, one interval": (TVO(2, partitions=1), mean, mean),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", UNBIASED)
def test_gradients_are_those_of_the_bound(name: str, model: str) -> None:
    r"""Means of 20,000 rows; a row of three to five numbers fails for 3e-4 of the seeds."""
    objective, value, guide = UNBIASED[name]
    exact = Quadrature(model)
    theirs, *_ = exact.gradients(value(exact.log_weights))
    _, *ours = exact.gradients(guide(exact.log_weights))

    values, of_model, of_guide = row_gradients(MODELS[model][0], objective, ROWS)
    check_mean(values, (exact.weights * value(exact.log_weights)).sum().detach())
    check_mean(of_model, theirs)
    for found, expected in zip(of_guide, ours, strict=True):
        check_mean(found, expected)


@pytest.mark.parametrize("gradient", ["pathwise", "stl"])
def test_gradients_of_a_weighted_divergence_are_unbiased(gradient: Any) -> None:
    r"""Means of 20,000 rows; what ``stl`` leaves out has mean zero whatever its weight."""
    exact, beta = Quadrature("linear"), 4.0
    log_q = exact.log_guide(exact.z, exact.loc, exact.scale)
    log_prior = -exact.z.square() / 2 - math.log(2 * math.pi) / 2
    log_likelihood = exact.log_joint(exact.z, exact.parameter) - log_prior
    theirs, *ours = exact.gradients((log_likelihood - beta * (log_q - log_prior)).mean(0))

    objective = ELBO("sampled", particles=2, beta=beta, gradient=gradient)
    _, of_model, of_guide = row_gradients(MODELS["linear"][0], objective, ROWS)
    check_mean(of_model, theirs)
    for found, expected in zip(of_guide, ours, strict=True):
        check_mean(found, expected)


@pytest.mark.parametrize("model", MODELS)
def test_stl_of_several_particles_is_biased_as_it_must_be(model: str) -> None:
    r"""Its mean is that of the normalised weights' gradient along the path, not the bound's."""
    exact = Quadrature(model)
    fixed = exact.log_guide(exact.z, exact.loc.detach(), exact.scale.detach())
    stopped = exact.log_joint(exact.z, exact.parameter) - fixed
    w = exact.log_weights.detach().softmax(0)
    theirs, *ours = exact.gradients((w * stopped).sum(0))
    _, *unbiased = exact.gradients(log_mean(exact.log_weights))

    _, of_model, of_guide = row_gradients(MODELS[model][0], IWAE(2, "stl"), ROWS)
    check_mean(of_model, theirs)
    for found, expected, other in zip(of_guide, ours, unbiased, strict=True):
        check_mean(found, expected)
        assert (found.mean() - other).abs() > 8 * found.std() / math.sqrt(ROWS)


def tvo_terms(
    objective: TVO, log_p: Tensor, log_q: Tensor, gradients: Callable[[Tensor], list[Tensor]]
) -> tuple[Tensor, list[Tensor]]:
    r"""The paper's sum and its gradient's expectation, from two particles' densities (2, ...)."""
    f, total, grads = (log_p - log_q).detach(), torch.zeros(()), []
    for beta, end in itertools.pairwise(objective.points.tolist()):
        w = (beta * f).exp() / (beta * f).exp().sum(0)
        total = total + (end - beta) * (w * f).sum(0)
        tempered = beta * log_p + (1 - beta) * log_q
        # Cov[a, b] = E[a b] - E[a] E[b], times K / (K - 1)
        covariance = (w * tempered * f).sum(0) - (w * tempered).sum(0) * (w * f).sum(0)
        grads.append(gradients((end - beta) * ((w * (log_p - log_q)).sum(0) + 2 * covariance)))
    return total, [sum(parts[1:], parts[0]) for parts in zip(*grads, strict=True)]


@pytest.mark.parametrize("model", MODELS)
def test_thermodynamic_gradients_are_the_papers(model: str) -> None:
    r"""Means of 20,000 rows against the covariance formula's expectation, by quadrature."""
    objective = TVO(2, partitions=4, first=0.2)
    exact = Quadrature(model)
    z = exact.z.detach()  # densities at values that count as given
    log_p, log_q = exact.log_joint(z, exact.parameter), exact.log_guide(z, exact.loc, exact.scale)

    def gradients(term: Tensor) -> list[Tensor]:
        return exact.gradients(term)

    value, (theirs, *ours) = tvo_terms(objective, log_p, log_q, gradients)
    values, of_model, of_guide = row_gradients(MODELS[model][0], objective, ROWS)
    check_mean(values, (exact.weights * value).sum())
    check_mean(of_model, theirs)
    for found, expected in zip(of_guide, ours, strict=True):
        check_mean(found, expected)


class Bit(PyroModule):
    r"""z ~ B(0.4), x ~ N(shift z, 1)."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.full((rows,), 1.5))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Bernoulli(x.new_tensor(0.4)))
            pyro.sample("x", dist.Normal(self.shift * z, 1.0), obs=x)


class BitGuide(PyroModule):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.full((rows,), 0.3))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=self.logit))


@pytest.mark.parametrize("partitions", [1, 3])
def test_thermodynamic_gradients_of_a_bit(partitions: int) -> None:
    r"""Two particles of one bit, all four outcomes summed: 20,000 rows within 4 standard errors."""
    objective = TVO(2, partitions)
    shift, logit = (torch.tensor(v, requires_grad=True) for v in (1.5, 0.3))
    z = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2))).T  # (2, 4)
    prior = dist.Bernoulli(torch.tensor(0.4)).log_prob(z)
    log_p = prior + dist.Normal(shift * z, 1.0).log_prob(torch.tensor(1.2))
    log_q = dist.Bernoulli(logits=logit).log_prob(z)
    weights = log_q.sum(0).exp().detach()

    def gradients(term: Tensor) -> list[Tensor]:
        total = (weights * term).sum()
        return list(torch.autograd.grad(total, [shift, logit], retain_graph=True))

    value, expected = tvo_terms(objective, log_p, log_q, gradients)
    model, guide, x = Bit(ROWS), BitGuide(ROWS), torch.full((ROWS,), 1.2)
    pair = Pair(model, guide)
    layout = pair.plan((x,), {}).layout
    bound = objective(Draw(model, guide, (x,), {}, layout, 2, pathwise=False))
    found = torch.autograd.grad(ROWS * bound.model, [model.shift, guide.logit])

    assert bound.guide is bound.model
    check_mean(bound.value.detach(), (weights * value).sum())
    for draws, exact in zip(found, expected, strict=True):
        check_mean(draws, exact)


def signal_to_noise(gradient: Any, k: int) -> float:
    _, _, (loc, _) = row_gradients(MODELS["linear"][0], IWAE(k, gradient), ROWS)
    return (loc.mean().abs() / loc.std()).item()


def test_signal_of_dreg_grows_where_that_of_iwae_is_lost() -> None:
    r"""Seen with 1, 10 and 100 particles: IWAE 0.37, 0.09 and 0.04, DReG 1.0, 2.0 and 6.4.

    Of 20,000 rows the standard error is sqrt((1 + r^2 / 2) / N), 0.007 to 0.03: each factor
    below is at least four away.
    """
    standard = [signal_to_noise("standard", k) for k in (1, 10, 100)]
    dreg = [signal_to_noise("dreg", k) for k in (1, 10, 100)]
    assert standard[0] > 2 * standard[1] > 2 * 1.2 * standard[2]
    assert dreg[2] > 2 * dreg[1] > 2 * 1.5 * dreg[0]
