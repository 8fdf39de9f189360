r"""Importance-weighted bounds on every pair: which train, which are refused, what they cost."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import N
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn
from zoo import ZOO

from pyro_vae import SVI
from pyro_vae.objectives import CIWAE, ELBO, IWAE, MIWAE, PIWAE, TVO, Renyi
from pyro_vae.pair import Pair

FAMILY: dict[str, Callable[[], Any]] = {
    "IWAE": lambda: IWAE(3),
    "IWAE, stl": lambda: IWAE(3, "stl"),
    "IWAE, dreg": lambda: IWAE(3, "dreg"),
    "MIWAE": lambda: MIWAE(2, 3),
    "PIWAE": lambda: PIWAE(2, 3),
    "CIWAE": lambda: CIWAE(0.3, 3),
    "Renyi": lambda: Renyi(0.5, 3),
    "TVO": lambda: TVO(3),
}


UNFIT = {
    **{("subsampled", name): r"global latents \['mu'\] and 7 of 100 data" for name in FAMILY},
    **{("masked_and_scaled", name): "no poutine.scale .* 0.5 at site 'z'" for name in FAMILY},
    ("auto_normal", "TVO"): "'mu_unconstrained', a point or",
    ("auto_normal_mixture", "TVO"): "'weights_unconstrained', a point or",
    ("auto_normal_infinite_mixture", "TVO"): "'concentration_unconstrained', a point or",
    ("auto_multivariate_normal", "TVO"): "'_AutoMultivariateNormal_latent', a point or",
    ("auto_delta", "TVO"): "'mu', a point or",
    ("auxiliary", "TVO"): "'u', a point or",
}


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("row", ZOO)
def test_every_pair_trains_or_is_refused(row: str, name: str) -> None:
    model, guide, batch = ZOO[row]()
    svi = SVI(model, guide, torch.optim.Adam, FAMILY[name](), reduction="mean")
    if match := UNFIT.get((row, name)):
        with pytest.raises(ValueError, match=match):
            svi.step(*batch)
        return
    loss, metrics = svi.step_with_metrics(*batch)
    for parameter, tensor in svi.pair.parameters.items():
        assert tensor.grad is not None, parameter
        assert tensor.grad.any(), parameter
    assert -loss == metrics["objective"]
    total = metrics["log_likelihood"] - sum(v for n, v in metrics.items() if n.startswith("kl."))
    torch.testing.assert_close(metrics["elbo"], total)


@pytest.mark.parametrize("scaled", ["model", "guide"])
def test_a_scale_in_one_program_is_refused(scaled: str) -> None:
    programs: dict[str, Any] = {}
    programs["model"], programs["guide"], batch = ZOO["vae"]()
    programs[scaled] = poutine.scale(programs[scaled], scale=0.5)
    draw = Pair(programs["model"], programs["guide"]).draw(batch, {}, 2)
    with pytest.raises(ValueError, match=r"no poutine.scale .* 0.5 at site '[xz]'"):
        IWAE(2)(draw)


@pytest.mark.parametrize("name", FAMILY)
def test_metrics_show_the_elbo_of_the_draw(name: str) -> None:
    r"""On the same noise, in whatever way the objective differentiates it."""
    found = []
    ours = FAMILY[name]()
    for objective in (ours, ELBO(particles=ours.particles)):
        pyro.set_rng_seed(0)
        model, guide, batch = ZOO["vae"]()
        svi = SVI(model, guide, torch.optim.Adam, objective)
        pyro.set_rng_seed(1)
        found.append(svi.step_with_metrics(*batch)[1])
    for key in ("elbo", "log_likelihood", "kl.z"):
        torch.testing.assert_close(found[0][key], found[1][key])


def discrete(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", dist.Bernoulli(logits=x))


def bits(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("name", [name for name in FAMILY if name != "TVO"])
def test_discrete_latents_are_named(name: str) -> None:
    objective = FAMILY[name]()
    draw = Pair(bits, discrete).draw((torch.randn(N),), {}, objective.particles)
    with pytest.raises(ValueError, match=r"got Bernoulli at 'z'"):
        objective(draw)


class Shared(PyroModule):
    r"""A model and a guide with one parameter."""

    def __init__(self, loc: nn.Parameter, guide: bool) -> None:
        super().__init__()
        self.loc, self.is_guide = loc, guide

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(self.loc.expand(x.shape[0]), 1.0))
            if not self.is_guide:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("name", ["PIWAE", "IWAE, dreg"])
def test_different_ends_need_different_parameters(name: str) -> None:
    loc = nn.Parameter(torch.tensor(0.3))
    svi = SVI(Shared(loc, False), Shared(loc, True), torch.optim.Adam, FAMILY[name]())
    with pytest.raises(ValueError, match=r"no parameter in both programs, .*loc"):
        svi.step(torch.randn(N))


@pytest.mark.parametrize("name", ["IWAE", "IWAE, stl", "MIWAE", "CIWAE", "Renyi", "TVO"])
def test_one_end_needs_one_pass(name: str) -> None:
    r"""So that parameters may be shared, and the decoder is differentiated once."""
    loc, objective = nn.Parameter(torch.tensor(0.3)), FAMILY[name]()
    programs = Shared(loc, False), Shared(loc, True)
    bound = objective(Pair(*programs).draw((torch.randn(N),), {}, objective.particles))
    assert bound.guide is bound.model
    SVI(*programs, torch.optim.Adam, objective).step(torch.randn(N))
    assert loc.grad.any()


def all_as_one(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def too_wide(x: Tensor) -> None:
    r"""The posterior, whose scale is 0.3, but for its scale."""
    pyro.sample("mu", dist.Normal(x.sum() / (x.shape[0] + 1), 0.5))


WHOLE = {
    "IWAE": lambda: IWAE(50),
    "IWAE, dreg": lambda: IWAE(50, "dreg"),
    "MIWAE": lambda: MIWAE(5, 10),
    "PIWAE": lambda: PIWAE(5, 10),
    "CIWAE": lambda: CIWAE(0.1, 50),
    "Renyi": lambda: Renyi(0.2, 50),
    "TVO": lambda: TVO(50, 20, 0.05),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_bound_with_a_global_latent_is_one_of_all_data(name: str) -> None:
    r"""Mean of 300 draws below log p within 4 standard errors; bounds of single data are not."""
    x, objective = 1.5 + torch.randn(10), WHOLE[name]()
    covariance = torch.eye(10) + torch.ones(10, 10)
    exact = dist.MultivariateNormal(torch.zeros(10), covariance).log_prob(x)
    pair = Pair(all_as_one, too_wide)
    draws = [pair.draw((x,), {}, 50) for _ in range(300)]
    values = torch.stack([objective(draw).value.sum() for draw in draws])
    error = values.std() / math.sqrt(300)

    assert values.mean() - exact < 4 * error
    assert exact - values.mean() < 0.5  # nor is it a trivial one
    singles = torch.stack([draw.log_weights.logsumexp(0).sum() for draw in draws])
    assert singles.mean() - 10 * math.log(50) > exact + 0.1
    with pytest.raises(ValueError, match=r"one batch, .* got global latents \['mu'\]"):
        objective(pair.draw((x,), {}, 50, data_size=11))


@contextmanager
def counted(*networks: nn.Module) -> Iterator[list[Any]]:
    r"""What each network was called with, in order."""
    calls: list[Any] = []
    handles = [
        network.register_forward_hook(lambda net, x, _: calls.append((net, x[0].shape)))
        for network in networks
    ]
    yield calls
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", FAMILY)
def test_particles_cost_one_pass_of_each_network(name: str) -> None:
    model, guide, (x,) = ZOO["vae"]()
    objective = FAMILY[name]()
    svi = SVI(model, guide, torch.optim.Adam, objective)
    svi.step(x)
    with counted(guide.encoder, model.decoder) as calls:
        svi.step(x)
    k = objective.particles
    assert calls == [(guide.encoder, x.shape), (model.decoder, torch.Size((k, len(x), 2)))]


@pytest.mark.parametrize("name", FAMILY)
def test_stopping_a_chain_costs_a_second_pass_of_the_guide(name: str) -> None:
    model, guide, (x,) = ZOO["bottom_up"]()
    svi = SVI(model, guide, torch.optim.Adam, FAMILY[name]())
    svi.step(x)
    with counted(guide.first, guide.second, model.prior, model.decoder) as calls:
        svi.step(x)
    passes = 2 if "stl" in name or "dreg" in name else 1
    counts = [sum(net is called for called, _ in calls) for net in (guide.first, guide.second)]
    assert counts == [passes, passes]
    assert [sum(net is n for n, _ in calls) for net in (model.prior, model.decoder)] == [1, 1]
