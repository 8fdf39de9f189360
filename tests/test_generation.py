r"""Samples, codes and reconstructions of models where their moments are known."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from pyro.infer.autoguide import AutoNormal
from test_ppca import affine, inverse_positive
from torch import Tensor
from zoo import ZOO

from pyro_vae.data import load
from pyro_vae.evaluation import decode, encode, evaluate, reconstruct, sample
from pyro_vae.guides import AmortizedNormal
from pyro_vae.likelihoods import Normal
from pyro_vae.models import VAE

N, F, D, VAR = 7, 5, 2, 0.3


class Linear:
    r"""x ~ N(W z + b, v I), and z ~ N(A (x - b), s^2 I) in the guide."""

    def __init__(self) -> None:
        self.W, self.b = torch.linalg.qr(torch.randn(F, D)).Q, torch.randn(F)
        self.A, self.scale = self.W.T / (1 + VAR), math.sqrt(VAR / (1 + VAR))
        self.decoder = affine(self.W, self.b)
        self.model = VAE((F,), D, Normal(math.sqrt(VAR)), decoder=self.decoder)
        raw = inverse_positive(torch.full((D,), self.scale))
        weight = torch.cat([self.A, torch.zeros(D, F)])
        encoder = affine(weight, torch.cat([-self.A @ self.b, raw]))
        self.guide = AmortizedNormal((F,), {"z": D}, encoder)
        self.x = torch.randn(N, F)
        self.means = (self.x - self.b) @ self.A.T
        self.reconstructions = self.means @ self.W.T + self.b

    def plain(self, x: Tensor) -> None:
        r"""The model as a plain function, which cannot be called without data."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), math.sqrt(VAR)).to_event(1), obs=x)


@pytest.fixture
def linear() -> Linear:
    return Linear()


def check_moments(x: Tensor, loc: Tensor, covariance: Tensor) -> None:
    r"""Means and covariances of draws lie within 4.5 standard errors: 1 in 5,000 tests fails."""
    n, variance = len(x), covariance.diagonal()
    assert ((x.mean(0) - loc).abs() <= 4.5 * (variance / n).sqrt()).all()
    error = ((variance.outer(variance) + covariance.square()) / n).sqrt()
    assert ((x.T.cov() - covariance).abs() <= 4.5 * error + 1e-12).all()


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


@pytest.mark.parametrize("plain", [False, True])
def test_samples_have_the_moments_of_the_model(linear: Linear, plain: bool) -> None:
    covariance = linear.W @ linear.W.T
    model, batch = (linear.plain, (linear.x,)) if plain else (linear.model, None)
    n = 20_000
    x = sample(model, linear.guide, n, batch=batch, batch_size=n // 3)
    means = sample(model, linear.guide, n, batch=batch, batch_size=n // 3, mean=True)

    assert x.shape == means.shape == (n, F)
    check_moments(x, linear.b, covariance + VAR * torch.eye(F))
    check_moments(means, linear.b, covariance)


def test_plain_functions_are_decoded_with_a_batch(linear: Linear) -> None:
    x = decode(linear.plain, linear.guide, linear.means, batch=(linear.x[:2],))
    torch.testing.assert_close(x, linear.reconstructions)
    x = reconstruct(linear.plain, linear.guide, linear.x)
    torch.testing.assert_close(x, linear.reconstructions)


def test_rows_of_the_batch_are_repeated_in_order() -> None:
    def model(x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", c.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(c, 0.1), obs=x)

    c = torch.randn(N)
    x = sample(model, lambda x, c: None, 2 * N + 3, batch=(c, c), batch_size=4, mean=True)
    torch.testing.assert_close(x, torch.cat([c, c, c[:3]]))


def test_seed_and_what_is_left_behind(linear: Linear) -> None:
    linear.model.train()
    linear.guide.eval()
    before = torch.get_rng_state()
    first, again, other = (sample(linear.model, linear.guide, 3, seed=seed) for seed in (0, 0, 1))

    assert first.equal(again)
    assert not first.equal(other)
    assert not first.requires_grad
    assert torch.get_rng_state().equal(before)
    assert linear.model.training
    assert not linear.guide.training


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


def test_global_latents_come_from_the_guide() -> None:
    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(mu, 0.1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("mu", dist.Normal(x.new_tensor(50.0), 1e-9))

    x = torch.randn(N)
    draws = sample(model, guide, 900, batch=(x,))
    assert isinstance(draws, Tensor)
    check_moments(draws[:, None], torch.tensor([50.0]), torch.tensor([[0.01]]))
    codes = encode(model, guide, x, batch_size=2)
    assert codes["mu"].item() == pytest.approx(50)
    torch.testing.assert_close(reconstruct(model, guide, x), torch.full((N,), 50.0))
    decoded = decode(model, guide, {"mu": torch.tensor(3.0)}, batch=(x,))
    torch.testing.assert_close(decoded, torch.full((N,), 3.0))


def test_whole_batch_is_one_datum_without_a_plate() -> None:
    model, guide, (x,) = ZOO["no_plate"]()
    with torch.no_grad():
        guide.loc.fill_(2.0)

    codes = encode(model, guide, x, batch_size=2)
    assert codes["mu"].item() == 2
    assert encode(model, guide, x, draws=3)["mu"].shape == (3,)
    torch.testing.assert_close(reconstruct(model, guide, x), torch.full((N,), 2.0))
    torch.testing.assert_close(decode(model, guide, codes, batch=(x,)), torch.full((N,), 2.0))
    n = 800
    draws = sample(model, guide, n, batch=(x,))
    check_moments(draws, torch.zeros(N), torch.eye(N) + 1)


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


def test_what_is_computed_keeps_its_shape_in_samples() -> None:
    r"""Pyro's uncondition would draw it anew, with the plate's shape in front."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            loc = pyro.deterministic("loc", 2 * z)
            pyro.factor("weight", -z)
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x, 1.0))

    x = torch.randn(N)
    assert sample(model, guide, 9, batch=(x,)).shape == (9,)
    torch.testing.assert_close(reconstruct(model, guide, x), 2 * x)
    torch.testing.assert_close(decode(model, guide, x, batch=(x,)), 2 * x)


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


def without_return(n: int = 1) -> None:
    with pyro.plate("data", n, dim=-1):
        pyro.sample("x", dist.Normal(torch.zeros(()), 1.0))


def normal_rows(n: int = 1) -> Tensor:
    with pyro.plate("data", n, dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        return pyro.sample("x", dist.Normal(z, 1.0))


def nothing(*_: Any) -> None:
    r"""A guide that is not run."""


def with_global(n: int = 1) -> Tensor:
    mu = pyro.sample("mu", dist.Normal(torch.zeros(()), 1.0))
    with pyro.plate("data", n, dim=-1):
        return pyro.sample("x", dist.Normal(mu, 1.0))


SOURCES = {
    "array": lambda x: x.numpy(),
    "array of single precision": lambda x: x.numpy().astype(np.float32),
    "half precision": lambda x: x.half(),
}


@pytest.mark.parametrize("name", SOURCES)
def test_rows_are_read_as_they_come(linear: Linear, name: str) -> None:
    r"""A VAE in double precision; what comes in another one is rounded, so are the answers."""
    x = SOURCES[name](linear.x)
    exact: dict[str, float] = {"atol": 0.02 if name == "half precision" else 1e-6, "rtol": 0}
    z = encode(linear.model, linear.guide, x)["z"]

    assert z.dtype == torch.float64
    torch.testing.assert_close(z, linear.means, **exact)
    found = reconstruct(linear.model, linear.guide, x)
    torch.testing.assert_close(found, linear.reconstructions, **exact)
    decoded = decode(linear.plain, linear.guide, z.numpy().astype(np.float32), batch=x)
    torch.testing.assert_close(decoded, linear.reconstructions, **exact)
    drawn = sample(linear.plain, linear.guide, 3, batch=[x])
    expected = sample(linear.plain, linear.guide, 3, batch=(linear.x,))
    torch.testing.assert_close(drawn, expected, **exact)


def test_rows_become_what_the_parameters_are(linear: Linear) -> None:
    model, guide = linear.model.float(), linear.guide.float()
    z = encode(model, guide, linear.x)["z"]

    assert z.dtype == torch.float32
    torch.testing.assert_close(z, linear.means.float())
    assert reconstruct(model, guide, linear.x.numpy()).dtype == torch.float32
    assert decode(model, guide, {"z": linear.means.numpy()}).dtype == torch.float32
    assert encode(lambda x: None, lambda x: None, linear.x) == {}


def test_integers_stay_integers() -> None:
    embedding = torch.nn.Embedding(9, D)

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=embedding(x).sum(-1))

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(embedding(x), 1.0).to_event(1))

    z = encode(model, guide, np.array([3, 8, 0], dtype=np.int32))["z"]
    torch.testing.assert_close(z, embedding.weight[[3, 8, 0]].detach())


def test_data_sets_give_their_test_split() -> None:
    data = load(torch.rand(60, F), binarization="dynamic", seed=1)
    model, guide = VAE((F,), D).double(), AmortizedNormal((F,), {"z": D}).double()
    x = data.epoch("test", torch.Generator().manual_seed(3))["x"].double()

    found = encode(model, guide, data, seed=3)["z"]
    torch.testing.assert_close(found, encode(model, guide, x)["z"])
    assert not found.equal(encode(model, guide, data, seed=4)["z"])
    for whole in (data, (data,)):
        drawn = sample(lambda x: model(x), guide, 3, batch=whole, seed=3)
        torch.testing.assert_close(drawn, sample(lambda x: model(x), guide, 3, batch=x, seed=3))


def made_for_four(x: Tensor) -> tuple[Any, Any]:
    model, guide, _ = ZOO["auto_delta"]()
    guide(x)
    return model, guide


ERRORS: dict[str, tuple[Any, str]] = {
    "no n": (
        lambda m, g, x: sample(lambda x: m(x), g),
        r"called as model\(n=…\), got one with the arguments \(x\): give batch=",
    ),
    "no n, decode": (
        lambda m, g, x: decode(lambda x: m(x), g, torch.ones(3, D)),
        r"called as model\(n=…\)",
    ),
    "nothing returned": (lambda m, g, x: sample(without_return, g), r"to return the value"),
    "global": (lambda m, g, x: sample(with_global, g), r"expected a batch, .*\['mu'\]"),
    "unknown": (
        lambda m, g, x: decode(m, g, {"w": torch.ones(3, D)}),
        r"latents of the sites \['z'\], got \['w'\]",
    ),
    "shape": (
        lambda m, g, x: decode(m, g, torch.ones(3, 4)),
        r"latents 'z' with shape \('N', 2\), got \(3, 4\)",
    ),
    "several": (
        lambda m, g, x: decode(*ZOO["top_down"]()[:2], torch.ones(3, 2), batch=(x,)),
        r"sites \['z2', 'z1'\], got a tensor",
    ),
    "rows": (
        lambda m, g, x: decode(
            *ZOO["top_down"]()[:2], {"z1": torch.ones(3, 3), "z2": torch.ones(4, 2)}, batch=(x,)
        ),
        r"one number of rows, got \[3, 4\]",
    ),
    "n": (lambda m, g, x: sample(m, g, 0), r"expected n of at least 1, got 0"),
    "batch_size": (lambda m, g, x: encode(m, g, x, batch_size=0), r"batch_size of at least 1"),
    "draws": (lambda m, g, x: encode(m, g, x, draws=0), r"draws of at least 1"),
    "no latents": (lambda m, g, x: decode(m, g, {}), r"of the sites \['z'\], got none: sample"),
    "no rows of latents": (
        lambda m, g, x: decode(m, g, torch.ones(0, D)),
        r"latents of at least one row, got none",
    ),
    "latents without rows": (
        lambda m, g, x: decode(lambda n=1: normal_rows(n), nothing, torch.ones(())),
        r"latents 'z' with shape \('N',\), got \(\)",
    ),
    "no rows": (lambda m, g, x: encode(m, g, x[:0]), r"least one row, got \{'argument 0': 0\}"),
    "no rows, reconstruct": (lambda m, g, x: reconstruct(m, g, x[:0]), r"of at least one row"),
    "no rows, sample": (lambda m, g, x: sample(m, g, batch=x[:0]), r"of at least one row"),
    "no rows, decode": (lambda m, g, x: decode(m, g, x, batch=x[:0]), r"of at least one row"),
    "no dimension": (lambda m, g, x: encode(m, g, torch.ones(())), r"of at least one row"),
    "lengths": (
        lambda m, g, x: encode(m, g, x, x[:2]),
        r"one length, .*\{'argument 0': 7, 'argument 1': 2\}",
    ),
    "no test split": (
        lambda m, g, x: encode(m, g, load(x, test=0.0)),
        r"expected a test split, got none",
    ),
    "words": (lambda m, g, x: encode(m, g, np.array(["a"])), r"argument 0: expected an array of n"),
    "no device": (lambda m, g, x: encode(m, g, x, device="cuda:99"), r"^expected a device that is"),
    "no data": (lambda m, g, x: encode(m, g), r"expected the data .*got none"),
    "made for four data": (
        lambda m, g, x: encode(*made_for_four(x[:4, 0]), x[:, 0], batch_size=4),
        r"plate 'data' to hold the 3 rows of a batch, got \[4\]",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(linear: Linear, name: str) -> None:
    call, match = ERRORS[name]
    with pytest.raises(ValueError, match=match):
        call(linear.model, linear.guide, linear.x)


TYPE_ERRORS: dict[str, tuple[Any, str]] = {
    "n": (lambda m, g, x: sample(m, g, 2.5), r"expected n to be an integer, got 2.5"),
    "batch_size": (lambda m, g, x: encode(m, g, x, batch_size=2.5), r"batch_size to be an integer"),
    "batch_size, reconstruct": (
        lambda m, g, x: reconstruct(m, g, x, batch_size=2.5),
        r"batch_size to be an integer",
    ),
    "batch_size, decode": (
        lambda m, g, x: decode(m, g, x[:, :D], batch_size=2.5),
        r"batch_size to be an integer",
    ),
    "batch_size, sample": (
        lambda m, g, x: sample(m, g, batch_size="9"),
        r"batch_size to be an integer, got '9'",
    ),
    "draws": (lambda m, g, x: encode(m, g, x, draws=2.0), r"draws to be an integer, got 2.0"),
    "list": (lambda m, g, x: encode(m, g, x.tolist()), r"got argument 0 of type list: load"),
    "name": (lambda m, g, x: reconstruct(m, g, "digits"), r"got argument 0 of type str: load"),
    "latents": (lambda m, g, x: decode(m, g, [1.0]), r"got z of type list"),
}


@pytest.mark.parametrize("name", TYPE_ERRORS)
def test_type_errors(linear: Linear, name: str) -> None:
    call, match = TYPE_ERRORS[name]
    with pytest.raises(TypeError, match=match):
        call(linear.model, linear.guide, linear.x)


def by_network(events: int = 1) -> Any:
    network = torch.nn.Linear(F, D)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(network(x), 1.0).to_event(events))

    return guide


SHAPES: dict[str, tuple[Any, Any, str]] = {
    "features": (None, torch.ones(3, F + 1), r"^expected .*\(5,\).* got .*\(3, 6\)"),
    "one datum": (None, torch.ones(F), r"^expected x with shape \(N, 5\), .* got shape \(5,\)"),
    "plate": (
        lambda: by_network(0),
        torch.ones(3, F),
        r"^expected data that both programs take, got shapes \(3, 5\): Shape mismatch inside plate",
    ),
    "network": (
        by_network,
        torch.ones(3, F + 1),
        r"^expected data that both programs take, got shapes \(3, 6\): .*mat1 and mat2 shapes",
    ),
}


@pytest.mark.parametrize("call", [encode, reconstruct, evaluate])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_refused_in_one_line(linear: Linear, name: str, call: Any) -> None:
    make, x, match = SHAPES[name]
    guide = make() if make else linear.guide
    with pytest.raises(ValueError, match=match) as caught:
        call(linear.model, guide, x)
    assert "\n" not in str(caught.value)


def test_errors_of_the_users_stay_what_they_are(linear: Linear) -> None:
    class OwnError(ValueError):
        pass

    def guide(x: Tensor) -> None:
        raise OwnError("mine")

    with pytest.raises(OwnError, match=r"^mine$"):
        encode(linear.model, guide, linear.x)


@pytest.mark.parametrize("name", ZOO)
def test_every_pair_generates(name: str) -> None:
    r"""Codes, decoded, are the reconstructions; draws have the shapes and the support of data."""
    model, guide, batch = ZOO[name]()
    found = reconstruct(model, guide, *batch)
    drawn = sample(model, guide, N, batch=batch)
    if isinstance(found, Tensor):
        found, drawn = {"x": found}, {"x": drawn}

    assert found["x"].shape == batch[0].shape
    extra = (N,) if name == "no_plate" else ()
    assert drawn["x"].shape == (*extra, *batch[0].shape)
    if name != "mixture":  # of which the component is inferred, or drawn
        decoded = decode(model, guide, encode(model, guide, *batch), batch=batch)
        torch.testing.assert_close(decoded, found if len(found) > 1 else found["x"])
