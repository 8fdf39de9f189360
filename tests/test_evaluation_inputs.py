r"""What is evaluated: units, draws, order and modes of what programs get, and their errors."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from test_evaluation import N, global_mean, nothing, observed
from torch import Tensor, nn
from zoo import ZOO

from pyro_vae.data import load
from pyro_vae.evaluation import evaluate


def test_density_is_in_the_units_of_the_data() -> None:
    x = 3 + 2 * torch.randn(50, 2)
    data = load(x, standardize=True)
    standardization = data.standardization
    assert standardization is not None
    standard = observed(lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1))

    rows = data.restore(data.test["x"])
    expected = dist.Normal(standardization.loc, standardization.scale).to_event(1).log_prob(rows)
    found = evaluate(standard, nothing, data, particles=2)
    for name, sign in (("elbo", 1), ("log_likelihood", 1), ("nll", -1)):
        torch.testing.assert_close(found[name].per_datum, sign * expected)


def test_dynamic_binarisation_is_drawn_once_from_the_seed() -> None:
    data = load(torch.rand(40, 3), binarization="dynamic")
    coin = observed(lambda: dist.Bernoulli(torch.tensor([0.1, 0.5, 0.8])).to_event(1))
    first, again, other = (
        evaluate(coin, nothing, data, ("nll",), 1, seed=seed)["nll"] for seed in (3, 3, 4)
    )

    generator = torch.Generator().manual_seed(3)
    x = data.epoch("test", generator)["x"]
    expected = dist.Bernoulli(torch.tensor([0.1, 0.5, 0.8])).to_event(1).log_prob(x)
    torch.testing.assert_close(first.per_datum, -expected)
    assert first.per_datum.equal(again.per_datum)
    assert not first.per_datum.equal(other.per_datum)
    assert first.seed == 3


def test_inputs_are_passed_in_order() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    fields = {"y": torch.randn(N), "other": torch.randn(3), "x": torch.randn(N)}
    nll = evaluate(model, nothing, fields, ("nll",), 2, inputs=("x", "y"))["nll"]
    expected = dist.Normal(fields["y"], 1.0).log_prob(fields["x"])
    torch.testing.assert_close(nll.per_datum, -expected)


def test_nothing_is_left_behind() -> None:
    model, guide, batch = ZOO["batch_norm_and_dropout"]()
    guide.encoder.eval()
    modes = [m.training for m in (*model.modules(), *guide.modules())]
    state = {name: t.clone() for name, t in model.state_dict().items()}
    pyro.set_rng_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = (evaluate(model, guide, batch[0], particles=5) for _ in range(2))

    assert first["nll"].per_datum.equal(second["nll"].per_datum)
    assert not first["nll"].per_datum.requires_grad
    assert torch.get_rng_state().equal(before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert [m.training for m in (*model.modules(), *guide.modules())] == modes
    assert all(t.equal(state[name]) for name, t in model.state_dict().items())
    assert torch.is_grad_enabled()


def test_modules_run_in_evaluation_mode() -> None:
    dropout = nn.Dropout(0.5)

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(dropout(x), 1.0).to_event(1), obs=x)

    nll = evaluate(model, nothing, torch.ones(N, 3), ("nll",), 2)["nll"]
    assert nll.value == pytest.approx(1.5 * math.log(2 * math.pi))
    assert dropout.training


def scaled(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1), poutine.scale(scale=0.5):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def infinite(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("fine", dist.Normal(0.0, 1.0), obs=x)
        pyro.factor("broken", x / 0.0)


def fixed(x: Tensor) -> None:
    with pyro.plate("data", 3, dim=-1):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[:3])


normal = observed(lambda: dist.Normal(0.0, 1.0))


mean_field = ZOO["global_latent"]()[1]


@pytest.mark.parametrize(
    "model, guide, data, arguments, match",
    [
        (normal, nothing, torch.ones(3), {"metrics": ("elbow",)}, r"expected metrics .*elbow"),
        (normal, nothing, torch.ones(3), {"metrics": "nll"}, r"expected metrics .* got 'nll'"),
        (normal, nothing, torch.ones(3), {"metrics": ()}, r"expected metrics"),
        (normal, nothing, torch.ones(3), {"particles": 0}, r"particles of at least 1, got 0"),
        (normal, nothing, torch.ones(3), {"batch_size": 0}, r"batch_size of at least 1"),
        (normal, nothing, torch.ones(3), {"data_size": -1}, r"data_size of at least 1, got -1"),
        (normal, nothing, {"y": torch.ones(3)}, {}, r"inputs among the fields \['y'\], .*'x'"),
        (normal, nothing, torch.ones(0), {}, r"at least one row, got \{'x': 0\}"),
        (
            normal,
            nothing,
            {"x": torch.ones(2), "y": torch.ones(3)},
            {"inputs": ("x", "y")},
            r"inputs of one length.*'x': 2, 'y': 3",
        ),
        (normal, nothing, torch.ones(3), {"device": "cuda:99"}, r"^expected a device that is here"),
        (normal, nothing, torch.ones(()), {}, r"at least one row"),
        (global_mean, mean_field, torch.ones(3), {}, r"local latents only .*\['mu'\]"),
        (scaled, nothing, torch.ones(3), {}, r"no poutine.scale .*got 0.5 at site 'x'"),
        (infinite, nothing, torch.ones(3), {}, r"finite log-densities.*model's site 'broken'"),
        (fixed, nothing, torch.ones(5), {}, r"plate 'data' to hold the 5 rows .*got \[3\]"),
    ],
)
def test_errors(model: Any, guide: Any, data: Any, arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        evaluate(model, guide, data, **{"particles": 2, **arguments})


@pytest.mark.parametrize(
    "data, arguments, match",
    [
        ("digits", {}, r"tensor, an array, a mapping of them or a Data, got x of type str: load"),
        ({"x": [1.0]}, {}, r"got x of type list"),
        (torch.ones(3), {"inputs": "x"}, r"inputs to be names in a tuple, got a str: \('x',\)"),
        (torch.ones(3), {"particles": 2.5}, r"particles to be an integer, got 2.5"),
        (torch.ones(3), {"batch_size": 2.5}, r"batch_size to be an integer, got 2.5"),
        (torch.ones(3), {"data_size": 3.0}, r"data_size to be an integer, got 3.0"),
    ],
)
def test_type_errors(data: Any, arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(TypeError, match=match):
        evaluate(normal, nothing, data, **arguments)


def test_scale_and_global_latents_are_fine_for_the_bound() -> None:
    x = torch.randn(N)
    elbo = evaluate(scaled, nothing, x, ("elbo",), 2)["elbo"]
    torch.testing.assert_close(elbo.per_datum, dist.Normal(0, 1).log_prob(x) / 2)
