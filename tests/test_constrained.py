r"""Objectives that hold a term at a target: where they end is known for a linear model."""

import math
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from zoo import ZOO

from pyro_vae import SVI
from pyro_vae.objectives import ELBO, GECO, Capacity
from pyro_vae.pair import Pair
from pyro_vae.schedules import Linear

VAR = 0.1


class Source(PyroModule):
    r"""x ~ N(w z, VAR), z ~ N(0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.w * z, math.sqrt(VAR)), obs=x)


class Channel(PyroModule):
    r"""z ~ N(a x, s^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.5))
        self.log_s = nn.Parameter(torch.tensor(-0.5))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(self.a * x, self.log_s.exp()))


def source() -> Tensor:
    r"""400 data whose mean square is exactly one; only that counts."""
    return torch.tensor([1.0, -1.0]).repeat(200)


def moments(model: Source, guide: Channel) -> tuple[float, float]:
    r"""The divergence and the mean squared error, in closed form."""
    w, a, s = model.w, guide.a, guide.log_s.exp()
    divergence = (s.square() + a.square() - 1 - 2 * s.log()) / 2
    distortion = (1 - w * a).square() + (w * s).square()
    return divergence.item(), distortion.item()


def trained(objective: Any, steps: int) -> tuple[Source, Channel]:
    model, guide, x = Source(), Channel(), source()
    svi = SVI(model, guide, partial(torch.optim.Adam, lr=0.02), objective, capture=False)
    for step in range(steps):
        if step == steps // 2:
            assert svi.optimizer is not None
            svi.optimizer.param_groups[0]["lr"] = 0.004
        svi.step(x)
    return model, guide


def test_geco_finds_the_rate_of_a_distortion() -> None:
    r"""Of a normal source of variance 1 it is R(d) = -log(d) / 2, with the multiplier VAR / d.

    400 draws a step and a small rate at the end leave noise of about 1 % in the parameters.
    """
    distortion = 0.25
    delta = distortion / (2 * VAR) + math.log(2 * math.pi * VAR) / 2
    objective = GECO(delta, rate=0.01, decay=0.9)
    divergence, error = moments(*trained(objective, 1500))
    assert error == pytest.approx(distortion, rel=0.05)
    assert divergence == pytest.approx(-math.log(distortion) / 2, rel=0.05)
    assert objective.multiplier.item() == pytest.approx(VAR / distortion, rel=0.15)


def test_the_divergence_reaches_the_capacity() -> None:
    r"""Each datum's is the same here, and the likelihood is the best at this rate."""
    divergence, error = moments(*trained(Capacity(gamma=10, capacity=0.8), 1000))
    assert divergence == pytest.approx(0.8, abs=0.02)
    assert error == pytest.approx(math.exp(-1.6), rel=0.1)


def stepped(objective: GECO, count: int) -> list[dict[str, float]]:
    svi = SVI(Source(), Channel(), partial(torch.optim.SGD, lr=0.0), objective, reduction="mean")
    rows = [svi.step_with_metrics(source())[1] for _ in range(count)]
    return [{name: value.item() for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("delta", [-5.0, 50.0])
def test_the_multiplier_follows_the_constraint(delta: float) -> None:
    objective = GECO(delta, initial=2.0, rate=0.003, decay=0.75)
    rows = stepped(objective, 5)
    violations = [-row["log_likelihood"] - delta for row in rows]
    multiplier, average = 2.0, 0.0
    for step, (row, violation) in enumerate(zip(rows, violations, strict=True), 1):
        assert row["objective.multiplier"] == pytest.approx(multiplier)
        assert row["objective"] == pytest.approx(-row["kl"] - multiplier * violation)
        assert row["elbo"] == pytest.approx(row["log_likelihood"] - row["kl"])
        average += max(0.25, 1 / step) * (violation - average)
        multiplier *= math.exp(0.003 * average)
    assert objective.multiplier.item() == pytest.approx(multiplier)
    assert (multiplier > 2) == (delta < 0)


def test_the_multiplier_follows_the_schedules_of_the_step() -> None:
    r"""Each step's violation is of the target, and its change of the rate, that the step had."""
    deltas, rates = Linear(-5, 5, length=4), Linear(0.003, 0.009, length=3)
    rows = stepped(GECO(deltas, initial=2.0, rate=rates, decay=0.0), 6)
    multiplier = 2.0
    for row, time in zip(rows, torch.arange(6.0), strict=True):
        violation = -row["log_likelihood"] - deltas.at(time).item()
        assert row["objective.multiplier"] == pytest.approx(multiplier)
        assert row["objective"] == pytest.approx(-row["kl"] - multiplier * violation)
        multiplier *= math.exp(rates.at(time).item() * violation)


def test_the_multiplier_keeps_within_limits() -> None:
    for delta, limit in ((-1e3, 3.0), (1e3, 0.5)):
        objective = GECO(delta, initial=1.0, rate=1.0, limits=(0.5, 3.0))
        stepped(objective, 3)
        assert objective.multiplier.item() == limit


def test_gradients_are_those_of_the_lagrangian() -> None:
    r"""With the multiplier b it is b (log-likelihood) - KL: b times the ELBO with beta = 1 / b."""
    pair, x = Pair(Source(), Channel()), source()
    draw = pair.draw((x,), {}, 2)
    parameters = list(pair.parameters.values())
    ours = GECO(delta=1.0, initial=3.0, particles=2)(draw)
    other = ELBO(particles=2, beta=1 / 3)(draw)
    found = torch.autograd.grad(ours.guide, parameters, retain_graph=True)
    expected = torch.autograd.grad(3 * other.guide, parameters)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.value, 3 * other.value + 3)


@pytest.mark.parametrize("capacity", [0.0, 5.0])
def test_capacity_by_hand(capacity: float) -> None:
    draw = Pair(Source(), Channel()).draw((source(),), {}, 3)
    objective = Capacity(gamma=2.0, capacity=Linear(capacity, 9.0), particles=3)
    expected = draw.log_likelihood.mean(0) - 2 * (draw.kl["z"].mean(0) - capacity).abs()
    torch.testing.assert_close(objective(draw).value, expected)


ERRORS: dict[str, tuple[Any, str]] = {
    "multiplier": (lambda: GECO(1.0, initial=0.0), "multiplier within limits .*, got initial=0.0"),
    "limits": (
        lambda: GECO(1.0, limits=(0.0, 1.0)),
        r"positive, got initial=1.0 and limits=\(0.0, 1.0\)",
    ),
    "order": (lambda: GECO(1.0, limits=(2.0, 1.0)), "multiplier within limits"),
    "rate": (lambda: GECO(1.0, rate=-1), "rate to be finite and at least 0, got -1"),
    "decay": (lambda: GECO(1.0, decay=1.0), "decay of at least 0 and less than 1, got 1.0"),
    "delta": (lambda: GECO(math.nan), "delta to be finite, got nan"),
    "gamma": (lambda: Capacity(gamma=-1), "gamma to be finite and at least 0, got -1"),
    "capacity": (lambda: Capacity(capacity=Linear(0, -1)), "capacity to be .* got -1"),
    "kl": (lambda: Capacity(kl="exact"), "kl to be one of .* got 'exact'"),
    "particles": (lambda: GECO(1.0, particles=0), "particles of at least 1, got 0"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, match = ERRORS[name]
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.filterwarnings("ignore::UserWarning:pyro")
@pytest.mark.parametrize("row", ZOO)
@pytest.mark.parametrize("objective", [partial(GECO, 1.0), partial(Capacity, 2.0, 1.0)])
def test_every_pair_is_trained(row: str, objective: Any) -> None:
    model, guide, batch = ZOO[row]()
    svi = SVI(model, guide, partial(torch.optim.Adam, lr=1e-3), objective(particles=1))
    loss, metrics = svi.step_with_metrics(*batch)
    assert loss.isfinite()
    assert metrics["elbo"] != metrics["objective"]
