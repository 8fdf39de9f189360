r"""Slopes and ways of decoders where they are known."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import VAR, D, F, Linear, N
from measured import measure
from torch import Tensor
from zoo import ZOO

from pyro_vae import decode, encode
from pyro_vae.evaluation.decoder import Decoder
from pyro_vae.evaluation.setting import evaluating
from pyro_vae.evaluation.smoothness import _partners, smoothness
from pyro_vae.evaluation.steepness import singular_values
from pyro_vae.pair import Pair


def curve(turns: float) -> tuple[Any, Any]:
    r"""A decoder that winds the line around the unit circle, and the encoder of x[0]."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            loc = torch.stack([(turns * z).cos(), (turns * z).sin()], -1)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x[:, 0], 1.0))

    return model, guide


def test_linear_decoder() -> None:
    linear = Linear()
    found = measure(smoothness, linear.model, linear.guide, linear.x, batch_size=3)
    for name in ("interpolation.length", "lipschitz", "lipschitz.relative"):
        torch.testing.assert_close(found[name].per_datum, torch.ones(N))

    linear.decoder.weight.data = W = torch.randn(F, D)
    found = measure(smoothness, linear.model, linear.guide, linear.x)
    norm, m = torch.linalg.matrix_norm(W, 2), linear.means
    torch.testing.assert_close(found["interpolation.length"].per_datum, torch.ones(N))
    torch.testing.assert_close(found["lipschitz"].per_datum, norm.expand(N))
    relative = norm * (m.var(0).sum() / (m @ W.T).var(0).sum()).sqrt()
    torch.testing.assert_close(found["lipschitz.relative"].per_datum, relative.expand(N))
    assert all(each.stderr == 0 for each in found.values())


def test_gap_half_way_between_two_data() -> None:
    linear = Linear()
    x = linear.x[:2]
    half = linear.reconstructions[:2].mean(0)
    expected = (half - x).norm(dim=-1).min() / (x[0] - x[1]).norm()
    found = measure(smoothness, linear.model, linear.guide, x)["interpolation.gap"]
    torch.testing.assert_close(found.per_datum, expected.expand(2))


def test_gap_by_brute_force() -> None:
    linear = Linear()
    found = measure(smoothness, linear.model, linear.guide, linear.x, batch_size=3, seed=5)
    pyro.set_rng_seed(5)
    half = (linear.reconstructions + linear.reconstructions[_partners(N)]) / 2
    distances = (linear.x[:, None] - linear.x).norm(dim=-1)
    between = distances.masked_fill(torch.eye(N, dtype=torch.bool), math.inf).min(0).values.mean()
    expected = (half[:, None] - linear.x).norm(dim=-1).min(1).values / between
    torch.testing.assert_close(found["interpolation.gap"].per_datum, expected)


@pytest.mark.parametrize("turns", [1.0, 3.0])
def test_way_along_a_circle(turns: float) -> None:
    r"""In 20 chords of an arc of 2 ``turns``."""
    model, guide = curve(turns)
    found = measure(smoothness, model, guide, torch.tensor([[-1.0, 0.3], [1.0, 0.3]]))
    expected = 20 * math.sin(turns / 20) / abs(math.sin(turns))
    torch.testing.assert_close(found["interpolation.length"].per_datum, torch.full((2,), expected))
    torch.testing.assert_close(found["lipschitz"].per_datum, torch.full((2,), turns))


def test_way_of_what_does_not_move() -> None:
    linear = Linear()
    linear.decoder.weight.data.zero_()
    found = measure(smoothness, linear.model, linear.guide, linear.x)
    assert found["interpolation.length"].value == 1
    assert found["lipschitz"].value == 0
    assert found["lipschitz"].unit == "programs' data / latents"


@pytest.mark.parametrize("name", ["vae", "levels", "convolutional"])
def test_slope_is_the_norm_of_the_jacobian(name: str) -> None:
    model, guide, batch = ZOO[name]()
    found = measure(smoothness, model, guide, *batch, batch_size=3)["lipschitz"]

    def mean(z: Tensor) -> Tensor:
        return model.likelihood(model.decoder(z), model.event_shape).mean.flatten(1)

    jacobian = torch.autograd.functional.jacobian(mean, encode(model, guide, *batch)["z"])
    expected = torch.linalg.matrix_norm(_own(jacobian), 2)
    torch.testing.assert_close(found.per_datum, expected, rtol=1e-5, atol=1e-8)


def test_slope_where_sites_are_summed_out() -> None:
    r"""It is that of the component which is more probable."""
    model, guide, batch = ZOO["mixture"]()
    found = measure(smoothness, model, guide, *batch)["lipschitz"]
    z = encode(model, guide, *batch)["z"]
    jacobians = [
        torch.autograd.functional.jacobian(lambda z, s=s: (model.decoder(z) + s).sigmoid(), z)
        for s in model.shifts
    ]
    norms = torch.stack([torch.linalg.matrix_norm(_own(J), 2) for J in jacobians])
    again = measure(smoothness, model, guide, *batch, seed=2)["lipschitz"]
    torch.testing.assert_close(again.per_datum, found.per_datum, rtol=1e-6, atol=0)
    assert ((norms - found.per_datum).abs().min(0).values < 1e-6 * norms).all()


def test_slope_where_plates_are_nested() -> None:
    r"""The mean of x is w."""
    model, guide, batch = ZOO["nested_plates"]()
    found = measure(smoothness, model, guide, *batch, batch_size=3)["lipschitz"]
    torch.testing.assert_close(found.per_datum, torch.ones(N))


def _own(jacobian: Tensor) -> Tensor:
    return jacobian.diagonal(dim1=0, dim2=2).movedim(-1, 0)


def test_decoded_at_the_means() -> None:
    r"""What it starts from is what ``decode`` gives: a check that sites keep their places."""
    model, guide, batch = ZOO["top_down"]()
    latents = encode(model, guide, *batch)
    means = decode(model, guide, latents, batch=batch)
    with evaluating(model, guide):
        pair = Pair(model, guide)
        decoder = Decoder(pair, pair.plan(batch, {}).layout, batch, "this")
        torch.testing.assert_close(decoder(decoder.latents), means)
        torch.testing.assert_close(decoder.data, batch[0])
        assert decoder.latents.equal(torch.cat([latents["z2"], latents["z1"]], -1))


def test_iterations_approach_from_below() -> None:
    W = torch.randn(6, 9)
    pyro.set_rng_seed(1)
    few, more = (singular_values(lambda z: z @ W.T, torch.zeros(50, 9), n) for n in (1, 200))
    exact = torch.linalg.matrix_norm(W, 2)
    torch.testing.assert_close(more, exact.expand(50))
    assert (few < exact).all()


@pytest.mark.parametrize("size", [2, 3, 10])
def test_partners_are_others(size: int) -> None:
    for _ in range(20):
        partners = _partners(size)
        assert sorted(partners.tolist()) == list(range(size))
        assert (partners != torch.arange(size)).all()


def test_rough_latents_are_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Bernoulli(x.new_tensor(0.5)))
            pyro.sample("x", dist.Normal(z, math.sqrt(VAR)), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Bernoulli(torch.sigmoid(x)))

    with pytest.raises(ValueError, match=r"for smoothness, got the discrete sites \['z'\]"):
        measure(smoothness, model, guide, torch.randn(N))
    linear = Linear()
    with pytest.raises(ValueError, match=r"expected at least two data.*got 1"):
        measure(smoothness, linear.model, linear.guide, linear.x[:1])
    with pytest.raises(ValueError, match=r"expected a data plate.*for smoothness"):
        measure(smoothness, *ZOO["no_plate"]()[:2], torch.randn(N))
    with pytest.raises(ValueError, match="they have no slope"):
        singular_values(lambda z: z.detach(), torch.zeros(2, 2))
