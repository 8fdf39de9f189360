r"""Evidence from the model alone, where it is known: normal, conjugate and enumerable models."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import VAR, D, F, Linear
from pyro import poutine
from test_evaluation import nothing
from test_evaluation_inputs import scaled
from test_joint import multinomial, poisson
from torch import Tensor, nn
from zoo import ZOO, global_latent

from pyro_vae.distributions import PartlyObserved
from pyro_vae.evaluation import Estimate, annealing, evaluate, evidence
from pyro_vae.evaluation.annealing import anneal, step_sizes, temperatures
from pyro_vae.evaluation.evidence import ais
from pyro_vae.evaluation.joint import Joint, Observing
from pyro_vae.evaluation.streaming import Weights


@pytest.fixture
def linear() -> Linear:
    return Linear()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    r"""Step sizes of fewer transitions: bounds are sound with any."""
    monkeypatch.setattr(annealing, "_LEAST", 10)
    monkeypatch.setattr(annealing, "_WARMUP", 5)


def marginal(linear: Linear) -> dist.TorchDistribution:
    covariance = linear.W @ linear.W.T + VAR * torch.eye(F)
    return dist.MultivariateNormal(linear.b, covariance)


def close(estimate: Estimate, expected: Tensor, error: float | None = None) -> None:
    r"""Within 4 standard errors: 1 seed in 16,000 fails, the bias of a logarithm apart."""
    error = estimate.stderr if error is None else error
    assert 0 < error < 0.15
    assert abs(estimate.value - expected.mean()) < 4 * error


# -- annealing ------------------------------------------------------------------------------------


def test_temperatures() -> None:
    betas = temperatures(7)
    assert (betas[0], betas[-1], len(betas)) == (0, 1, 8)
    assert (betas.diff() > 0).all()
    torch.testing.assert_close(betas + betas.flip(0), torch.ones(8))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("count", [1, 2, 6])
def test_weights_have_the_evidence_as_their_mean(linear: Linear, count: int) -> None:
    r"""As many chains, unlike the few of use, leave the logarithm a bias far below its error."""
    metric = partial(ais, chains=2000 // count)
    found = evaluate(linear.model, nothing_for(linear), linear.x, (metric,), particles=count)
    evidence = marginal(linear).log_prob(linear.x)
    close(found["ais"], evidence)
    error = (found["ais"].per_datum - evidence).abs()
    assert (error < 4 * (-2 * found["ais.bias"].per_datum).sqrt() + 1e-9).all()


def nothing_for(linear: Linear) -> Any:
    r"""A guide that is far off: what comes from the model alone does not depend on it."""
    linear.guide.encoder.bias.data += 5.0
    return linear.guide


def noisy(x: Tensor) -> None:
    r"""With so much noise that the inverse weights have a finite variance."""
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.5), obs=x)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("count", [1, 2, 6])
def test_reverse_weights_have_the_inverse_evidence_as_their_mean(count: int) -> None:
    r"""From 10,000 exact draws of the posterior, within 4 standard errors."""
    x, betas = torch.tensor([-1.0, 0.0, 0.5, 1.5]), temperatures(count)
    variance = 1 / (1 + 1 / 1.5**2)
    draws = dist.Normal(variance * x / 1.5**2, math.sqrt(variance)).sample(torch.Size([10_000]))
    with torch.no_grad():
        joint = Joint(noisy, (x,), 10_000)
        steps = step_sizes(Joint(noisy, (x,), 16), betas)
        log_weights = anneal(joint, joint.pack({"z": draws}), betas, steps, reverse=True)
    weights = Weights(10_000)
    weights.update(-log_weights)
    error = (-2 * weights.bias).sqrt()
    assert (error < 0.02).all()
    expected = dist.Normal(0.0, math.sqrt(1 + 1.5**2)).log_prob(x)
    assert ((weights.log_mean + expected).abs() < 4 * error).all()


def posterior(linear: Linear, x: Tensor, count: int) -> Tensor:
    fn = dist.Normal((x - linear.b) @ linear.A.T, linear.scale)
    return fn.sample(torch.Size([count]))


def test_transitions_keep_the_posterior(linear: Linear) -> None:
    r"""Chains begin at 20,000 draws; mean and mean square fail in 6e-5 of the seeds each.

    Weights of these temperatures are the likelihood after four transitions.
    """
    betas, steps = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0, 1.0]), torch.full((4, 1), 0.7)
    x, count = linear.x[:1], 20_000
    start, other = (posterior(linear, x, count) for _ in range(2))
    with torch.no_grad():
        joint = Joint(linear.model, (x,), count)
        end = anneal(joint, joint.pack({"z": start}), betas, steps, reverse=True)
        expected = joint(joint.pack({"z": other}))[1]
        before = joint(joint.pack({"z": start}))[1]
    assert 0.9 < (end != before).double().mean() < 1
    for power in (1, 2):
        a, b = end**power, expected**power
        assert abs(a.mean() - b.mean()) < 4 * math.sqrt((a.var() + b.var()) / count)


def test_annealing_in_use(linear: Linear) -> None:
    exact = marginal(linear).log_prob(linear.x)
    found = evaluate(linear.model, linear.guide, linear.x, ("ais",), particles=10, batch_size=4)
    close(found["ais"], exact)
    assert found["ais.bias"].value == pytest.approx(-7 * found["ais"].stderr ** 2 / 2)
    assert 1 < found["ais.ess"].value <= 16
    assert (found["ais.ess"].unit, found["ais"].unit) == ("chains", "nats")


@pytest.mark.usefixtures("quick")
def test_what_else_is_asked_for_changes_no_draw(linear: Linear) -> None:
    one, both = (
        evaluate(linear.model, linear.guide, linear.x, metrics, particles=2, batch_size=4)
        for metrics in (("ais",), ("nll", "ais"))
    )
    assert both["ais"].per_datum.equal(one["ais"].per_datum)


def layers(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        top = pyro.sample("top", dist.Normal(x.new_zeros(()), 1.0))
        loc = torch.stack([top, -2 * top], -1)
        z = pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 0.7), obs=x)


@pytest.mark.usefixtures("quick")
def test_two_layers() -> None:
    x = torch.randn(5)
    scale = math.sqrt(1 + 2 * 0.5**2 + 0.7**2)  # the sum of z is -top and noise
    found = evaluate(layers, nothing, x, (partial(ais, chains=500),), particles=10)
    close(found["ais"], dist.Normal(0.0, scale).log_prob(x))


@pytest.mark.usefixtures("quick")
def test_constrained_latents() -> None:
    x = torch.tensor([0.0, 1.0, 2.0, 4.0])
    exact = dist.GammaPoisson(2.0, 1.5).log_prob(x)
    found = evaluate(poisson, nothing, x, (partial(ais, chains=500),), particles=10)
    close(found["ais"], exact)


@pytest.mark.usefixtures("quick")
def test_latents_on_a_simplex() -> None:
    x = torch.arange(3)
    found = evaluate(multinomial, nothing, x, (partial(ais, chains=500),), particles=10)
    close(found["ais"], (torch.tensor([1.0, 2.0, 3.0]) / 6).log())


def components(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        probs = torch.tensor([0.3, 0.7])
        c = pyro.sample("c", dist.Categorical(probs), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(torch.tensor([-1.0, 2.0])[c], 0.6))
        pyro.sample("x", dist.Normal(z, 0.8), obs=x)


def of_components(x: Tensor) -> Tensor:
    weights = dist.Categorical(torch.tensor([0.3, 0.7]))
    return dist.MixtureSameFamily(weights, dist.Normal(torch.tensor([-1.0, 2.0]), 1.0)).log_prob(x)


@pytest.mark.usefixtures("quick")
def test_what_is_summed_out() -> None:
    x = torch.randn(5)
    found = evaluate(components, nothing, x, (partial(ais, chains=500),), particles=10)
    close(found["ais"], of_components(x))


@pytest.mark.usefixtures("quick")
def test_one_chain_needs_no_leading_dimensions() -> None:
    flat = nn.Sequential(nn.Flatten(1), nn.Linear(1, 1))

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(flat(z), 1.0).to_event(1), obs=x)

    x = torch.randn(400, 1)
    found = evaluate(model, nothing, x, (partial(ais, chains=1),), particles=40)["ais"]
    variance = 1 + float(flat[1].weight.detach().square())
    exact = dist.Normal(flat[1].bias.detach(), math.sqrt(variance)).log_prob(x).squeeze(-1)
    assert math.isnan(found.stderr)
    errors = found.per_datum - exact
    assert abs(errors.mean()) < 0.05
    assert errors.std() < 0.5


# -- both sides -----------------------------------------------------------------------------------

Case = tuple[Any, Tensor, Callable[[Tensor], Tensor]]


def cases() -> dict[str, Case]:
    linear = Linear()
    rows = torch.zeros(60)
    return {
        "linear": (linear.model, linear.x[:1].expand(60, F), marginal(linear).log_prob),
        "layers": (layers, rows, dist.Normal(0.0, math.sqrt(1 + 0.5 + 0.49)).log_prob),
        "positive": (poisson, rows, dist.GammaPoisson(2.0, 1.5).log_prob),
        "components": (components, rows, of_components),
    }


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    r"""The data that were simulated."""
    original, found = evidence._simulated, []

    def record(*args: Any) -> Any:
        result = original(*args)
        found.append(result[0]["x"])
        return result

    monkeypatch.setattr(evidence, "_simulated", record)
    return found


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["linear", "layers", "positive", "components"])
def test_both_sides(name: str, simulated: list[Tensor]) -> None:
    r"""The errors over data are those of the mean deviation; each bound fails in 3e-5 of seeds."""
    model, x, log_prob = cases()[name]
    found = evaluate(model, nothing, x, ("bdmc",), particles=8)
    exact = log_prob(torch.cat(simulated))
    assert not torch.cat(simulated).equal(x)

    for bound, sign in (("lower", 1), ("upper", -1)):
        over = sign * (found[f"bdmc.{bound}"].per_datum - exact)
        error = over.std() / math.sqrt(60)
        assert error < 0.1
        assert over.mean() < 4 * error
        assert over.mean() > -0.5  # near
    gap = found["bdmc.upper"].per_datum - found["bdmc.lower"].per_datum
    torch.testing.assert_close(found["bdmc.gap"].per_datum, gap)
    assert math.isnan(found["bdmc.upper"].stderr)


@pytest.mark.usefixtures("quick")
def test_what_is_missing_is_missing_in_simulated_data(simulated: list[Tensor]) -> None:
    r"""Of two features one is seen, in turns; within 4 errors, as on both sides."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], 1), 1.0).to_event(1))
            fn = PartlyObserved(dist.Normal(z.expand(*z.shape[:-1], 2), 1.0))
            pyro.sample("x", fn.to_event(1), obs=x)

    hidden = torch.eye(2, dtype=torch.bool).repeat(30, 1)
    found = evaluate(
        model, nothing, torch.zeros(60, 2).masked_fill(hidden, math.nan), ("bdmc",), particles=8
    )
    x = torch.cat(simulated)
    assert x.isnan().equal(hidden)
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(x[~hidden])
    for bound, sign in (("lower", 1), ("upper", -1)):
        over = sign * (found[f"bdmc.{bound}"].per_datum - exact)
        assert -0.5 < over.mean() < 4 * over.std() / math.sqrt(60)


@pytest.mark.usefixtures("quick")
def test_more_temperatures_close_the_gap(linear: Linear) -> None:
    x = linear.x[:1].expand(150, F)
    gaps = [
        evaluate(linear.model, linear.guide, x, ("bdmc",), particles=count)["bdmc.gap"]
        for count in (1, 3, 9)
    ]
    for wide, narrow in pairwise(gaps):
        error = math.hypot(wide.data_stderr, narrow.data_stderr)
        assert wide.value - narrow.value > 4 * error
    assert gaps[-1].value < 0.5
    assert gaps[-1].value > -4 * gaps[-1].data_stderr


def test_latents_are_those_that_data_were_simulated_from(linear: Linear) -> None:
    observed, latents = evidence._simulated(linear.model, (linear.x.expand(7, F),))
    joint = Joint(Observing(observed)(linear.model), (linear.x,), 2)
    z = joint.unpack(joint.pack(latents))["z"][0]
    torch.testing.assert_close(z, latents["z"].expand(2, -1, D))
    expected = dist.Normal(linear.decoder(latents["z"]), math.sqrt(VAR)).log_prob(observed["x"])
    torch.testing.assert_close(joint(joint.pack(latents))[1][0], expected.sum(-1))


# -- prior sampling -------------------------------------------------------------------------------


def test_prior_sampling(linear: Linear) -> None:
    x = linear.model(n=30).detach()
    evidence = marginal(linear).log_prob(x)
    found = evaluate(linear.model, nothing_for(linear), x, ("prior",), particles=20_000)
    close(found["prior"], evidence)
    assert list(found) == ["prior", "prior.bias", "prior.ess", "prior.khat"]
    assert found["prior.bias"].value == pytest.approx(-30 * found["prior"].stderr ** 2 / 2)


def test_prior_sampling_of_discrete_latents() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.3)))
            z = pyro.sample("z", dist.Normal(3 * c - 1, 0.6))
            pyro.sample("x", dist.Normal(z, 0.8), obs=x)

    x = torch.randn(5)
    weights = dist.Categorical(torch.tensor([0.7, 0.3]))
    expected = dist.MixtureSameFamily(weights, dist.Normal(torch.tensor([-1.0, 2.0]), 1.0))
    close(evaluate(model, guide_of_both, x, ("prior",), 5000)["prior"], expected.log_prob(x))


def guide_of_both(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)))
        pyro.sample("z", dist.Normal(x, 1.0))


def test_prior_sampling_of_what_is_summed_out() -> None:
    r"""Each particle has a component of its own: 4 standard errors would not hold otherwise."""
    x = torch.randn(5)
    close(evaluate(components, nothing, x, ("prior",), 5000)["prior"], of_components(x))


# -- the bias of a logarithm ----------------------------------------------------------------------


def test_bias_is_that_of_repeated_runs() -> None:
    r"""20,000 runs of 50 weights; what has no mean but noise, w - 1, is taken out.

    The standard error is 3e-5, and terms of the next order are below 1e-4.
    """
    s = 0.5
    log_weights = s * torch.randn(50, 20_000) - s**2 / 2
    weights = Weights(50)
    weights.update(log_weights)
    found = weights.log_mean - (weights.log_mean.exp() - 1)
    error = 4 * float(found.std()) / math.sqrt(20_000) + 1e-4
    assert float(weights.bias.mean()) == pytest.approx(float(found.mean()), abs=error)
    assert -weights.bias.mean() > 10 * error


def test_bias_is_reported(linear: Linear) -> None:
    linear.guide.encoder.bias.data += 0.2
    found = evaluate(linear.model, linear.guide, linear.x, ("nll",), particles=50)
    bias = found["nll.bias"]
    assert bias.value > 0
    assert bias.value == pytest.approx(7 * found["nll"].stderr ** 2 / 2)
    one = evaluate(linear.model, linear.guide, linear.x, ("nll",), particles=1)
    assert math.isnan(one["nll.bias"].value)


# -- what is refused ------------------------------------------------------------------------------


def discrete(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("bits", dist.Bernoulli(torch.full((3,), 0.5)).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def within(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        top = pyro.sample("top", dist.LogNormal(x.new_zeros(()), 1.0))
        low = pyro.sample("low", dist.Uniform(x.new_zeros(()), top))
        pyro.sample("x", dist.Normal(low, 1.0), obs=x)


def passed_on(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        y = pyro.sample("y", dist.Normal(x.new_zeros(()), 1.0), obs=x, obs_mask=x > 0)
        pyro.sample("x", dist.Normal(y, 1.0), obs=x)


def factors(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.factor("sparsity", -z.abs())


def infinite(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.factor("broken", z + x.new_tensor(-math.inf))


@pytest.mark.parametrize(
    "model, metric, match",
    [
        (discrete, "ais", r"discrete site 'bits': mark it infer=\{.enumerate"),
        (discrete, "bdmc", r"expected continuous latents, .*'bits'"),
        (global_latent()[0], "ais", r"local latents only .*\['mu'\]"),
        (global_latent()[0], "prior", r"local latents only .*\['mu'\]"),
        (scaled, "ais", r"no poutine.scale .*got 0.5 at site 'x'"),
        (scaled, "prior", r"no poutine.scale .*got 0.5 at site 'x'"),
        (within, "ais", r"got 'low' with one that depends on them \(Uniform\)"),
        (passed_on, "ais", r"unobserved part of an obs_mask site, got such at \['y_unobserved'\]"),
        (factors, "bdmc", r"can be simulated from, got the factors \['sparsity'\]"),
        (infinite, "ais", r"finite log-densities.*the model's site 'broken'"),
    ],
)
def test_refusals(model: Any, metric: str, match: str) -> None:
    guide = global_latent()[1] if "mu" in match else guide_of(model)
    with pytest.raises(ValueError, match=match):
        evaluate(model, guide, torch.ones(3), (metric,), particles=2)


def guide_of(model: Any) -> Any:
    r"""The model's own draws, for a pair that is one."""

    def guide(x: Tensor) -> None:
        with poutine.block(hide_fn=lambda site: site.get("is_observed", False)):
            model(x)

    return guide


def test_scale_of_a_latent_is_refused() -> None:
    model, guide, batch = ZOO["masked_and_scaled"]()
    with pytest.raises(ValueError, match=r"no poutine.scale .*got 0.5 at site 'z'"):
        evaluate(model, guide, batch[0], ("ais",), particles=2)


def test_the_guide_draws_nothing(linear: Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    r"""Evidence from the model alone calls the model alone."""
    called: list[Any] = []
    monkeypatch.setattr(linear.guide, "forward", lambda *args: called.append(args))
    evaluate(linear.model, linear.guide, linear.x, ("prior", "ais", "bdmc"), particles=1)
    assert called == []
