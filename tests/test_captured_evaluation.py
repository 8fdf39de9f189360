r"""What is evaluated by a compiled graph is what is evaluated eagerly."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor
from zoo import ZOO

from pyro_vae import captured
from pyro_vae.evaluation import decode, encode, evaluate, reconstruct, sample, scores
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.graph import Graph

# the compiler's own
pytestmark = pytest.mark.filterwarnings("ignore")


def same(found: dict[str, Estimate], expected: dict[str, Estimate]) -> None:
    assert list(found) == list(expected)
    for name, estimate in expected.items():
        for part in ("value", "stderr", "data_stderr", "per_datum"):
            torch.testing.assert_close(
                getattr(found[name], part),
                getattr(estimate, part),
                rtol=1e-12,
                atol=1e-12,
                equal_nan=True,
                msg=lambda text, name=name, part=part: f"{name}, {part}: {text}",
            )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    r"""What graphs are called with; no compiler makes them, so that their noise is torch's."""
    found: list[tuple[Any, ...]] = []

    class Noted(Graph):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            found.append(args)
            return super().__call__(*args, **kwargs)

    monkeypatch.setattr(captured, "Graph", partial(Noted, backend="aot_eager"))
    return found


# pairs whose weights are no importance weights of each datum's evidence
BOUND_ONLY = {"global_latent", "subsampled", "masked_and_scaled", "auto_normal"}
BOUND_ONLY |= {"auto_multivariate_normal", "auto_delta", "auto_normal_mixture"}
BOUND_ONLY |= {"auto_normal_infinite_mixture"}

# how many data and particles are computed at once, of seven and five; others take three and two
SIZES = dict.fromkeys(("no_plate", "auto_normal", "auto_multivariate_normal", "auto_delta"), (7, 2))
SIZES["finite_mixture"] = (3, 5)  # nothing is drawn: one particle says all
# what is drawn and never used is not drawn in a graph: then the next call has other noise
SIZES["partly_observed"] = (7, 5)


def fields(batch: tuple[Any, ...]) -> dict[str, Any]:
    return {f"field{i}": field for i, field in enumerate(batch)}


@pytest.mark.parametrize("name", ZOO)
def test_captured_estimates_equal_eager_ones(
    name: str, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, guide, batch = ZOO[name]()
    data = fields(batch)
    metrics = ("elbo",) if name in BOUND_ONLY else ("elbo", "nll")
    rows, particles = SIZES.get(name, (3, 2))
    monkeypatch.setattr(scores, "chunk_sizes", lambda *_: (rows, particles))
    run = partial(evaluate, model, guide, data, metrics, particles=5, inputs=tuple(data))
    same(run(capture=True), run(capture=False))
    assert len(calls) == (7 // rows) * (5 // particles)


@pytest.mark.parametrize("name", ["mixture"])
def test_compiled_estimates_equal_eager_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    r"""With one seed, since on the CPU graphs draw torch's own noise."""
    model, guide, (x,) = ZOO[name]()
    monkeypatch.setattr(scores, "chunk_sizes", lambda *_: (3, 2))
    run = partial(evaluate, model, guide, x, particles=5)
    same(run(capture=True), run(capture=False))


def test_estimates_are_captured_from_a_number_of_whole_chunks_on(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, guide, (x,) = ZOO["vae"]()
    monkeypatch.setattr(scores, "chunk_sizes", lambda *_: (3, 2))
    monkeypatch.setattr(captured, "_WORTH", 5)
    monkeypatch.setattr(captured, "_LARGE", 2 * 3 * 256)  # the hidden layer
    evaluate(model, guide, x, particles=5)
    assert not calls
    monkeypatch.setattr(captured, "_WORTH", 4)
    evaluate(model, guide, x, particles=5)
    assert [(count, tuple(part.shape)) for count, part in calls] == [(2, (3, 5))] * 4


class Overflowing(PyroModule):
    r"""The density is not finite of the data that are 7."""

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0]), 1.0))
            scale = torch.where(x == 7, math.inf, 1.0)
            pyro.sample("x", dist.Normal(z, scale), obs=x)


def overflowing_guide(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0]), 1.0))


def test_a_density_in_a_graph_that_is_not_finite_names_its_site(calls: list[Any]) -> None:
    x = torch.zeros(70)
    x[-1] = 7
    with pytest.raises(
        ValueError, match=r"the model's site 'x' \(Normal\) has the log-density -inf"
    ):
        evaluate(Overflowing(), overflowing_guide, x, particles=4, batch_size=35, capture=True)
    assert len(calls) == 2


def test_one_that_other_noise_does_not_show_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model, guide, (x,) = ZOO["vae"]()
    infinite = partial(torch.full, (2, 7), math.inf)
    monkeypatch.setattr(captured.Captured, "__call__", lambda *_: {"elbo": infinite()})
    with pytest.raises(ValueError, match="in a graph, whose noise is its own: capture=False"):
        evaluate(model, guide, x, particles=2, capture=True)


def test_a_rare_value_that_is_not_finite_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x, 1.0))
            pyro.sample("x", dist.Normal(z, torch.where(z > 4, math.inf, 1.0)), obs=x)

    # of 1400 values 0.04 are above 4
    monkeypatch.setattr(scores, "chunk_sizes", lambda *_: (7, 200))
    with pytest.raises(ValueError, match=r"the model's site 'x' .+ -inf at . of 1400 places"):
        evaluate(model, overflowing_guide, torch.zeros(7), particles=10**5)


def tree(found: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    return found if isinstance(found, dict) else {"": found}


def equal(run: Callable[..., Any]) -> None:
    found, expected = tree(run(capture=True)), tree(run(capture=False))
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=name)


# one of each kind of latents: what is captured of a model and its guide, the estimates show
LATENTS = ("vae", "top_down", "mixture", "auxiliary", "global_latent", "subsampled", "no_plate")


@pytest.mark.parametrize("name", LATENTS)
def test_captured_codes_equal_eager_ones(name: str, calls: list[Any]) -> None:
    model, guide, batch = ZOO[name]()
    size, _ = SIZES.get(name, (3, 2))
    equal(partial(encode, model, guide, *batch, draws=2, batch_size=size))
    assert len(calls) == 2 * (7 // size)
    equal(partial(reconstruct, model, guide, *batch, batch_size=size))
    assert len(calls) == 3 * (7 // size)


@pytest.mark.parametrize("name", ["vae", "levels", "mixture", "global_latent"])
def test_captured_draws_equal_eager_ones(name: str, calls: list[Any]) -> None:
    model, guide, batch = ZOO[name]()
    equal(partial(encode, model, guide, *batch, batch_size=3))
    equal(partial(sample, model, guide, n=7, batch=batch, batch_size=3))
    assert len(calls) == 4
    # what is drawn of x is not used: the next batch would have other noise
    equal(partial(sample, model, guide, n=7, mean=True, batch=batch, batch_size=7))
    codes = encode(model, guide, *batch, capture=False)
    equal(partial(decode, model, guide, codes, batch=batch, batch_size=7))
    assert len(calls) == 6


def test_means_that_are_not_finite_are_looked_at_eagerly(calls: list[Any]) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x, 1.0))
            pyro.sample("x", dist.StudentT(x + 0.5, z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Cauchy(x, 1.0))

    x = torch.tensor([1.0, 2.0, 0.3, 4.0])
    found = encode(model, guide, x, batch_size=2, capture=True)
    torch.testing.assert_close(found["z"], x)
    # of 0.8 degrees of freedom there is no mean: then the mode is taken of that batch
    equal(partial(reconstruct, model, guide, x, batch_size=2))
    assert len(calls) == 4
