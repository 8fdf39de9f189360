r"""Objectives of the aggregate posterior, against the exact one of few data."""

import math
from functools import partial
from itertools import combinations
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor
from zoo import ZOO

from pyro_vae import SVI
from pyro_vae.guides import AmortizedNormal
from pyro_vae.likelihoods import Normal
from pyro_vae.models import VAE
from pyro_vae.objectives import ELBO, BetaTC, InfoVAE
from pyro_vae.objectives.discrepancy import squared_mmd
from pyro_vae.pair import Pair
from pyro_vae.schedules import Linear

N, F, D = 5, 4, 2


def case() -> tuple[Pair, Tensor]:
    model = VAE((F,), D, Normal(1.0))
    return Pair(model, AmortizedNormal((F,), {"z": D})), 3 * torch.randn(N, F)


def densities(draw: Any) -> Tensor:
    r"""The log-density of each datum's latents under each datum's guide: (N, N, D), by loops."""
    q, z = draw.guide_trace.nodes["z"]["fn"].base_dist, draw.values["z"]
    rows = [
        torch.stack([dist.Normal(q.loc[m], q.scale[m]).log_prob(z[n]) for m in range(len(z))])
        for n in range(len(z))
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("sampling", ["weighted", "stratified"])
def test_with_equal_weights_it_is_the_elbo(sampling: Any) -> None:
    pair, x = case()
    draw = pair.draw((x,), {})
    found = BetaTC(1, 1, 1, sampling)(draw).value
    torch.testing.assert_close(found, ELBO(kl="sampled")(draw).value)


def test_the_whole_data_give_the_exact_parts() -> None:
    pair, x = case()
    draw = pair.draw((x,), {})
    pairs, z = densities(draw), draw.values["z"]
    own = pairs.diagonal().sum(0)
    joint = pairs.sum(-1).exp().mean(1).log()
    product = pairs.exp().mean(1).log().sum(-1)
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)

    objective = BetaTC(alpha=2, beta=3, gamma=5)
    parts = objective.parts(draw)
    for found, expected in zip(parts, (own - joint, joint - product, product - prior), strict=True):
        torch.testing.assert_close(found, expected)
    weighted = 2 * parts[0] + 3 * parts[1] + 5 * parts[2]
    torch.testing.assert_close(objective(draw).value, draw.log_likelihood[0] - weighted)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_stratified_densities_are_unbiased_over_all_minibatches(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    pair, x = case()
    noise, rows = torch.randn(N, D), list(range(N))
    monkeypatch.setattr(
        "torch.distributions.normal._standard_normal", lambda shape, dtype, device: noise[rows]
    )
    exact = densities(pair.draw((x,), {})).sum(-1).exp().mean(1)
    sums, counts = torch.zeros(N), torch.zeros(N)
    for batch in combinations(range(N), size):
        rows[:] = batch
        draw = Pair(pair.model, pair.guide).draw((x[rows],), {}, 1, N)
        information = BetaTC().parts(draw)[0]
        density = (densities(draw).sum(-1).diagonal() - information).exp().detach()
        sums[rows] += density
        counts[rows] += 1
    if size == 1:  # then there are no others, and the estimate is a bound
        torch.testing.assert_close(sums, densities_alone(pair, x, rows) / N)
    else:
        torch.testing.assert_close(sums / counts, exact.detach())


def densities_alone(pair: Pair, x: Tensor, rows: list[int]) -> Tensor:
    rows[:] = range(N)
    return densities(pair.draw((x,), {})).sum(-1).diagonal().exp().detach()


def test_weighted_densities() -> None:
    pair, x = case()
    draw = pair.draw((x[:3],), {}, 1, 11)
    pairs = densities(draw)
    joint = (pairs.sum(-1).exp().sum(1) / 33).log()
    product = (pairs.exp().sum(1) / 33).log().sum(-1)
    information, correlation, _ = BetaTC(sampling="weighted").parts(draw)
    torch.testing.assert_close(information, pairs.sum(-1).diagonal() - joint)
    torch.testing.assert_close(correlation, joint - product)


@pytest.mark.parametrize("events", [0, 1])
def test_several_sites_and_plates(events: int) -> None:
    r"""A site with a plate beside the data's counts as one with more dimensions."""
    x, loc = torch.randn(N, 1), torch.randn(N, 3)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", N, dim=-2):
            pyro.sample("a", dist.Normal(loc[:, :1], 0.5))
            if events:
                pyro.sample("b", dist.Normal(loc[:, None, 1:], 0.7).to_event(1))
            else:
                with pyro.plate("features", 2, dim=-1):
                    pyro.sample("b", dist.Normal(loc[:, 1:], 0.7))

    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.tensor(0.0), 1.0)) if events else 0.0
        with pyro.plate("data", N, dim=-2):
            a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
            if events:
                pyro.sample("b", dist.Normal(x.new_zeros(1, 2), 1.0).to_event(1))
            else:
                with pyro.plate("features", 2, dim=-1):
                    pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(a + mu, 1.0), obs=x)

    def both(x: Tensor) -> None:
        guide(x)
        if events:
            pyro.sample("mu", dist.Normal(torch.tensor(0.3), 0.4))

    draw = Pair(model, both).draw((x,), {})
    z = torch.cat([draw.values["a"].view(N, 1), draw.values["b"].view(N, 2)], dim=1)
    q = dist.Normal(loc, torch.tensor([0.5, 0.7, 0.7]))
    pairs = torch.stack([q.log_prob(z[n]) for n in range(N)])
    information, correlation, _ = BetaTC().parts(draw)
    joint = pairs.sum(-1).exp().mean(1).log()
    torch.testing.assert_close(information, pairs.sum(-1).diagonal() - joint)
    torch.testing.assert_close(correlation, joint - pairs.exp().mean(1).log().sum(-1))

    local = {name: term for name, term in draw.log_guide.items() if name != "mu"}
    divergence = sum(term - draw.log_prior[name] for name, term in local.items())
    if events:
        divergence = divergence + draw.kl["mu"] / N
    expected = (draw.log_likelihood - divergence)[0]
    torch.testing.assert_close(BetaTC(1, 1, 1)(draw).value, expected)


def width(features: int, bandwidth: float) -> float:
    return 2 * features * bandwidth**2


def mmd_of_normals(kernel: str, loc: float, scale: float, features: int, h: float) -> float:
    r"""Between N(loc, scale^2 I) and N(0, I): differences are normal, on each coordinate alike."""

    def mean(shift: float, variance: float) -> float:
        if kernel == "rbf":
            half = width(features, h) / 2
            one = math.sqrt(half / (half + variance)) * math.exp(
                -(shift**2) / 2 / (half + variance)
            )
            return one**features
        assert features == 1
        grid = torch.linspace(-40, 40, 80_001)
        weight = dist.Normal(shift, math.sqrt(variance)).log_prob(grid).exp()
        return torch.trapezoid(weight / (1 + grid.square() / width(1, h)), grid).item()

    return mean(0, 2 * scale**2) - 2 * mean(loc, scale**2 + 1) + mean(0, 2)


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize(
    ("kernel", "features", "h"), [("rbf", 3, 0.5), ("rbf", 1, 0.5), ("imq", 1, 1.0)]
)
def test_mmd_is_unbiased(kernel: Any, features: int, h: float, size: int) -> None:
    r"""Within 4 standard errors of 20,000 estimates: each fails in 1 of 16,000 cases."""
    x = 0.8 + 0.6 * torch.randn(20_000, size, features)
    found = squared_mmd(x, torch.randn_like(x), kernel, h)
    expected = mmd_of_normals(kernel, 0.8, 0.6, features, h)
    error = found.std().item() / math.sqrt(20_000)
    assert error < 0.1 * expected
    assert abs(found.mean().item() - expected) < 4 * error


def shifted(loc: float, scale: float, prior: float) -> Pair:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x.new_full((x.shape[0], 3), loc), scale).to_event(1))

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(3), prior).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    return Pair(model, guide)


@pytest.mark.parametrize("particles", [1, 4])
def test_latents_are_compared_with_their_prior(particles: int) -> None:
    r"""Prior and guide are those of the closed form, times 2: within 4 standard errors of 300."""
    pair = shifted(1.6, 1.2, 2.0)
    objective = InfoVAE(kernel="rbf", bandwidth=2.0, particles=particles)
    draws = [pair.draw((torch.zeros(20),), {}, particles) for _ in range(300)]
    found = torch.stack([objective.discrepancy(draw) for draw in draws])
    error = found.std().item() / math.sqrt(300)
    expected = mmd_of_normals("rbf", 0.8, 0.6, 3, 1.0)
    assert error < 0.05 * expected
    assert abs(found.mean().item() - expected) < 4 * error


def test_terms_are_weighed_by_alpha_and_scale() -> None:
    pair, x = case()
    draw = pair.draw((x,), {}, 3)
    objective = InfoVAE(alpha=0.25, scale=4.0, particles=3)
    pyro.set_rng_seed(7)
    discrepancy = objective.discrepancy(draw)
    pyro.set_rng_seed(7)
    expected = (draw.log_likelihood - 0.75 * draw.kl["z"]).mean(0) - 3.25 * discrepancy
    torch.testing.assert_close(objective(draw).value, expected)


OTHERS = r"priors that depend on no other latent, got those of \['{}'\]"
OUTSIDE = r"latents inside the data plate 'data', .*got \[.*'{}'.*\] outside"
SHARED: dict[str, str] = {
    **dict.fromkeys(("bottom_up", "top_down"), OTHERS.format("z1")),
    **dict.fromkeys(("mixture", "mixture_vae", "auto_normal", "auto_delta"), OTHERS.format("z")),
    "nested_plates": OTHERS.format("w"),
    **dict.fromkeys(("global_latent", "subsampled"), OUTSIDE.format("mu")),
    "auto_multivariate_normal": OUTSIDE.format("rate"),
    "finite_mixture": "latents inside the data plate 'data', .* got none",
    "auto_normal_mixture": OUTSIDE.format("means"),
    "auto_normal_infinite_mixture": OUTSIDE.format("concentration"),
    "no_plate": "expected a data plate",
}
REFUSED: dict[str, dict[str, str]] = {
    "BetaTC": {
        **SHARED,
        "full_covariance": "independent in the model, .*got MultivariateNormal at 'z'",
        "auxiliary": "got Delta at 'z'",
        "markov_chain": "independent in the model, .*got MarkovChain at 'z'",
        "masked_and_scaled": "neither mask nor poutine.scale around latents, got one at 'z'",
    },
    "InfoVAE": SHARED,
}
OBJECTIVES: dict[str, Any] = {"BetaTC": BetaTC, "InfoVAE": partial(InfoVAE, particles=2)}


@pytest.mark.filterwarnings("ignore::UserWarning:pyro")
@pytest.mark.parametrize("row", ZOO)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_pairs_are_trained_or_refused(name: str, row: str) -> None:
    model, guide, batch = ZOO[row]()
    svi = SVI(model, guide, partial(torch.optim.Adam, lr=1e-3), OBJECTIVES[name]())
    if row in REFUSED[name]:
        with pytest.raises(ValueError, match=REFUSED[name][row]):
            svi.step(*batch)
        return
    loss, metrics = svi.step_with_metrics(*batch)
    assert loss.isfinite()
    assert metrics["elbo"] != metrics["objective"]


def test_masked_latents_are_refused() -> None:
    pair, x = case()
    masked = poutine.mask(pair.guide, mask=torch.tensor(True))
    draw = Pair(pair.model, masked).draw((x,), {})
    with pytest.raises(ValueError, match=r"neither mask nor .*at 'z'"):
        BetaTC()(draw)


def test_a_single_datum_has_no_discrepancy() -> None:
    pair, x = case()
    with pytest.raises(ValueError, match=r"at least 2 data, .*got 1"):
        InfoVAE()(pair.draw((x[:1],), {}))


@pytest.mark.parametrize("trained", [True, False])
def test_a_prior_that_would_not_learn_is_refused(trained: bool) -> None:
    r"""Draws of a mixture have no gradient: its components would stay where they are."""
    locs = torch.tensor([-1.0, 2.0], requires_grad=trained)

    def model(x: Tensor) -> None:
        components = dist.Normal(locs, 1.0)
        with pyro.plate("data", x.shape[0], dim=-1):
            prior = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), components)
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x, 0.5))

    draw = Pair(model, guide).draw((torch.randn(5),), {})
    if not trained:
        assert InfoVAE(alpha=1.0)(draw).value.isfinite().all()
        return
    with pytest.raises(ValueError, match="got MixtureSameFamily with trained parameters at 'z'"):
        InfoVAE(alpha=1.0)(draw)


def test_discrete_latents_are_refused() -> None:
    def program(x: Tensor, loc: float = 0.0) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Bernoulli(0.5))

    def model(x: Tensor) -> None:
        program(x)
        with pyro.plate("rows", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    for objective in (BetaTC(), InfoVAE()):
        draw = Pair(model, program, "data").draw((torch.zeros(3),), {})
        with pytest.raises(ValueError, match="got Bernoulli at 'z'"):
            objective(draw)


ERRORS: dict[str, tuple[Any, str]] = {
    "alpha": (lambda: BetaTC(alpha=-1), "alpha to be finite and at least 0, got -1"),
    "beta": (lambda: BetaTC(beta=math.inf), "beta to be finite and at least 0, got inf"),
    "gamma": (lambda: BetaTC(gamma=Linear(0, -2)), "gamma to be .* got -2"),
    "sampling": (lambda: BetaTC(sampling="all"), "sampling to be one of .* got 'all'"),  # type: ignore[arg-type]
    "more": (lambda: InfoVAE(alpha=1.5), "alpha to be .*1, got 1.5"),
    "less": (lambda: InfoVAE(alpha=-1, scale=1), r"alpha \+ scale of at least 1, got 0.0"),
    "scale": (lambda: InfoVAE(scale=-1), "scale to be finite and at least 0, got -1"),
    "kernel": (lambda: InfoVAE(kernel="linear"), "kernel to be one of .* got 'linear'"),  # type: ignore[arg-type]
    "bandwidth": (lambda: InfoVAE(bandwidth=0), "positive bandwidth, got 0"),
    "kl": (lambda: InfoVAE(kl="exact"), "kl to be one of .* got 'exact'"),  # type: ignore[arg-type]
    "particles": (lambda: InfoVAE(particles=0), "particles of at least 1, got 0"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, match = ERRORS[name]
    with pytest.raises(ValueError, match=match):
        call()
