r"""The joint density of data and latents in unconstrained coordinates."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import biject_to, constraints
from zoo import ZOO

from pyro_vae.evaluation.joint import Joint
from pyro_vae.pair import Pair

LOCAL = [
    *("vae", "levels", "plain_functions", "bottom_up", "top_down", "mixture", "nested_plates"),
    *("batch_norm_and_dropout", "auxiliary", "partly_observed"),
]


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("name", LOCAL)
def test_joint_is_that_of_a_draw(name: str, particles: int) -> None:
    model, guide, batch = ZOO[name]()
    model, guide = (p.eval() if isinstance(p, nn.Module) else p for p in (model, guide))
    draw = Pair(model, guide).draw(batch, {}, particles)
    joint = Joint(model, batch, particles)
    log_prior, log_likelihood = joint(joint.pack(draw.values))

    expected = draw.combine(draw.log_prior.items())
    if name == "auxiliary":  # z = exp(u)
        expected = expected + draw.values["z"].log().sum(-1)
    torch.testing.assert_close(log_prior, expected)
    torch.testing.assert_close(log_likelihood, draw.log_likelihood)


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("name", [*LOCAL, "no_plate"])
def test_latents_are_packed_and_unpacked(name: str, particles: int) -> None:
    model, _, batch = ZOO[name]()
    joint = Joint(model, batch, particles)
    u = joint.draw_prior()
    found = {site: z for site, (z, _) in joint.unpack(u).items()}
    torch.testing.assert_close(joint.pack(found), u)
    for site, z in found.items():
        assert z.shape == joint.sites[site]["value"].shape
        assert joint.sites[site]["fn"].support.check(z).all()


def test_each_vector_is_that_of_its_own_datum() -> None:
    model, _, batch = ZOO["nested_plates"]()
    joint = Joint(model, batch, 3)
    u = joint.draw_prior()
    before = torch.stack(joint(u))
    u[1, 2] += 1
    changed = (torch.stack(joint(u)) != before).any(0)
    assert changed.nonzero().tolist() == [[1, 2]]


def test_latents_with_fewer_coordinates_than_dimensions() -> None:
    r"""A matrix of which the coordinates are a vector."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            factor = pyro.sample("factor", dist.LKJCholesky(3, x.new_ones(())))
            pyro.sample("x", dist.Normal(factor[..., 1, 0], 1.0), obs=x)

    joint = Joint(model, (torch.randn(4),), 5)
    u = joint.draw_prior()
    assert u.shape == (5, 4, 3)
    factor = joint.unpack(u)["factor"][0]
    assert factor.shape == (5, 4, 3, 3)
    torch.testing.assert_close(joint.pack({"factor": factor}), u)
    torch.testing.assert_close(factor[1, 2], biject_to(constraints.corr_cholesky)(u[1, 2]))


def poisson(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), 1.5))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def test_density_of_constrained_latents_has_mass_one() -> None:
    r"""By the trapezoidal rule; beyond the grid lie 1e-12."""
    x = torch.tensor([0.0, 3.0])
    grid = torch.linspace(-16, 4, 4001)
    joint = Joint(poisson, (x,), len(grid))
    log_prior, log_likelihood = joint(grid[:, None, None].expand(-1, 2, 1))
    step = float(grid[1] - grid[0])
    torch.testing.assert_close((log_prior.exp() * step).sum(0), torch.ones(2), rtol=0, atol=1e-9)
    evidence = ((log_prior + log_likelihood).exp() * step).sum(0)
    torch.testing.assert_close(evidence.log(), dist.GammaPoisson(2.0, 1.5).log_prob(x))


def multinomial(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        p = pyro.sample("p", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
        pyro.sample("x", dist.Categorical(p), obs=x)


def test_density_on_the_simplex_has_mass_one() -> None:
    x = torch.arange(3)
    axis = torch.linspace(-20, 20, 201)
    grid = torch.cartesian_prod(axis, axis)
    joint = Joint(multinomial, (x,), len(grid))
    log_prior, log_likelihood = joint(grid[:, None].expand(-1, 3, 2))
    area = 2 * math.log(float(axis[1] - axis[0]))
    evidence = (log_prior + log_likelihood).logsumexp(0) + area
    expected = torch.tensor([1.0, 2.0, 3.0]) / 6
    torch.testing.assert_close(evidence.exp(), expected, rtol=0, atol=1e-6)
