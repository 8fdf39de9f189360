r"""Gradients without reparametrisation, against sums over all that can be drawn."""

import math
import re
from functools import partial
from typing import Any

import bits as small
import numpy.polynomial.hermite_e
import pyro
import pyro.distributions as dist
import pytest
import torch
from bits import (
    Bits,
    Global,
    GlobalLast,
    OneLayer,
    TwoLayers,
    exact,
    grad,
    mass,
    sampled,
    within,
)
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, config_enumerate
from torch import Tensor, nn
from zoo import ZOO

from pyro_vae import SVI
from pyro_vae.nn import mlp
from pyro_vae.objectives import ELBO, IWAE, VIMCO, ScoreFunction
from pyro_vae.pair import Pair

BASELINES = {
    "none": lambda: ScoreFunction(baseline="none"),
    "sampled": lambda: ScoreFunction(baseline="none", kl="sampled"),
    "average": lambda: averaged(ScoreFunction()),
    "leave_one_out": lambda: ScoreFunction(2, "leave_one_out"),
    "network": lambda: averaged(ScoreFunction(baseline="network", event_shape=(2,))),
    "module": lambda: averaged(ScoreFunction(baseline="network", network=nn.Linear(2, 1))),
}


def averaged(objective: ScoreFunction) -> ScoreFunction:
    r"""Its average is not zero any more."""
    assert objective.signal is not None
    objective.signal.update(torch.tensor(-2.7))
    return objective


def close(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert any(g.abs().max() > 1e-3 for g in expected)


@pytest.mark.parametrize("pair", [OneLayer, TwoLayers, Global, GlobalLast])
@pytest.mark.parametrize("baseline", BASELINES)
def test_the_mean_is_the_gradient_of_the_elbo(pair: type[Bits], baseline: str) -> None:
    r"""Exactly, as a sum over all draws: no baseline moves it."""
    bits, objective = pair(), BASELINES[baseline]()
    theta, phi, value = bits.gradients(objective)

    bound = small.elbo(bits)
    close(theta, exact(bits, bound, "theta"))
    close(phi, exact(bits, bound, "phi"))
    assert value.mean().item() == pytest.approx(bound.item())


def test_a_batch_is_a_part_of_the_data() -> None:
    r"""Global sites then have 2 / 10 of a share, and learn from all data all the same."""
    bits = Global(data_size=10)
    theta, phi, _ = bits.gradients(ScoreFunction(baseline="none"))
    bound = small.elbo(bits)
    close(theta, exact(bits, bound, "theta"))
    close(phi, exact(bits, bound, "phi"))


def test_beta_is_in_the_signal() -> None:
    bits = OneLayer()
    one, half, none = (bits.gradients(ScoreFunction(beta=beta))[1] for beta in (1.0, 0.5, 0.0))
    close([2 * h for h in half], [a + b for a, b in zip(one, none, strict=True)])


@pytest.mark.parametrize(("pair", "k"), [(OneLayer, 2), (OneLayer, 3), (TwoLayers, 2)])
def test_vimco_is_the_gradient_of_the_importance_weighted_bound(pair: type[Bits], k: int) -> None:
    bits = pair()
    theta, phi, value = bits.gradients(VIMCO(k))
    bound = small.iwae(bits, k)
    close(theta, exact(bits, bound, "theta"))
    close(phi, exact(bits, bound, "phi"))
    assert value.mean().item() == pytest.approx(bound.item())


@pytest.mark.parametrize("pair", [Global, GlobalLast])
def test_vimco_with_global_latents_bounds_all_data_as_one(pair: type[Bits]) -> None:
    bits = pair()
    theta, phi, value = bits.gradients(VIMCO(2))
    bound = small.iwae(bits, 2, whole=True)
    close(theta, exact(bits, bound, "theta"))
    close(phi, exact(bits, bound, "phi"))
    assert value.mean().item() == pytest.approx(bound.item())


class Known(nn.Module):
    r"""What f is on average, of each datum."""

    def __init__(self, means: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(means)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight


def test_baselines_lower_the_variance() -> None:
    r"""Exactly, as sums over all draws: an average leaves 0.14 of it, the best network 0.03.

    Of that of two particles the mean of the other leaves 0.28, and a sampled divergence doubles it.
    """
    bits = OneLayer()
    p, q, log_q = bits.table()
    f = (log_q.exp() @ (p - q)).detach()
    average, network = ScoreFunction(), ScoreFunction(baseline="network", network=Known(f))
    for objective in (average, network):
        assert objective.signal is not None
    average.signal.update(f.mean())

    none = bits.variance(ScoreFunction(baseline="none"))
    assert bits.variance(average) < 0.2 * none
    assert bits.variance(network) < 0.3 * bits.variance(average)
    assert bits.variance(ScoreFunction(baseline="none", kl="sampled")) > 2 * none
    two = bits.variance(ScoreFunction(2, "none"))
    assert two == pytest.approx(none / 2)
    assert bits.variance(ScoreFunction(2, "leave_one_out")) < 0.3 * two


class Mixed:
    r"""c -> z -> x <- c, with a bit c and a normal z; the guide draws one of them first.

    Both orders are there: in q(z) q(c | z) the score function has a path through z.
    """

    def __init__(self, first: str) -> None:
        self.first = first
        self.phi = [torch.randn(()).requires_grad_() for _ in range(4)]
        self.pair = Pair(self.model, self.guide)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            c = pyro.sample("c", dist.Bernoulli(logits=x.new_tensor(0.3)))
            z = pyro.sample("z", dist.Normal(2 * c - 1, 1.0))
            pyro.sample("x", dist.Normal(z + c, 0.7), obs=x)

    def guide(self, x: Tensor) -> None:
        a, b, c, d = self.phi
        with pyro.plate("data", x.shape[0], dim=-1):
            if self.first == "c":
                bit = pyro.sample("c", dist.Bernoulli(logits=a + b * x))
                pyro.sample("z", dist.Normal(c * x + d * bit, 0.8))
            else:
                z = pyro.sample("z", dist.Normal(a + b * x, 0.8))
                pyro.sample("c", dist.Bernoulli(logits=c * z + d))

    def states(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Probabilities and log-weights of bits and of points of a quadrature in z."""
        a, b, c, d = self.phi
        points, masses = map(torch.as_tensor, numpy.polynomial.hermite_e.hermegauss(24))
        bit = torch.tensor([[0.0], [1.0]])
        if self.first == "c":
            logits, loc = a + b * x, c * x + d * bit
            z = loc + 0.8 * points
        else:
            loc = a + b * x
            z = (loc + 0.8 * points).expand(2, -1)
            logits = c * z + d
        q = mass(logits, bit)
        weight = q.exp() * masses / math.sqrt(2 * math.pi)
        p = mass(torch.tensor(0.3), bit) + dist.Normal(2 * bit - 1, 1.0).log_prob(z)
        p = p + dist.Normal(z + bit, 0.7).log_prob(x)
        q = q + dist.Normal(loc, 0.8).log_prob(z)
        return weight.flatten(), (p - q).flatten()


@pytest.mark.parametrize("first", ["c", "z"])
@pytest.mark.parametrize("name", ["average", "leave_one_out", "vimco"])
def test_mixed_guides_have_scores_and_paths(first: str, name: str) -> None:
    r"""Means over 100 batches of 2,000 rows lie within 4 errors: 1 in 2,000 such tests fails."""
    mixed, x = Mixed(first), torch.tensor(0.6)
    weight, log_w = mixed.states(x)
    if name == "vimco":
        pairs = torch.stack([log_w.unsqueeze(1).expand(48, 48), log_w.expand(48, 48)])
        bound = (weight.outer(weight) * (pairs.logsumexp(0) - math.log(2))).sum()
    else:
        bound = weight @ log_w
    objective = VIMCO(2) if name == "vimco" else BASELINES[name]()
    mean, error = sampled(mixed.pair, objective, x.expand(2000), mixed.phi, 100)
    within(mean, error, grad(bound, mixed.phi))


@pytest.mark.parametrize(
    "elbo", [Trace_ELBO(), TraceGraph_ELBO(), TraceEnum_ELBO(max_plate_nesting=1)]
)
def test_pyros_estimators_have_the_same_mean(elbo: Any) -> None:
    r"""Within 4 errors of 100 batches of 1,000 rows; enumeration has no error at all."""
    bits = OneLayer()
    phi, rows = [bits.phi["e"], bits.phi["f"]], bits.x.repeat(500, 1)
    expected = exact(bits, small.elbo(bits), "phi")
    exactly = isinstance(elbo, TraceEnum_ELBO)
    guide = config_enumerate(bits.guide, "parallel") if exactly else bits.guide
    found = []
    for _ in range(1 if exactly else 100):
        if isinstance(elbo, TraceGraph_ELBO):  # which calls backward itself
            for parameter in phi:
                parameter.grad = None
            elbo.loss_and_grads(bits.model, guide, rows)
            gradients = [parameter.grad for parameter in phi]
        else:
            gradients = grad(elbo.differentiable_loss(bits.model, guide, rows), phi)
        found.append(torch.cat([-g.flatten() / 1000 for g in gradients]))
    means = torch.stack(found)
    if exactly:
        torch.testing.assert_close(means[0], torch.cat([g.flatten() for g in expected[:2]]))
    else:
        within(means.mean(0), means.std(0) / 10, expected[:2])


def test_the_guides_bits_may_be_summed_out_by_pyro() -> None:
    r"""Under our SVI; then the bound climbs to the evidence, which nothing else moves."""
    bits = OneLayer()
    for tensor in bits.theta.values():
        tensor.requires_grad_(False)
    guide, adam = config_enumerate(bits.guide, "parallel"), partial(torch.optim.Adam, lr=0.1)
    svi = SVI(bits.model, guide, adam, TraceEnum_ELBO(max_plate_nesting=1), capture=False)
    losses = [svi.step(bits.x).item() for _ in range(300)]
    p, _, _ = bits.table()
    evidence = torch.stack([p[[0, 2], 0].logsumexp(0), p[[0, 1], 1].logsumexp(0)]).sum()
    assert losses[0] > -evidence + 0.01
    assert losses[-1] == pytest.approx(-evidence.item(), abs=1e-4)


def test_averages_move_in_training_only_and_are_kept() -> None:
    bits, objective = OneLayer(), ScoreFunction(decay=0.5, normalize=True)
    svi = SVI(bits.model, bits.guide, partial(torch.optim.SGD, lr=0.0), objective, capture=False)
    bounds = []
    for _ in range(3):
        loss, metrics = svi.step_with_metrics(bits.x)
        bounds.append(-loss.item() / len(bits.x))
        svi.evaluate_loss(bits.x)

    average = (bounds[0] + bounds[1]) / 4 + bounds[2] / 2
    assert metrics["objective.signal.mean"].item() == pytest.approx(sum(bounds[:2]) / 2)
    assert objective.signal is not None
    assert objective.signal().item() == pytest.approx(average)
    state = svi.state_dict()
    fresh = ScoreFunction(decay=0.5, normalize=True)
    again = SVI(bits.model, bits.guide, partial(torch.optim.SGD, lr=0.0), fresh, capture=False)
    again.load_state_dict(state)
    again.evaluate_loss(bits.x)
    assert fresh.signal is not None
    assert fresh.signal().item() == pytest.approx(average)
    assert fresh.signal.steps.item() == 3


class Scaled(OneLayer):
    r"""Whose bound counts twice, while its bits are drawn as before."""

    def model(self, x: Tensor) -> None:
        with poutine.scale(scale=2.0):
            super().model(x)

    def guide(self, x: Tensor) -> None:
        with poutine.scale(scale=2.0):
            super().guide(x)


def test_scores_are_of_what_is_drawn_whatever_it_counts() -> None:
    made = Scaled()
    theta, phi, value = made.gradients(ScoreFunction(baseline="none"))
    twice = 2 * small.elbo(made)
    torch.testing.assert_close(value.mean(), twice.detach())
    for found, name in ((theta, "theta"), (phi, "phi")):
        torch.testing.assert_close(found, exact(made, twice, name))


def test_the_signal_is_divided_by_its_deviation_where_that_is_above_one() -> None:
    bits = OneLayer()
    _, phi, _ = bits.gradients(ScoreFunction(baseline="none", kl="sampled"))
    for variance, factor in ((9.0, 3.0), (0.2, 1.0)):
        objective = ScoreFunction(baseline="none", kl="sampled", normalize=True)
        assert objective.variance is not None
        objective.variance.update(torch.tensor(variance))
        # where the divergence is sampled its own gradient has the mean 0
        _, found, _ = bits.gradients(objective)
        close([factor * g for g in found], phi)


def test_the_network_learns_what_the_average_leaves() -> None:
    r"""With a guide that is the posterior f is log p(x), and the baselines' sum becomes that."""
    x = torch.tensor([0.5, -1.0, 2.0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Bernoulli(logits=x.new_tensor(0.0)))
            pyro.sample("x", dist.Normal(2 * z - 1, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=2 * x))

    objective = ScoreFunction(1, "network", "sampled", network=mlp, event_shape=())
    adam = partial(torch.optim.Adam, lr=1e-2)
    svi = SVI(model, guide, adam, objective, reduction="mean", capture=False)
    for _ in range(400):
        svi.step(x)

    components = torch.stack([dist.Normal(loc, 1.0).log_prob(x) for loc in (-1.0, 1.0)])
    evidence = components.logsumexp(0) - math.log(2)
    assert objective.signal is not None
    assert objective.network is not None
    found = objective.signal() + objective.network(x.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found, evidence, atol=1e-3, rtol=0)


MISUSE = [
    ({"baseline": "mean"}, "baseline to be one of .* got 'mean'"),
    ({"kl": "exact"}, "kl to be one of .* got 'exact'"),
    ({"particles": 0}, "particles of at least 1, got 0"),
    ({"baseline": "leave_one_out"}, "particles of at least 2 .* got 1"),
    ({"network": mlp}, "baseline='network' .* got baseline='average'"),
    ({"baseline": "network"}, "event_shape, .* or a network that is a module, got neither"),
    ({"decay": 1.0}, "decay of at least 0 and less than 1, got 1.0"),
    ({"beta": -1.0}, "beta to be finite and at least 0, got -1.0"),
]


@pytest.mark.parametrize(("arguments", "match"), MISUSE)
def test_arguments_out_of_range(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ScoreFunction(**arguments)


def test_vimco_needs_others() -> None:
    with pytest.raises(ValueError, match=r"k of at least 2, .* got 1: use ScoreFunction"):
        VIMCO(1)


def test_networks_return_a_number_a_datum() -> None:
    bits = OneLayer()
    objective = ScoreFunction(baseline="network", network=nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"shape \(2,\) or \(2, 1\), got shape \(2, 3\)"):
        objective(bits.pair.draw((bits.x,), {}))


def test_networks_need_a_tensor() -> None:
    def model(x: list[float]) -> None:
        pyro.sample("z", dist.Bernoulli(0.5))

    def guide(x: list[float]) -> None:
        pyro.sample("z", dist.Bernoulli(0.5))

    objective = ScoreFunction(baseline="network", network=nn.Linear(2, 1))
    with pytest.raises(ValueError, match=r"a tensor among .* got \['list'\]"):
        objective(Pair(model, guide).draw(([1.0],), {}))


@pytest.mark.parametrize("row", ZOO)
def test_reparametrised_pairs_have_the_usual_gradients(row: str) -> None:
    r"""ScoreFunction is the ELBO there, and VIMCO the importance-weighted bound."""
    model, guide, batch = ZOO[row]()
    pair = Pair(model, guide)
    plan = pair.plan(batch, {})
    tensors = [*plan.model, *plan.guide]
    for ours, theirs in ((ScoreFunction(3), ELBO(particles=3)), (VIMCO(3), IWAE(3))):
        draw = pair.draw(batch, {}, 3)
        try:
            expected = theirs(draw)
        except ValueError as error:
            with pytest.raises(ValueError, match=re.escape(str(error))):
                ours(draw)
            continue
        found = ours(draw)
        torch.testing.assert_close(found.value, expected.value)
        for a, b in zip(grad(found.guide, tensors), grad(expected.guide, tensors), strict=True):
            torch.testing.assert_close(a, b)
