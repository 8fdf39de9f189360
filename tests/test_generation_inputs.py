r"""What codes, reconstructions and samples are made of: rows as they come, and their errors."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import D, F, Linear
from torch import Tensor
from zoo import ZOO

from pyro_vae.data import load
from pyro_vae.evaluation import decode, diagnose, encode, evaluate, impute, reconstruct, sample
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.nn import masked_mlp, mlp


@pytest.fixture
def linear() -> Linear:
    return Linear()


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


def holed(linear: Linear) -> Tensor:
    x = linear.x.clone()
    x[1, 2] = math.nan
    return x


@pytest.mark.parametrize("call", [evaluate, impute, diagnose])
@pytest.mark.parametrize("encoder", [mlp, masked_mlp])
def test_missing_data_are_explained_in_one_line(linear: Linear, encoder: Any, call: Any) -> None:
    guide = AmortizedNormal((F,), {"z": D}, encoder(F, 2 * D).double())
    match = rf"^expected finite data, got 1 NaN of {linear.x.numel()} values: .* a Masked likel"
    with pytest.raises(ValueError, match=match) as caught:
        call(linear.model, guide, holed(linear))
    assert "\n" not in str(caught.value)


def test_missing_data_are_not_blamed_for_weights_or_shapes(linear: Linear) -> None:
    guide = AmortizedNormal((F,), {"z": D}, masked_mlp(F, 2 * D).double())
    x = holed(linear)
    with pytest.raises(ValueError, match=r"programs take, got shapes .* mat1 and mat2"):
        evaluate(linear.model, by_network(), torch.cat([x, x], dim=1))
    with torch.no_grad():
        next(guide.parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match=r"programs take, got shapes .* Expected parameter loc"):
        evaluate(linear.model, guide, x)


def test_missing_data_are_not_blamed_for_numbers_that_a_program_got_wrong(linear: Linear) -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x), D), -1.0).to_event(1))

    x = holed(linear)
    with pytest.raises(ValueError, match=r"programs take, got shapes .* Expected parameter scale"):
        evaluate(linear.model, guide, x)
    x[0, 0] = math.inf  # which no program can make sense of
    with pytest.raises(ValueError, match=r"^expected finite data, got 1 NaN and 1 infinite of"):
        evaluate(linear.model, guide, x)


def test_networks_without_weights_yet_do_not_hide_an_error(linear: Linear) -> None:
    class Guide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = torch.nn.LazyLinear(D)

        def forward(self, x: Tensor) -> None:
            raise ValueError("mine")

    with pytest.raises(ValueError, match=r"programs take, got shapes .*: mine$"):
        evaluate(linear.model, Guide(), linear.x)


def test_errors_of_the_users_stay_what_they_are(linear: Linear) -> None:
    class OwnError(ValueError):
        pass

    def guide(x: Tensor) -> None:
        raise OwnError("mine")

    with pytest.raises(OwnError, match=r"^mine$"):
        encode(linear.model, guide, linear.x)
