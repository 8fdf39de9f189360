r"""Free bits and the gradient that sticks the landing, against exact answers."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import VAR, Linear
from torch import Tensor
from zoo import ZOO

from pyro_vae.draws import Draw
from pyro_vae.objectives import ELBO
from pyro_vae.objectives.divergence import kl_dimensions, kl_terms
from pyro_vae.pair import Pair

B, BATCHES = 500, 60


def normal_guide(loc: Tensor, raw: Tensor) -> Any:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            mean = loc.expand(x.shape[0], -1)
            pyro.sample("z", dist.Normal(mean, raw.exp()).to_event(1))

    return guide


def test_stl_is_unbiased() -> None:
    r"""The mean gradient is that of the bound in closed form, within 4 standard errors.

    Of four numbers, each fails in 1 of 16,000 cases. The expected log-likelihood of
    x = W z + b + noise under N(m, s^2) has a closed form, and so has the divergence.
    """
    case = Linear()
    x = case.x[:1]
    loc, raw = torch.tensor([0.4, -0.7]), torch.tensor([-0.3, 0.2])
    loc.requires_grad_(), raw.requires_grad_()
    residual = x[0] - case.b - case.W @ loc
    spread = (case.W.square().sum(0) * (2 * raw).exp()).sum()
    likelihood = -(residual.square().sum() + spread) / (2 * VAR)
    divergence = ((2 * raw).exp() + loc.square() - 1 - 2 * raw).sum() / 2
    expected = torch.cat(torch.autograd.grad(likelihood - divergence, (loc, raw)))

    pair, objective = Pair(case.plain, normal_guide(loc, raw)), ELBO(gradient="stl")
    found = []
    for _ in range(BATCHES):
        bound = objective(pair.draw((x.expand(B, -1),), {}))
        found.append(torch.cat(torch.autograd.grad(bound.guide, (loc, raw))))
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / BATCHES**0.5
    assert (error < 0.03 * expected.abs().max()).all()
    assert ((mean - expected).abs() < 4 * error).all()


def test_stl_has_no_noise_at_the_posterior() -> None:
    case = Linear()
    pair = Pair(case.model, case.guide)
    encoder = list(case.guide.parameters())
    for gradient, quiet in (("stl", True), ("pathwise", False)):
        objective = ELBO(kl="sampled", gradient=gradient)  # type: ignore[arg-type]
        bound = objective(pair.draw((case.x,), {}))
        noise = max(g.abs().max().item() for g in torch.autograd.grad(bound.guide, encoder))
        assert (noise < 1e-12) == quiet


# two dimensions: the divergences of N(m, s^2) from N(0, 1) are (s^2 + m^2 - 1) / 2 - log s
LOC, RAW = torch.tensor([[1.0, 0.1], [2.0, 0.0]]), torch.zeros(2, 2)
PER_DATUM = LOC.square() / 2  # (2, D): means over the batch are 1.25 and 0.0025, in all 1.2525


def clipped(least: float, groups: str, **options: Any) -> tuple[ELBO, Draw, Tensor]:
    loc = LOC.to(torch.get_default_dtype()).clone().requires_grad_()

    def guide(x: Tensor) -> None:
        with pyro.plate("data", 2, dim=-1):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    def model(x: Tensor) -> None:
        with pyro.plate("data", 2, dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    objective = ELBO(free_bits=least, groups=groups, **options)  # type: ignore[arg-type]
    return objective, Pair(model, guide).draw((torch.zeros(2),), {}, objective.particles), loc


@pytest.mark.parametrize(
    ("groups", "least", "beta", "counted"),
    [
        ("site", 1.2, 1, PER_DATUM.sum(1)),  # above: as it is
        ("site", 1.3, 1, torch.tensor([1.3, 1.3])),  # below, although one datum lies above
        ("site", 1.3, 3, torch.tensor([3.9, 3.9])),
        ("dimension", 0.002, 1, PER_DATUM.sum(1)),
        ("dimension", 0.5, 1, PER_DATUM[:, 0] + 0.5),
        ("dimension", 1.3, 1, torch.tensor([2.6, 2.6])),
    ],
)
def test_free_bits(groups: str, least: float, beta: float, counted: Tensor) -> None:
    objective, draw, loc = clipped(least, groups, beta=beta)
    bound = objective(draw)
    expected = draw.log_likelihood[0] - counted
    torch.testing.assert_close(bound.value, expected.to(bound.value.dtype))
    if not bound.guide.requires_grad:
        assert least == 1.3
        return
    (found,) = torch.autograd.grad(bound.guide, loc)
    free = {"site": least > 1.2525, "dimension": torch.tensor([least > 1.25, least > 0.0025])}
    expected = torch.where(torch.as_tensor(free[groups]), 0, -beta * loc.detach() / 2)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("options", [{"gradient": "stl"}, {"kl": "sampled"}, {"particles": 3}])
@pytest.mark.parametrize("least", [0.0, 1e3])
def test_free_bits_and_other_options(options: dict[str, Any], least: float) -> None:
    objective, draw, _ = clipped(least, "site", **options)
    plain, log_likelihood = ELBO(**options)(draw).value, draw.log_likelihood.mean(0)
    above = (log_likelihood - plain).mean() > least
    expected = plain if above else log_likelihood - least
    torch.testing.assert_close(objective(draw).value, expected)


INDEPENDENT = ("vae", "learned_scale", "plain_functions", "bottom_up", "top_down", "nested_plates")


@pytest.mark.parametrize("kl", ["auto", "sampled"])
@pytest.mark.parametrize("row", [*INDEPENDENT, "global_latent", "masked_and_scaled"])
def test_dimensions_sum_to_terms(row: str, kl: Any) -> None:
    model, guide, batch = ZOO[row]()
    draw = Pair(model, guide).draw(batch, {}, 3)
    terms, dimensions = kl_terms(draw, kl), kl_dimensions(draw, kl)
    assert terms.keys() == dimensions.keys()
    for name, term in terms.items():
        torch.testing.assert_close(dimensions[name].sum(0), term)


REFUSED = {
    "full_covariance": "at 'z'",
    "mixture": "'z'.* shares its prior",
    "auxiliary": "Delta at 'z'|'u', which has no prior",
    "auto_multivariate_normal": "'_.*has no prior",
}


@pytest.mark.parametrize("row", REFUSED)
def test_sites_without_independent_dimensions_are_named(row: str) -> None:
    model, guide, batch = ZOO[row]()
    draw = Pair(model, guide).draw(batch, {})
    with pytest.raises(
        ValueError, match=f"(independent dimensions|a prior of their own).*({REFUSED[row]})"
    ):
        ELBO(free_bits=0.1, groups="dimension")(draw)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"gradient": "dreg"}, "gradient to be one of .* got 'dreg'"),
        ({"gradient": "stl", "kl": "analytic"}, "with gradient='stl', .*got kl='analytic'"),
        ({"gradient": "stl", "groups": "dimension"}, "groups='site' with gradient='stl'"),
        ({"groups": "all"}, "groups to be one of .* got 'all'"),
    ],
)
def test_refused_arguments(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ELBO(**arguments)
