r"""Draws against exact answers: enumeration, global latents, plates, masks and scales."""

import math
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, config_enumerate
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from pyro_vae import SVI
from pyro_vae.layout import inspect
from pyro_vae.objectives import ELBO
from pyro_vae.pair import Pair
from pyro_vae.programs import isolated

N, F = 6, 3


def nothing(*batch: Any) -> None:
    r"""The guide of a model whose latents are all summed out."""


def mixture(weights: Tensor, locs: Tensor) -> Any:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            c = pyro.sample("c", dist.Categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(locs[c], 1.0).to_event(1), obs=x)

    return model


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("size", [1, N])
def test_enumeration_is_the_mixture_density(particles: int, size: int) -> None:
    weights, locs = torch.rand(4), torch.randn(4, F)
    components = dist.Normal(locs, 1.0).to_event(1)
    exact = dist.MixtureSameFamily(dist.Categorical(weights), components)
    x = torch.randn(size, F)

    draw = Pair(mixture(weights, locs), nothing).draw((x,), {}, particles)

    expected = exact.log_prob(x).expand(particles, size)
    torch.testing.assert_close(draw.log_weights, expected, rtol=1e-13, atol=0)


def test_enumeration_with_a_chain_a_mask_and_a_nested_plate() -> None:
    r"""c1 -> c2 -> x in a plate of features, data 0 masked, against a sum over all values."""
    start, move, locs = torch.rand(2), torch.rand(2, 3), torch.randn(3)
    x, seen = torch.randn(N, F), torch.arange(N) > 0

    def model(x: Tensor) -> None:
        enumerate_ = {"enumerate": "parallel"}
        with pyro.plate("data", x.shape[0], dim=-2):
            c1 = pyro.sample("c1", dist.Categorical(start), infer=enumerate_)
            c2 = pyro.sample("c2", dist.Categorical(move[c1]), infer=enumerate_)
            with poutine.mask(mask=seen.unsqueeze(-1)), pyro.plate("features", F, dim=-1):
                pyro.sample("x", dist.Normal(locs[c2], 1.0), obs=x)

    p1, p2 = start / start.sum(), move / move.sum(1, keepdim=True)
    likelihood = dist.Normal(locs, 1.0).log_prob(x.unsqueeze(-1)).sum(1).exp()  # (N, 3)
    expected = torch.where(seen, (likelihood * (p1 @ p2)).sum(1).log(), 0.0)

    draw = Pair(model, nothing).draw((x,), {}, 2)
    torch.testing.assert_close(draw.log_weights[1], expected, rtol=1e-12, atol=1e-13)


def test_latents_of_an_enumerated_site_get_the_contracted_prior() -> None:
    r"""log_prior of z is log sum_c p(c) p(z | c), and log_likelihood completes the joint."""
    weights, locs = torch.rand(3), torch.randn(3)

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            c = pyro.sample("c", dist.Categorical(weights), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(locs[c], 1.0))
            pyro.sample("x", dist.Normal(z + c, 0.5), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x, 1.0))

    x = torch.randn(N)
    draw = Pair(model, guide).draw((x,), {}, 4)
    z = draw.values["z"].unsqueeze(-1)
    prior = (weights / weights.sum()).log() + dist.Normal(locs, 1.0).log_prob(z)
    joint = prior + dist.Normal(z + torch.arange(3), 0.5).log_prob(x.unsqueeze(-1))

    torch.testing.assert_close(draw.log_prior["z"], prior.logsumexp(-1))
    torch.testing.assert_close(draw.log_likelihood, joint.logsumexp(-1) - prior.logsumexp(-1))


def test_a_prior_with_an_enumerated_parent_is_sampled() -> None:
    r"""The closed form of KL against one value of c would be −2.00 for −0.95."""
    locs = torch.tensor([-2.0, 2.0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(locs[c.long()], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x.new_full(x.shape, 2.0), 0.5))

    pair, x = Pair(model, guide), torch.tensor([2.0])
    assert not pair.plan((x,), {}).layout.analytic
    draw = pair.draw((x,), {}, 20_000)
    value = ELBO(particles=20_000)(draw).value

    # 20,000 particles: the standard error is that of the weights
    q = dist.Normal(2.0, 0.5)
    grid = torch.linspace(-3.0, 7.0, 20_001)
    prior = torch.stack([dist.Normal(m, 1.0).log_prob(grid) for m in locs]).logsumexp(0)
    integrand = prior - math.log(2) + dist.Normal(grid, 1.0).log_prob(x) - q.log_prob(grid)
    exact = torch.trapezoid(q.log_prob(grid).exp() * integrand, grid)
    error = draw.log_weights.std() / math.sqrt(20_000)
    assert abs(value - exact) < 4 * error
    with pytest.raises(ValueError, match=r"closed form .* \['z'\]"):
        ELBO(kl="analytic")(pair.draw((x,), {}))


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
    assert not Pair(model, guide).plan((x,), {}).layout.analytic
    assert Pair(model, poutine.scale(guide, 0.5)).plan((x,), {}).layout.analytic == {"z"}
    masked = poutine.mask(poutine.scale(guide, 0.5), mask=torch.tensor(True))
    assert not Pair(model, masked).plan((x,), {}).layout.analytic


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


def test_pyros_objects_weigh_global_latents_as_ours() -> None:
    x = torch.randn(N)
    losses = []
    for objective in (ELBO("sampled"), Trace_ELBO()):
        svi = SVI(GlobalMean(), Posterior(), torch.optim.Adam, objective, data_size=1000)
        pyro.set_rng_seed(3)
        losses.append(svi.step(x).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-13)


def enumerated_classes(weights: Tensor, locs: Tensor, mask: Any, size: int) -> Any:
    def model(x: Tensor) -> None:
        rows = torch.arange(x.shape[0])
        with pyro.plate("data", size, subsample=rows, dim=-1), poutine.mask(mask=mask):
            c = pyro.sample("c", dist.Categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(locs[c], 1.0), obs=x)

    return model


@pytest.mark.parametrize("mask", [True, False, torch.arange(N) % 2 == 0])
def test_a_masked_datum_with_a_summed_out_class_has_density_one(mask: Any) -> None:
    r"""A factor of one for each value of c would give log 3."""
    weights, locs, x = torch.rand(3), torch.randn(3), torch.randn(N)
    joint = (weights / weights.sum()).log() + dist.Normal(locs, 1.0).log_prob(x.unsqueeze(-1))
    expected = torch.where(torch.as_tensor(mask), joint.logsumexp(-1), 0.0)
    draw = Pair(enumerated_classes(weights, locs, mask, N), nothing).draw((x,), {}, 2)
    torch.testing.assert_close(draw.log_weights[1], expected, rtol=1e-12, atol=1e-13)


def test_enumeration_under_a_subsampled_data_plate() -> None:
    r"""30/11 * 11/30 is 1 + 2e-16, and no poutine.scale."""
    weights, locs, x = torch.rand(3), torch.randn(3), torch.randn(11)
    joint = (weights / weights.sum()).log() + dist.Normal(locs, 1.0).log_prob(x.unsqueeze(-1))
    draw = Pair(enumerated_classes(weights, locs, True, 30), nothing).draw((x,), {})
    torch.testing.assert_close(draw.log_weights[0], joint.logsumexp(-1))
    assert draw.data_size == 30


@pytest.mark.parametrize("imputed", ["summed out", "drawn"])
def test_an_unobserved_part_below_or_of_an_enumerated_site(imputed: str) -> None:
    r"""c -> y -> x <- c with y observed at datum 0 only, against the sum over all values.

    Drawn from the model, y has weight one: 20,000 weights have the mean p(x), within 4 errors.
    """
    p, q = torch.tensor([0.4, 0.6]), torch.tensor([0.1, 0.8])
    x, y, known = torch.tensor([0.5, 1.5]), torch.tensor([1.0, 0.0]), torch.tensor([True, False])

    def model(x: Tensor) -> None:
        with pyro.plate("data", 2, dim=-1):
            c = pyro.sample("c", dist.Categorical(p), infer={"enumerate": "parallel"})
            label = pyro.sample("y", dist.Bernoulli(q[c]), obs=y, obs_mask=known)
            pyro.sample("x", dist.Normal(c + label, 1.0), obs=x)

    values = torch.arange(2.0)
    likelihood = dist.Normal(values.unsqueeze(-1) + values, 1.0).log_prob(x.view(2, 1, 1)).exp()
    joint = p.unsqueeze(-1) * torch.stack([1 - q, q], -1) * likelihood  # (N, c, y)
    expected = torch.stack([joint[0, :, 1].sum(), joint[1].sum()])

    summed = imputed == "summed out"
    program = config_enumerate(model, "parallel") if summed else model
    weights = Pair(program, nothing).draw((x,), {}, 1 if summed else 20_000).log_weights.exp()
    error = 0 if summed else weights.std(0) / math.sqrt(20_000)
    assert ((weights.mean(0) - expected).abs() <= 4 * error + 1e-12).all()


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
