r"""Wake-sleep, against sums over all that can be drawn."""

import math

import bits as small
import pyro
import pyro.distributions as dist
import pytest
import torch
from bits import Bits, Global, OneLayer, TwoLayers, exact, mass
from test_score import close
from torch import Tensor

from pyro_vae.objectives import ReweightedWakeSleep, WakeSleep
from pyro_vae.pair import Pair
from pyro_vae.schedules import Linear


@pytest.mark.parametrize(
    ("pair", "k"), [(OneLayer, 2), (OneLayer, 3), (TwoLayers, 2), (Global, 2), (OneLayer, 1)]
)
def test_reweighted_wake_gradients_with_finitely_many_particles(pair: type[Bits], k: int) -> None:
    r"""Theta's is that of the importance-weighted bound, phi's that of its own biased estimator."""
    bits, whole = pair(), pair is Global
    theta, phi, (value,) = bits.gradients(ReweightedWakeSleep(k, wake=0.7))
    bound = small.iwae(bits, k, whole)
    close(theta, exact(bits, bound, "theta"))
    expected = exact(bits, 0.7 * small.wake(bits, k, whole), "phi")
    if k > 1:
        close(phi, expected)
    assert value.mean().item() == pytest.approx(bound.item())


def test_one_particle_tells_the_guide_nothing() -> None:
    _, phi, _ = OneLayer().gradients(ReweightedWakeSleep(1))
    assert all(g.abs().max() < 1e-12 for g in phi)


@pytest.mark.parametrize("particles", [1, 2])
def test_the_model_climbs_the_elbo_while_awake(particles: int) -> None:
    bits = OneLayer()
    objective = WakeSleep(particles)
    states = bits.states()
    log_q, total = bits.table()[2].detach(), [torch.zeros_like(p) for p in bits.theta.values()]
    value = torch.zeros(())
    for indices in bits.tuples(particles):
        weight = log_q[indices].sum().exp()
        bound = bits.bound(objective, [states[i] for i in indices])
        found = torch.autograd.grad(bound.model, [*bits.theta.values()], allow_unused=True)
        total = [
            t if g is None else t + weight * g for t, g in zip(total, found, strict=True)
        ]
        value = value + weight * bound.value.mean().detach()
    elbo = small.elbo(bits)
    close(total, exact(bits, elbo, "theta"))
    assert value.item() == pytest.approx(elbo.item())


def test_weights_may_be_schedules_and_zero_is_no_dream() -> None:
    objective = ReweightedWakeSleep(2, wake=Linear(1.0, 0.0, 10), sleep=Linear(0.0, 1.0, 10))
    assert objective.dreams
    assert not ReweightedWakeSleep(2, sleep=0).dreams
    bits = OneLayer()
    draw = bits.pair.draw((bits.x,), {}, 2)
    pyro.set_rng_seed(1)
    asleep = WakeSleep(2)(draw).guide
    for time in (0.0, 4.0, 10.0):
        objective.wake.time.fill_(time)
        objective.sleep.time.fill_(time)
        pyro.set_rng_seed(1)
        found = objective(draw).guide
        awake = ReweightedWakeSleep(2)(draw).guide
        expected = (1 - time / 10) * awake + time / 10 * asleep
        torch.testing.assert_close(found, expected)


def test_sleep_with_one_particle_is_wake_sleep() -> None:
    bits = OneLayer()
    draw = bits.pair.draw((bits.x,), {})
    bounds = []
    for objective in (WakeSleep(), ReweightedWakeSleep(1, wake=0, sleep=1)):
        pyro.set_rng_seed(1)
        bounds.append(objective(draw))
    torch.testing.assert_close(bounds[0][:3], bounds[1][:3])


def pyro_gradient(bits: Bits, rows: int) -> tuple[float, list[Tensor]]:
    r"""Loss and gradients by theta and phi of Pyro's objective, with 3 particles."""
    elbo = pyro.infer.ReweightedWakeSleep(num_particles=3, vectorize_particles=True,
                                          max_plate_nesting=1, insomnia=1.0)
    tensors = [*bits.theta.values(), *bits.phi.values()]
    for tensor in tensors:
        tensor.grad = None
    pyro.set_rng_seed(1)

    def model(x: Tensor) -> None:
        for name, tensor in bits.theta.items():
            pyro.param(f"theta_{name}", tensor)
        bits.model(x)

    def guide(x: Tensor) -> None:
        for name, tensor in bits.phi.items():
            pyro.param(f"phi_{name}", tensor)
        bits.guide(x)

    raise NotImplementedError((elbo, model, guide, rows, dist, math, mass, Pair))
