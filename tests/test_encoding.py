r"""Codes and reconstructions of models where the posterior is known."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import D, F, Linear, N, check_moments
from pyro.distributions import transforms
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from zoo import ZOO

from pyro_vae.evaluation import decode, encode, reconstruct, sample


@pytest.fixture
def linear() -> Linear:
    return Linear()


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_codes_are_posterior_means(linear: Linear, batch_size: int) -> None:
    z = encode(linear.model, linear.guide, linear.x, batch_size=batch_size)

    assert list(z) == ["z"]
    torch.testing.assert_close(z["z"], linear.means)


def test_drawn_codes_have_the_moments_of_the_posterior(linear: Linear) -> None:
    z = encode(linear.model, linear.guide, linear.x[:2], draws=500, batch_size=1)["z"]

    assert z.shape == (500, 2, D)
    for draws, mean in zip(z.unbind(1), linear.means, strict=False):
        check_moments(draws, mean, linear.scale**2 * torch.eye(D))


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_reconstructions_are_decoded_codes(linear: Linear, batch_size: int) -> None:
    arguments: dict[str, Any] = {"batch_size": batch_size}
    x = reconstruct(linear.model, linear.guide, linear.x, **arguments)
    decoded = decode(linear.model, linear.guide, linear.means, **arguments)
    by_site = decode(linear.model, linear.guide, {"z": linear.means}, **arguments)

    torch.testing.assert_close(x, linear.reconstructions)
    torch.testing.assert_close(decoded, linear.reconstructions)
    torch.testing.assert_close(by_site, linear.reconstructions)


def test_data_plate_comes_first() -> None:
    r"""Time stands left of data: z has shape (T, N), its code (N, T)."""
    times = 3

    def model(x: Tensor) -> None:
        with pyro.plate("time", times, dim=-2), pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z + 1, 0.5), obs=x.T)

    def guide(x: Tensor) -> None:
        with pyro.plate("time", times, dim=-2), pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(2 * x.T, 1.0))

    x = torch.randn(N, times)
    for batch_size in (2, 100):
        z = encode(model, guide, x, batch_size=batch_size, data_plate="data")
        torch.testing.assert_close(z["z"], 2 * x)
        arguments: dict[str, Any] = {"batch_size": batch_size, "data_plate": "data"}
        torch.testing.assert_close(decode(model, guide, z, batch=(x,), **arguments), 2 * x + 1)
        torch.testing.assert_close(reconstruct(model, guide, x, **arguments), 2 * x + 1)
        assert sample(model, guide, 5, batch=(x,), **arguments).shape == (5, times)
    draws = encode(model, guide, x, draws=4, batch_size=2)["z"]
    assert draws.shape == (4, N, times)


def clusters(x: Tensor) -> None:
    locs = torch.tensor([-5.0, 0.0, 5.0])
    with pyro.plate("data", x.shape[0], dim=-1):
        weights = torch.tensor([0.2, 0.5, 0.3])
        c = pyro.sample("c", dist.Categorical(weights), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(locs[c] + 0.1 * z, 1.0), obs=x)


def centre_at_one(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", dist.Normal(x.new_ones(()), 1.0))


def test_enumerated_sites_take_their_most_probable_value() -> None:
    x = torch.tensor([-4.8, -6.0, 0.3, 7.0, *[2.4] * 30])  # 2.4: 0.1 with probability 0.82
    expected = torch.tensor([-4.9, -4.9, 0.1, 5.1, *[0.1] * 30])
    torch.testing.assert_close(reconstruct(clusters, centre_at_one, x), expected)


def test_enumerated_sites_are_drawn_in_decoding() -> None:
    r"""Shares of 3,000 draws lie within 4.5 standard errors."""
    n = 3000
    x = decode(clusters, centre_at_one, torch.ones(n), batch=(torch.zeros(2),))
    assert isinstance(x, Tensor)
    for value, weight in ((-4.9, 0.2), (0.1, 0.5), (5.1, 0.3)):
        share = (x - value).abs().lt(1e-9).double().mean().item()
        assert abs(share - weight) < 4.5 * math.sqrt(weight * (1 - weight) / n)


def test_discrete_codes_are_modes_and_flows_average_draws() -> None:
    logits = torch.tensor([1.0, 3.0, 0.0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("c", dist.Categorical(logits=logits))
            pyro.sample("g", dist.Geometric(x.new_tensor(0.4)))
            u = pyro.sample("u", dist.LogNormal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(u.sum(-1), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        flow = [transforms.ExpTransform()]
        base = dist.Normal(x.new_zeros(2), 0.5).to_event(1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("c", dist.Categorical(logits=logits))
            pyro.sample("g", dist.Geometric(x.new_tensor(0.4)))
            pyro.sample("u", dist.TransformedDistribution(base, flow))

    codes = encode(model, guide, torch.randn(50))
    assert (codes["c"] == 1).all()
    assert (codes["g"] == 0).all()  # of which the mean is 1.5
    mean, sd = math.exp(0.125), math.sqrt(math.exp(0.25) * (math.exp(0.25) - 1))
    assert (codes["u"].mean() - mean).abs() < 4.5 * sd / math.sqrt(100 * 100)
    assert codes["u"].std() == pytest.approx(sd / 10, rel=0.4)


def test_code_follows_from_the_codes_before_it() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)
            pyro.sample("y", dist.Normal(a, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            b = pyro.sample("b", dist.Normal(3 * x, 1.0))
            pyro.sample("a", dist.Normal(2 * b, 1.0))

    x = torch.randn(N)
    codes = encode(model, guide, x)
    torch.testing.assert_close(codes["b"], 3 * x)
    torch.testing.assert_close(codes["a"], 6 * x)
    expected = {"x": 3 * x, "y": 6 * x}
    torch.testing.assert_close(reconstruct(model, guide, x), expected)
    torch.testing.assert_close(decode(model, guide, codes, batch=(x,)), expected)


def test_partly_observed_site_is_whole_again() -> None:
    model, guide, batch = ZOO["partly_observed"]()
    found = reconstruct(model, guide, *batch)

    z = encode(model, guide, *batch)["z"]
    with torch.no_grad():
        torch.testing.assert_close(found["y"], model.classifier(z).squeeze(-1).sigmoid())
        torch.testing.assert_close(found["x"], model.decoder(z).sigmoid())
    drawn = sample(model, guide, 9, batch=batch)
    assert {name: tuple(x.shape) for name, x in drawn.items()} == {"y": (9,), "x": (9, F)}


def test_autoguides() -> None:
    model, _, (x,) = ZOO["auto_normal"]()
    guide = AutoNormal(model)
    codes = encode(model, guide, x)

    medians = guide.median()
    assert codes.keys() == medians.keys()
    for name, value in medians.items():
        torch.testing.assert_close(codes[name], value.detach())
    torch.testing.assert_close(reconstruct(model, guide, x), codes["z"])
