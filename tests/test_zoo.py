r"""What every pair of the zoo keeps: with our objectives it is what it is with Pyro's."""

import math
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import Tensor
from zoo import ENUMERATED, ZOO, N

import pyro_vae
from pyro_vae import SVI
from pyro_vae.draws import Draw
from pyro_vae.objectives import ELBO
from pyro_vae.pair import Pair
from pyro_vae.programs import modules

adam = partial(torch.optim.Adam, lr=1e-2)

GENERATING = ("vae", "full_covariance", "learned_scale", "predicted_scale", "counts", "levels")
GENERATING += ("convolutional", "batch_norm_and_dropout", "mixture_vae")

# log p of an unobserved part counts in Pyro's sum, here its weight is one
COMPARED = [name for name in ZOO if name != "partly_observed"]


def fresh(name: str) -> tuple[Any, Any, tuple[Any, ...]]:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    return ZOO[name]()


def gradients(svi: SVI, batch: tuple[Any, ...]) -> tuple[float, dict[str, Tensor]]:
    pyro.set_rng_seed(1)
    loss = svi.step(*batch)
    return loss.item(), {n: p.grad for n, p in svi.pair.parameters.items() if p.grad is not None}


@pytest.mark.parametrize("name", COMPARED)
def test_loss_and_gradients_equal_pyro(name: str) -> None:
    theirs = TraceEnum_ELBO(max_plate_nesting=1) if name in ENUMERATED else Trace_ELBO()

    model, guide, batch = fresh(name)
    loss, found = gradients(SVI(model, guide, adam, ELBO(kl="sampled")), batch)
    model, guide, batch = fresh(name)
    expected_loss, expected = gradients(SVI(model, guide, adam, theirs), batch)

    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", COMPARED)
def test_loss_equals_that_of_plain_pyro(name: str) -> None:
    r"""``pyro.infer`` alone, without any of our wrapping, on the same noise."""
    model, guide, batch = fresh(name)
    guide(*batch)  # autoguides set themselves up
    svi = SVI(model, guide, adam, ELBO(kl="sampled"))
    svi.evaluate_loss(*batch)
    theirs = TraceEnum_ELBO(max_plate_nesting=1) if name in ENUMERATED else Trace_ELBO()

    pyro.set_rng_seed(2)
    loss = svi.evaluate_loss(*batch).item()
    # evaluating moved the statistics of batch norm, which do not count while training
    pyro.set_rng_seed(2)
    assert loss == pytest.approx(theirs.loss(model, guide, *batch), rel=1e-12)


@pytest.mark.parametrize("name", ZOO)
def test_auto_kl_has_the_same_mean(name: str) -> None:
    r"""Within 4.5 standard errors of the difference: one failure in 10^5 rows."""
    model, guide, batch = fresh(name)
    pair = Pair(model, guide)
    sampled, auto = ELBO(kl="sampled", particles=400), ELBO(particles=400)
    for module in (*modules(model).values(), *modules(guide).values()):
        module.eval()

    with torch.no_grad():
        first = pair.draw(batch, {}, 400)
        second = pair.draw(batch, {}, 400)
        difference = sampled(first).value.mean() - auto(second).value.mean()
        spread = first.log_weights.mean(1).var() + second.log_weights.mean(1).var()
    assert abs(difference) <= 4.5 * (spread / 400).sqrt() + 1e-12


@pytest.mark.parametrize("name", ZOO)
def test_densities_have_a_row_a_particle_and_a_column_a_datum(name: str) -> None:
    model, guide, batch = fresh(name)
    pair = Pair(model, guide)
    single, several = pair.draw(batch, {}), pair.draw(batch, {}, 3)
    size = 1 if name == "no_plate" else N

    assert single.log_weights.shape == (1, size)
    assert several.log_weights.shape == (3, size)
    for terms in (several.log_guide, several.log_prior):
        for site, term in terms.items():
            assert term.shape == (3, 1 if several.is_shared(site) else size), site


@pytest.mark.parametrize("name", ZOO)
def test_particles_are_independent_draws(name: str) -> None:
    model, guide, batch = fresh(name)
    draw = Pair(model, guide).draw(batch, {}, 2)
    for site, value in draw.values.items():
        if name != "auto_delta":
            assert (value[0] != value[1]).any(), site


@pytest.mark.parametrize("name", ZOO)
def test_every_parameter_gets_a_gradient_and_moves(name: str) -> None:
    model, guide, batch = fresh(name)
    svi = SVI(model, guide, adam)
    svi.pair.plan(batch, {})
    before = {n: p.detach().clone() for n, p in svi.pair.parameters.items()}
    for _ in range(3):
        loss = svi.step(*batch)

    assert loss.shape == ()
    assert not loss.requires_grad
    assert math.isfinite(loss)
    for parameter, tensor in svi.pair.parameters.items():
        if parameter != "model.decoder.network.0.bias":  # batch norm takes it out again
            assert (tensor != before[parameter]).any(), parameter
    modular = [m for p in (model, guide) for m in modules(p).values()]
    known = {id(p) for p in svi.pair.parameters.values()}
    assert all(id(p) in known for m in modular for p in m.parameters())


@pytest.mark.parametrize("name", ZOO)
def test_inspection_and_evaluation_change_nothing(name: str) -> None:
    model, guide, batch = fresh(name)
    pair = Pair(model, guide)
    pair.plan(batch, {})
    before = {n: t.detach().clone() for n, t in pair.state().items()}
    state = torch.get_rng_state()

    pair = Pair(model, guide)
    pair.plan(batch, {})

    assert torch.equal(state, torch.get_rng_state())
    assert before.keys() == pair.state().keys()
    for key, tensor in pair.state().items():
        assert torch.equal(before[key], tensor), key


@pytest.mark.parametrize("name", ZOO)
def test_the_checker_finds_nothing(name: str) -> None:
    model, guide, batch = fresh(name)
    assert pyro_vae.check(model, guide, *batch, objective=ELBO(particles=2)) == []


def fields(batch: tuple[Any, ...]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    names = tuple(f"field{i}" for i in range(len(batch)))
    return dict(zip(names, batch, strict=True)), names


@pytest.mark.parametrize("name", ZOO)
def test_evaluation_agrees_with_its_draws(name: str) -> None:
    r"""The bound within 4.5 standard errors of an independent draw's: one failure in 10^5."""
    model, guide, batch = fresh(name)
    data, inputs = fields(batch)
    found = pyro_vae.evaluate(model, guide, data, ["elbo"], particles=300, inputs=inputs)["elbo"]
    for module in (*modules(model).values(), *modules(guide).values()):
        module.eval()
    with torch.no_grad():
        draws = Pair(model, guide).draw(batch, {}, 2000).log_weights.mean(1)
    error = math.hypot(found.stderr, draws.std().item() / math.sqrt(2000))
    assert abs(float(found) - draws.mean().item()) <= 4.5 * error + 1e-12


@pytest.mark.parametrize("name", ZOO)
def test_latents_and_data_come_back_with_their_shapes(name: str) -> None:
    model, guide, batch = fresh(name)
    codes = pyro_vae.encode(model, guide, *batch)
    drawn = Pair(model, guide).draw(batch, {}).values
    reconstructed = pyro_vae.reconstruct(model, guide, *batch)
    # without a data plate a sample is a whole batch
    sampled = pyro_vae.sample(model, guide, n=1 if name == "no_plate" else N, batch=batch)

    for site, code in codes.items():
        assert code.shape == drawn[site].shape, site
    for found in (reconstructed, sampled):
        tensors = found.values() if isinstance(found, dict) else (found,)
        assert all(tensor.shape[0] in (1, N) for tensor in tensors)
    for found in (reconstructed, sampled):
        assert (found["x"] if isinstance(found, dict) else found).numel() == batch[0].numel()


@pytest.mark.parametrize("name", GENERATING)
def test_generates_without_data(name: str) -> None:
    model, _, batch = fresh(name)
    assert model(n=3).shape == (3, *batch[0].shape[1:])


def devices() -> list[str]:
    return ["meta", *(["cuda"] if torch.cuda.is_available() else [])]


MODULAR = [n for n in ZOO if n not in ("plain_functions", "no_plate") and not n.startswith("auto")]


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("name", MODULAR)
def test_runs_where_its_module_is(name: str, device: str) -> None:
    model, guide, batch = fresh(name)
    pair = Pair(model, guide)
    layout = pair.plan(batch, {}).layout
    model.to(device)
    guide.to(device)
    moved = tuple(value.to(device) for value in batch)

    with pyro.validation_enabled(False):  # a meta tensor has no values to validate
        draw = Draw(model, guide, moved, {}, layout, 3)
        bound = ELBO(particles=3)(draw)
    assert bound.value.device.type == device
    assert bound.value.dtype == torch.float64


@pytest.mark.parametrize("name", MODULAR)
def test_follows_its_dtype(name: str) -> None:
    model, guide, batch = fresh(name)
    model.float()
    guide.float()
    moved = tuple(v.float() if v.is_floating_point() else v for v in batch)
    assert Pair(model, guide).draw(moved, {}).log_weights.dtype == torch.float32
