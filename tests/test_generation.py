r"""Samples of models where their moments are known."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import VAR, F, Linear, N, check_moments
from torch import Tensor
from zoo import ZOO

from pyro_vae.evaluation import decode, encode, reconstruct, sample


@pytest.fixture
def linear() -> Linear:
    return Linear()


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
    if "mixture" not in name:  # of which the component is inferred, or drawn
        decoded = decode(model, guide, encode(model, guide, *batch), batch=batch)
        torch.testing.assert_close(decoded, found if len(found) > 1 else found["x"])
