r"""Wake-sleep, against sums over all that can be drawn."""

import bits as small
import pyro
import pyro.infer
import pytest
import torch
from bits import Bits, Drawing, Global, OneLayer, TwoLayers, exact, grad
from test_score import close
from torch import Tensor

from pyro_vae.draws import Draw
from pyro_vae.objectives import ReweightedWakeSleep, WakeSleep
from pyro_vae.schedules import Linear


@pytest.mark.parametrize(
    ("pair", "k"), [(OneLayer, 2), (OneLayer, 3), (TwoLayers, 2), (Global, 2), (OneLayer, 1)]
)
def test_reweighted_wake_gradients_with_finitely_many_particles(pair: type[Bits], k: int) -> None:
    r"""Theta's is that of the importance-weighted bound, phi's that of its own biased estimator."""
    bits, whole = pair(), pair is Global
    theta, phi, value = bits.gradients(ReweightedWakeSleep(k, wake=0.7))
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
    theta, total = [*bits.theta.values()], [torch.zeros_like(p) for p in bits.theta.values()]
    value = torch.zeros(())
    for weight, bound in bits.bounds(objective):
        found = grad(bound.model, theta)
        total = [t + weight * g for t, g in zip(total, found, strict=True)]
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


def pyro_gradients(bits: Bits, z: Tensor) -> list[Tensor]:
    r"""Those of Pyro's objective, whose guide draws z, with shape (K, N)."""
    elbo = pyro.infer.ReweightedWakeSleep(z.shape[0], vectorize_particles=True, max_plate_nesting=1)
    tensors = [*bits.theta.values(), *bits.phi.values()]
    for tensor in tensors:
        tensor.grad = None
    guide = Drawing({"z": z})(bits.guide)
    elbo.loss_and_grads(bits.model, guide, bits.x[: z.shape[1]])
    return [torch.zeros_like(t) if t.grad is None else -t.grad for t in tensors]


def our_gradients(bits: Bits, z: Tensor) -> list[Tensor]:
    x, objective = bits.x[: z.shape[1]], ReweightedWakeSleep(z.shape[0])
    layout, guide = bits.pair.plan((x,), {}).layout, Drawing({"z": z})(bits.guide)
    draw = Draw(bits.model, guide, (x,), {}, layout, z.shape[0], pathwise=False)
    bound, n = objective(draw), z.shape[1]
    return [
        n * g
        for surrogate, part in ((bound.model, bits.theta), (bound.guide, bits.phi))
        for g in grad(surrogate, [*part.values()])
    ]


def test_pyro_agrees_on_one_datum_and_weighs_batches_wrongly() -> None:
    r"""It sums log-weights over the batch, and so weighs the particles of all data alike."""
    bits = OneLayer()
    z = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    close(pyro_gradients(bits, z[:, :1]), our_gradients(bits, z[:, :1]))

    each = [pyro_gradients(bits, z[:, :1])]
    bits.x = bits.x.flip(0)
    each.append(pyro_gradients(bits, z[:, 1:]))
    bits.x = bits.x.flip(0)
    close(our_gradients(bits, z), [a + b for a, b in zip(*each, strict=True)])
    theirs, ours = pyro_gradients(bits, z), our_gradients(bits, z)
    assert max((a - b).abs().max() for a, b in zip(theirs, ours, strict=True)) > 0.1
