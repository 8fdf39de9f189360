r"""Discrete sites summed out, against sums over all their values."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from torch import Tensor

from pyro_vae import SVI
from pyro_vae.objectives import ELBO
from pyro_vae.pair import Pair

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


def partly_labelled(theta: Tensor, y: Tensor, known: Tensor) -> Any:
    r"""y ~ B(theta), seen in part, then x ~ N(3 y, 1)."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            label = pyro.sample("y", dist.Bernoulli(theta), obs=y, obs_mask=known)
            pyro.sample("x", dist.Normal(3 * label, 1.0), obs=x)

    return model


def test_an_unobserved_part_that_others_depend_on_must_be_summed_out() -> None:
    r"""Its gradient would be that of log B(y; theta) at the seen data only."""
    theta = torch.tensor(0.3, requires_grad=True)
    x, y = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([1.0, 0.0, 0.0])
    model = partly_labelled(theta, y, torch.tensor([True, False, False]))
    objective = ELBO()

    with pytest.raises(ValueError, match=r"Bernoulli at 'y_unobserved'.*config_enumerate"):
        objective(Pair(model, nothing).draw((x,), {}))

    svi = SVI(config_enumerate(model, "parallel"), nothing, torch.optim.Adam, objective)
    svi.step(x)
    one, zero = (dist.Normal(loc, 1.0).log_prob(x[1:]).exp() for loc in (3.0, 0.0))
    exact = 1 / 0.3 + ((one - zero) / (0.3 * one + 0.7 * zero)).sum()
    assert theta.grad.item() == pytest.approx(-exact.item())


def test_an_unobserved_part_with_a_constant_prior_may_be_drawn() -> None:
    r"""No gradient is lost: with an offset, that of x ~ N(3 y + offset, 1) is a residual."""
    offset = torch.tensor(0.5, requires_grad=True)
    x, y = torch.randn(N), torch.ones(N)
    labelled = partly_labelled(torch.tensor(0.3), y, torch.arange(N) < 2)

    def model(x: Tensor) -> None:
        labelled(x - offset)

    pair = Pair(model, nothing)
    assert pair.plan((x,), {}).layout.passed_on == {"y_unobserved"}
    draw = pair.draw((x,), {})
    (gradient,) = torch.autograd.grad(ELBO()(draw).model, offset)
    loc = draw.model_trace.nodes["x"]["fn"].loc
    torch.testing.assert_close(gradient, (x - offset - loc).mean().detach())


def test_a_site_with_an_enumerated_child_is_sampled() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            infer = {"enumerate": "parallel"}
            c = pyro.sample("c", dist.Bernoulli(logits=z), infer=infer)
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x, 0.5))

    x = torch.randn(N)
    draw = Pair(model, guide).draw((x,), {}, 3)
    z = draw.values["z"]
    p = z.sigmoid()
    exact = (
        p * dist.Normal(1.0, 1.0).log_prob(x).exp()
        + (1 - p) * dist.Normal(0.0, 1.0).log_prob(x).exp()
    ).log()
    assert not draw.kl
    torch.testing.assert_close(draw.log_likelihood, exact)
    torch.testing.assert_close(draw.log_prior["z"], dist.Normal(0.0, 1.0).log_prob(z))
