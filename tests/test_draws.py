r"""Draws against exact answers: global latents, plates, masks and scales."""

import math
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from zoo import ZOO

from pyro_vae import SVI
from pyro_vae.layout import inspect
from pyro_vae.objectives import ELBO
from pyro_vae.pair import Pair
from pyro_vae.programs import isolated

N, F = 6, 3


def nothing(*batch: Any) -> None:
    r"""The guide of a model whose latents are all summed out."""


class GlobalMean(PyroModule):
    def forward(self, x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


class Posterior(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(1.0))
        self.scale = PyroParam(torch.tensor(0.1), constraints.positive)

    def forward(self, x: Tensor) -> None:
        pyro.sample("mu", dist.Normal(self.loc, self.scale))


@pytest.mark.parametrize("objective", [ELBO(particles=100), ELBO("sampled", particles=100)])
def test_a_global_latent_weighs_as_much_as_its_data(objective: ELBO) -> None:
    r"""1,000 data in batches of 10: the posterior's sd is 1/sqrt(1001), 0.0316, within 5 %.

    A wrong weight gives 0.32 (one batch) or 0.066. The mean is exact up to the last rates' noise.
    """
    x = 1.5 + torch.randn(1000)
    model, guide = GlobalMean(), Posterior()
    adam = partial(torch.optim.Adam, lr=0.02)
    svi = SVI(model, guide, adam, objective, data_size=1000, reduction="mean")
    steps = 1000
    for step in range(steps):
        svi.step(x[torch.randint(1000, (10,))])
        for group in svi.optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / steps) ** 2 + 1e-5

    exact = 1 / math.sqrt(1001)
    assert guide.scale.item() == pytest.approx(exact, rel=0.05)
    assert guide.loc.item() == pytest.approx(x.sum().item() / 1001, abs=exact)


def linear_gaussian() -> tuple[Any, Tensor, float]:
    r"""z2 ~ N(0, 1), z1 ~ N(z2, 1), x ~ N(z1, 1): x ~ N(0, 3)."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(()), 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    x = torch.tensor([1.0])
    return model, x, dist.Normal(0.0, math.sqrt(3)).log_prob(x).item()


def bottom_up(x: Tensor) -> None:
    r"""The exact posterior, z1 | x then z2 | z1."""
    with pyro.plate("data", x.shape[0], dim=-1):
        z1 = pyro.sample("z1", dist.Normal(2 * x / 3, math.sqrt(2 / 3)))
        pyro.sample("z2", dist.Normal(z1 / 2, math.sqrt(0.5)))


def top_down(x: Tensor) -> None:
    r"""The exact posterior, z2 | x then z1 | z2, x."""
    with pyro.plate("data", x.shape[0], dim=-1):
        z2 = pyro.sample("z2", dist.Normal(x / 3, math.sqrt(2 / 3)))
        pyro.sample("z1", dist.Normal((x + z2) / 2, math.sqrt(0.5)))


@pytest.mark.parametrize(("guide", "analytic"), [(bottom_up, {"z2"}), (top_down, {"z1", "z2"})])
def test_two_layers_in_either_order(guide: Any, analytic: set[str]) -> None:
    r"""At the exact posterior the bound is log p, −1.63…, whichever way the guide goes."""
    model, x, evidence = linear_gaussian()
    pair = Pair(model, guide)
    assert pair.plan((x,), {}).layout.analytic == analytic

    draw = pair.draw((x,), {}, 50_000)
    assert draw.log_weights.std() < 1e-12  # the posterior is exact
    terms = ELBO(particles=50_000)
    draws = torch.stack([terms(pair.draw((x,), {}, 1000)).value for _ in range(20)])
    # twenty means of a thousand: four standard errors
    assert abs(draws.mean() - evidence) < 4 * draws.std() / math.sqrt(20)


def test_scale_and_mask_in_one_program_only_are_sampled() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1), poutine.scale(scale=0.5):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    x = torch.randn(N)
    assert not Pair(model, guide).draw((x,), {}).kl
    assert set(Pair(model, poutine.scale(guide, 0.5)).draw((x,), {}).kl) == {"z"}
    masked = poutine.mask(poutine.scale(guide, 0.5), mask=torch.tensor(True))
    assert not Pair(model, masked).draw((x,), {}).kl


def plated(name: str, dim: int = -1) -> Any:
    def model(x: Tensor) -> None:
        with pyro.plate(name, x.shape[0], dim=dim):
            pyro.sample("x", dist.Normal(x.new_zeros(()), 1.0), obs=x)

    return model


def test_the_data_plate_is_found() -> None:
    x = torch.randn(N)

    def layout(model: Any, plate: str | None = None) -> str | None:
        return inspect(model, nothing, (x,), {}, plate).plate

    def two(x: Tensor) -> None:
        with pyro.plate("rows", N, dim=-2), pyro.plate("columns", N, dim=-1):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x.outer(x))

    assert layout(plated("data")) == "data"
    assert layout(plated("images")) == "images"
    assert layout(two) is None
    assert layout(two, "rows") == "rows"
    with pytest.raises(ValueError, match=r"one of \['columns', 'rows'\], got 'images'"):
        layout(two, "images")


@pytest.mark.parametrize("plate", ["rows", "columns"])
def test_densities_sum_over_all_plates_but_the_datas(plate: str) -> None:
    x = torch.randn(4, 5)

    def model(x: Tensor) -> None:
        with pyro.plate("rows", 4, dim=-2), pyro.plate("columns", 5, dim=-1):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    layout = inspect(model, nothing, (x,), {}, plate)
    draw = Pair(model, nothing, plate).draw((x,), {}, 2)
    expected = dist.Normal(0.0, 1.0).log_prob(x).sum(1 if plate == "rows" else 0)
    assert layout.nesting == 2
    torch.testing.assert_close(draw.log_likelihood[1], expected)


def test_no_two_instances_share_a_parameter() -> None:
    r"""In plain Pyro the second one reads the first one's scale, and the test fails."""
    first, second = Posterior(), Posterior()
    second.scale = torch.tensor(7.0)
    x = torch.randn(N)
    isolated(first)(x)
    trace = poutine.trace(isolated(second)).get_trace(x)
    assert trace.nodes["mu"]["fn"].scale.item() == pytest.approx(7.0)
    assert not list(pyro.get_param_store())

    for guide, rate in ((first, 1e-2), (second, 0.0)):
        sgd = partial(torch.optim.SGD, lr=rate)
        SVI(GlobalMean(), guide, sgd).step(x)
    assert first.scale.item() != pytest.approx(0.1)
    assert second.scale.item() == pytest.approx(7.0)


def test_param_statements_inside_a_module_reach_the_store() -> None:
    class Model(PyroModule):
        def forward(self, x: Tensor) -> None:
            loc = pyro.param("loc", lambda: torch.tensor(0.5))
            with pyro.plate("data", x.shape[0], dim=-1):
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    x = torch.tensor([3.0, 5.0])
    svi = SVI(Model(), nothing, partial(torch.optim.SGD, lr=0.25))
    svi.step(x)
    # the gradient of the sum is 3 + 5 - 2 * 0.5
    assert pyro.param("loc").item() == pytest.approx(0.5 + 0.25 * 7)


def test_errors_name_the_site() -> None:
    x = torch.randn(N)

    def latent(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def outside(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(x.new_zeros(x.shape), 1.0).to_event(1))

    def extra(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x, 1.0))
            pyro.sample("w", dist.Normal(x, 1.0))

    def shared(x: Tensor) -> None:
        c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    def scaled(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            with poutine.scale(scale=0.5):
                pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    cases = [
        (latent, nothing, r"every latent of the model, got none of \['z'\]"),
        (latent, extra, r"latent of the model, got \['w'\] besides"),
        (shared, nothing, r"inside the data plate 'data', got \['c'\]"),
        (scaled, nothing, r"no poutine.scale at site 'x'.* got 0.5"),
    ]
    for model, guide, match in cases:
        with pytest.raises(ValueError, match=match):
            Pair(model, guide).draw((x,), {}).log_weights  # noqa: B018
    with pytest.raises(ValueError, match="site 'z' inside plate 'data' in both programs"):
        Pair(latent, outside).plan((x,), {})


def test_a_data_plate_of_two_sizes_is_refused() -> None:
    r"""A guide's plate of one would broadcast: one latent for all data."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", 1, dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))

    with pytest.raises(ValueError, match=r"'data' to have one size in both programs, got \[1, 6\]"):
        Pair(model, guide).plan((torch.randn(N),), {})


@pytest.mark.parametrize("objective", [ELBO(), Trace_ELBO()])
def test_latents_of_all_data_in_one_site_need_all_data(objective: Any) -> None:
    r"""In AutoMultivariateNormal the entropy of local latents would count 1/N of each."""
    model, _, (x,) = ZOO["auto_normal"]()

    def step(guide: Any, size: int | None) -> None:
        SVI(model, guide, torch.optim.Adam, objective, data_size=size).step(x)

    with pytest.raises(ValueError, match=r"whole data in one batch .* got 7 of 100 data.*AutoNorm"):
        step(AutoMultivariateNormal(model), 100)
    step(AutoMultivariateNormal(model), None)
    step(AutoNormal(model), 100)
    model, guide, (x,) = ZOO["auto_multivariate_normal"]()  # without local latents
    step(guide, 100)


def test_pyros_objects_weigh_global_latents_as_ours() -> None:
    x = torch.randn(N)
    losses = []
    for objective in (ELBO("sampled"), Trace_ELBO()):
        svi = SVI(GlobalMean(), Posterior(), torch.optim.Adam, objective, data_size=1000)
        pyro.set_rng_seed(3)
        losses.append(svi.step(x).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-13)


@pytest.mark.parametrize("first", [4, 20])
def test_a_subsampled_plate_may_once_hold_all_data(first: int) -> None:
    r"""Whether a batch is a part is seen at each batch, not at the first."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", 20, subsample=torch.arange(x.shape[0]), dim=-1):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    x = torch.randn(20)
    pair = Pair(model, nothing)
    pair.plan((x[:first],), {})
    draw = pair.draw((x[:4],), {})
    torch.testing.assert_close(draw.log_likelihood[0], dist.Normal(0.0, 1.0).log_prob(x[:4]))
    assert draw.data_size == 20


@pytest.mark.parametrize("wrap", [lambda m: poutine.scale(m, 1.0), lambda m: partial(m, flag=True)])
def test_handlers_and_partials_do_not_hide_a_module(wrap: Any) -> None:
    class Normalised(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(F)

        def forward(self, x: Tensor, flag: bool = True) -> None:
            with pyro.plate("data", x.shape[0], dim=-1):
                pyro.sample("x", dist.Normal(self.norm(x), 1.0).to_event(1), obs=x)

    pair = Pair(wrap(Normalised()), nothing)
    pair.plan((torch.randn(N, F),), {})
    assert pair.state().keys() >= {"model.norm.weight", "model.norm.running_mean"}
    assert pair.state()["model.norm.num_batches_tracked"] == 0
    assert not list(pyro.get_param_store())
