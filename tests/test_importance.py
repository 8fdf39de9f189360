r"""Importance-weighted bounds: their values and their order, on probabilistic PCA."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import VAR, F, Linear, N
from pyro.infer import RenyiELBO
from scipy.special import logsumexp
from test_importance_pairs import FAMILY
from torch import Tensor, nn
from zoo import ZOO

from pyro_vae import SVI
from pyro_vae.draws import Draw
from pyro_vae.objectives import CIWAE, ELBO, IWAE, MIWAE, PIWAE, TVO, Objective, Renyi
from pyro_vae.pair import Pair
from pyro_vae.schedules import Linear as LinearSchedule


@pytest.fixture
def linear() -> Linear:
    return Linear()


def draw_of(linear: Linear, particles: int, rows: int = 1) -> Draw:
    x = linear.x.repeat(rows, 1)
    return Pair(linear.model, linear.guide).draw((x,), {}, particles)


def evidence(linear: Linear) -> Tensor:
    covariance = linear.W @ linear.W.T + VAR * torch.eye(F)
    return dist.MultivariateNormal(linear.b, covariance).log_prob(linear.x)


def spoiled(linear: Linear) -> Linear:
    r"""With a guide whose means are off and whose scale is too wide."""
    linear.guide.encoder.bias.data += torch.tensor([0.3, -0.3, 0.5, 0.5])
    return linear


# values from a draw's weights, with scipy


def iwae(log_w: np.ndarray) -> np.ndarray:
    return logsumexp(log_w, axis=0) - np.log(len(log_w))


def miwae(log_w: np.ndarray) -> np.ndarray:
    return np.mean([iwae(log_w[i::2]) for i in range(2)], axis=0)


def ciwae(log_w: np.ndarray) -> np.ndarray:
    return 0.3 * log_w.mean(0) + 0.7 * iwae(log_w)


def renyi(alpha: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda log_w: iwae((1 - alpha) * log_w) / (1 - alpha)


def tvo(log_w: np.ndarray) -> np.ndarray:
    def expectation(beta: float) -> np.ndarray:
        return (np.exp(beta * log_w) * log_w).sum(0) / np.exp(beta * log_w).sum(0)

    points = [0.0, *np.logspace(np.log10(0.2), 0, 4)]
    return sum((b - a) * expectation(a) for a, b in itertools.pairwise(points))


VALUES: dict[str, tuple[Any, Callable[[np.ndarray], np.ndarray]]] = {
    "IWAE": (lambda: IWAE(6), iwae),
    "IWAE, stl": (lambda: IWAE(6, "stl"), iwae),
    "IWAE, dreg": (lambda: IWAE(6, "dreg"), iwae),
    "MIWAE": (lambda: MIWAE(2, 3), miwae),
    "PIWAE": (lambda: PIWAE(2, 3), iwae),
    "CIWAE": (lambda: CIWAE(torch.tensor(0.3), 6), ciwae),
    "Renyi": (lambda: Renyi(torch.tensor(0.4), 6), renyi(0.4)),
    "Renyi, two": (lambda: Renyi(2, 6), renyi(2)),
    "Renyi, negative": (lambda: Renyi(-3, 6), renyi(-3)),
    "Renyi, zero": (lambda: Renyi(0, 6), iwae),
    "Renyi, one": (lambda: Renyi(1, 6), lambda log_w: log_w.mean(0)),
    "TVO": (lambda: TVO(6, partitions=4, first=0.2), tvo),
    "TVO, one interval": (lambda: TVO(6, partitions=1), lambda log_w: log_w.mean(0)),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_are_functions_of_the_weights(linear: Linear, name: str) -> None:
    objective, expected = VALUES[name][0](), VALUES[name][1]
    draw = draw_of(spoiled(linear), objective.particles)
    found = objective(draw).value.detach().numpy()
    np.testing.assert_allclose(found, expected(draw.log_weights.detach().numpy()), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [0.0, 1e-12, -1e-12, 1e-7, 1e-3, -1e-3, 0.3])
def test_renyi_is_right_around_one(linear: Linear, gap: float, dtype: torch.dtype) -> None:
    r"""To second order in 1 - alpha: mean, half a variance, a sixth of a third moment.

    The logarithm of a mean near one, divided by 1e-12, would be off by 1e-4; in float32 by 1e5.
    """
    draw = draw_of(spoiled(linear), 6)
    log_w = draw.log_weights.detach()
    draw.__dict__["log_weights"] = leaf = log_w.to(dtype).requires_grad_()
    bound = Renyi(1 - torch.tensor(gap, dtype=torch.float64), 6)(draw)
    (gradient,) = torch.autograd.grad(bound.value.sum(), leaf)

    c = log_w - log_w.mean(0)
    series = log_w.mean(0) + gap * c.square().mean(0) / 2 + gap**2 * (c**3).mean(0) / 6
    rounding = 1e-12 if dtype == torch.float64 else 1e-5
    error = 10 * abs(gap) ** 3 * c.abs().amax(0) ** 4 + rounding
    assert ((bound.value - series).abs() < error).all()
    weights = (gap * log_w).softmax(0).to(dtype)
    torch.testing.assert_close(gradient, weights, rtol=10 * rounding, atol=10 * rounding)


def test_a_particle_of_weight_zero_leaves_the_others(linear: Linear) -> None:
    draw = draw_of(linear, 3)
    log_w = draw.log_weights.detach().clone()
    log_w[0] = -math.inf
    draw.__dict__["log_weights"] = leaf = log_w.requires_grad_()
    bound = Renyi(0, 3)(draw).value
    (gradient,) = torch.autograd.grad(bound.sum(), leaf)

    torch.testing.assert_close(bound, (log_w[1:].exp().sum(0) / 3).log())
    torch.testing.assert_close(gradient, log_w.softmax(0))


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 3.0])
def test_weights_may_lie_thousands_of_nats_apart(linear: Linear, alpha: float) -> None:
    r"""As those of images do: none of their powers is a number of the machine's."""
    draw = draw_of(linear, 3)
    log_w = 5000 * torch.randn(3, N) - 10_000
    draw.__dict__["log_weights"] = leaf = log_w.clone().requires_grad_()
    bound = Renyi(torch.tensor(alpha), 3)(draw).value
    (gradient,) = torch.autograd.grad(bound.sum(), leaf)

    np.testing.assert_allclose(bound.detach(), renyi(alpha)(log_w.numpy()), rtol=1e-12)
    torch.testing.assert_close(gradient, ((1 - alpha) * log_w).softmax(0))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_bounds_are_pyros_on_the_same_noise(linear: Linear, alpha: float) -> None:
    r"""Of one datum: Pyro's sums a batch before it takes the logarithm."""
    model, guide, x = spoiled(linear).model, linear.guide, linear.x[:1]
    theirs = RenyiELBO(alpha, num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    pair = Pair(model, guide)
    pair.plan((x,), {})
    ours: list[Objective] = [Renyi(alpha, 5), *([IWAE(5)] if alpha == 0 else [])]
    for objective in ours:
        pyro.set_rng_seed(3)
        expected = -theirs.loss(model, guide, x)
        pyro.set_rng_seed(3)
        assert objective(pair.draw((x,), {}, 5)).value.item() == pytest.approx(expected, rel=1e-6)


def test_the_evidence_bounds_the_bounds_in_their_order(linear: Linear) -> None:
    r"""4,000 draws of each datum: each gap exceeds 4 standard errors, fails for 3e-5 of seeds."""
    exact, rows = evidence(spoiled(linear)).sum(), 4000
    objectives = [ELBO("sampled", particles=5), Renyi(0.5, 5), IWAE(5), IWAE(50)]
    means, errors = [], []
    for objective in objectives:
        with torch.no_grad():
            value = objective(draw_of(linear, objective.particles, rows)).value
        total = value.unflatten(0, (rows, N)).sum(1)
        means.append(total.mean())
        errors.append(total.std() / math.sqrt(rows))
    means, errors = [*means, exact], [*errors, torch.zeros(())]
    for i in range(len(objectives)):
        assert means[i + 1] - means[i] > 4 * (errors[i] + errors[i + 1])


def test_both_derivations_of_the_elbo_agree(linear: Linear) -> None:
    r"""E[log p(x, z)] + H[q] = log p(x) - KL(q | posterior) = E[log p(x | z)] - KL(q | prior)."""
    spoiled(linear)
    loc, raw = linear.guide.encoder(linear.x).chunk(2, -1)
    q = dist.Normal(loc, nn.functional.softplus(raw) + 1e-6).to_event(1)
    p = dist.Normal(linear.means, torch.tensor(linear.scale)).to_event(1)
    kl = torch.distributions.kl_divergence
    exact = (evidence(linear) - kl(q, p)).sum()
    rows = 20_000
    draw = draw_of(linear, 1, rows)
    joint = draw.log_joint[0].unflatten(0, (rows, N)).sum(1) + q.entropy().sum()
    analytic = ELBO("analytic")(draw).value.unflatten(0, (rows, N)).sum(1)
    for total in (joint, analytic):
        assert (total.mean() - exact).abs() < 4 * total.std() / math.sqrt(rows)


@pytest.mark.parametrize("name", [*FAMILY, "ELBO, stl"])
def test_encoder_gradients_at_the_posterior(linear: Linear, name: str) -> None:
    r"""Without the derivative of the guide's density nothing is left of them, on every draw."""
    objective = ELBO(gradient="stl") if name == "ELBO, stl" else FAMILY[name]()
    draw = draw_of(linear, objective.particles)
    bound = objective(draw)
    torch.testing.assert_close(bound.value, evidence(linear), rtol=1e-10, atol=1e-10)
    (gradient,) = torch.autograd.grad(bound.guide, linear.guide.encoder.weight)
    still = "stl" in name or "dreg" in name
    assert gradient.abs().max() < 1e-13 if still else gradient.abs().max() > 1e-3


def test_the_thermodynamic_sum_rises_to_the_evidence(linear: Linear) -> None:
    r"""Each draw lies below that of IWAE; the sum of width 1/500 is off by 1/500 of a range."""
    draw = draw_of(spoiled(linear), 20_000)
    weights = draw.log_weights
    values = [TVO(20_000, partitions, 0.02)(draw).value for partitions in (1, 2, 5, 20, 500)]
    highest = IWAE(20_000)(draw).value
    torch.testing.assert_close(values[0], weights.mean(0))
    for lower, higher in zip(values, [*values[1:], highest], strict=True):
        assert (lower < higher).all()
    assert (highest - values[-1] < 0.05).all()
    w = weights.softmax(0)
    error = (w.square().sum(0) - 1 / 20_000).sqrt()  # of the logarithm of a mean
    assert ((highest - evidence(linear)).abs() < 4 * error).all()


def test_numbers_may_be_scheduled() -> None:
    model, guide, batch = ZOO["vae"]()
    for objective, name in (
        (CIWAE(LinearSchedule(1, 0, length=2), 3), "beta"),
        (Renyi(LinearSchedule(1, 0, length=2), 3), "alpha"),
    ):
        svi = SVI(model, guide, partial(torch.optim.SGD, lr=0.0), objective, reduction="mean")
        found = [svi.step_with_metrics(*batch)[1] for _ in range(3)]
        numbers = [metrics[f"objective.{name}"].item() for metrics in found]
        assert numbers == [1.0, 0.5, 0.0]
        draw = svi.pair.draw(batch, {}, 3)
        torch.testing.assert_close(objective(draw).value, IWAE(3)(draw).value)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: IWAE(0), ValueError, "k of at least 1, got 0"),
        (lambda: IWAE(2, "dregs"), ValueError, "gradient to be one of .* got 'dregs'"),
        (lambda: MIWAE(0, 2), ValueError, "m of at least 1, got 0"),
        (lambda: PIWAE(2, 1.5), TypeError, "k to be an integer, got 1.5"),
        (lambda: CIWAE(1.5), ValueError, "beta to be between 0 and 1, got 1.5"),
        (lambda: CIWAE(LinearSchedule(0, 2)), ValueError, "beta to be between 0 and 1, got 2"),
        (lambda: CIWAE(0.5, 0), ValueError, "k of at least 1, got 0"),
        (lambda: Renyi(math.inf), ValueError, "alpha to be finite, got inf"),
        (lambda: Renyi("one"), TypeError, "alpha to be a number or a schedule"),
        (lambda: Renyi(0.5, 0), ValueError, "k of at least 1, got 0"),
        (lambda: TVO(1), ValueError, "k of at least 2, .* got 1"),
        (lambda: TVO(5, 0), ValueError, "partitions of at least 1, got 0"),
        (lambda: TVO(5, 2, 1.0), ValueError, "first to lie between 0 and 1, .* got 1.0"),
    ],
)
def test_arguments_out_of_range(make: Callable[[], Any], error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        make()
