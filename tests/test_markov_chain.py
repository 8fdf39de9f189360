r"""A chain in one site, against a site per step, the joint normal, and Pyro's Gaussian HMM."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

from pyro_vae.distributions import MarkovChain
from pyro_vae.nn import mlp, positive

T, D, U = 6, 2, 3

LOC = torch.tensor([0.4, -1.0], dtype=torch.double)
START = torch.tensor([[1.0, 0.0], [0.3, 0.7]], dtype=torch.double)  # Cholesky factors
TURN = torch.tensor([[0.9, -0.4], [0.3, 0.8]], dtype=torch.double)
NOISE = torch.tensor([[0.5, 0.0], [-0.2, 0.4]], dtype=torch.double)
PUSH = torch.tensor([[0.5, -1.0, 0.2], [0.1, 0.3, 0.9]], dtype=torch.double)


def initial(*batch: int) -> TorchDistribution:
    return dist.MultivariateNormal(LOC, scale_tril=START).expand(batch)


def linear(z: Tensor, u: Tensor | None = None) -> TorchDistribution:
    loc = z @ TURN.mT if u is None else z @ TURN.mT + u @ PUSH.mT
    return dist.MultivariateNormal(loc, scale_tril=NOISE)


class Net(nn.Module):
    r"""Any transition: a perceptron of state and input."""

    def __init__(self, inputs: int = U) -> None:
        super().__init__()
        self.layers = mlp(D + inputs, 2 * D, (7,), nn.Tanh)

    def forward(self, z: Tensor, *u: Tensor) -> TorchDistribution:
        loc, raw = self.layers(torch.cat([z, *u], -1)).chunk(2, -1)
        return dist.Normal(loc, positive(raw)).to_event(1)


def joint(pushes: Tensor, turn: Tensor = TURN, start: Tensor = START) -> TorchDistribution:
    r"""The normal over all states of a linear chain, flattened, whose steps add ``pushes``."""
    batch = pushes.shape[:-2]
    loc, cov = LOC.expand(*batch, D), start @ start.mT
    locs, rows = [loc], [[cov]]  # rows[t][s] = Cov(z_t, z_s), s <= t
    for t in range(pushes.shape[-2]):
        loc = loc @ turn.mT + pushes[..., t, :]
        locs.append(loc)
        rows.append([turn @ each for each in rows[-1]])
        rows[-1].append(turn @ rows[-2][-1] @ turn.mT + NOISE @ NOISE.mT)
    steps = range(len(rows))
    full = [[rows[t][s] if s <= t else rows[s][t].mT for s in steps] for t in steps]
    matrix = torch.cat([torch.cat(row, -1) for row in full], -2)
    return dist.MultivariateNormal(torch.cat(locs, -1), matrix)


def one_by_one(
    start: TorchDistribution,
    step: Callable[..., TorchDistribution],
    z: Tensor,
    inputs: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    r"""The log-density by a Pyro program with a site per step, each observed and masked."""

    def model() -> None:
        fn = start
        for t in pyro.markov(range(z.shape[-2])):
            if t > 0:
                u = () if inputs is None else (inputs[..., t - 1, :],)
                fn = step(z[..., t - 1, :], *u)
            mask = torch.tensor(True) if lengths is None else t < lengths
            pyro.sample(f"z_{t}", fn.mask(mask), obs=z[..., t, :])

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    return sum(site["unscaled_log_prob"] for site in trace.nodes.values() if "fn" in site)


def test_the_density_is_that_of_a_site_per_step_with_its_gradients() -> None:
    torch.manual_seed(0)
    net, inputs = Net(), torch.randn(5, T - 1, U, requires_grad=True)
    z = torch.randn(3, 5, T, D, requires_grad=True)  # particles to the left
    loc = torch.randn(5, D, requires_grad=True)
    start = dist.Normal(loc, 0.7).to_event(1)
    leaves = [z, loc, inputs, *net.parameters()]
    weights = torch.randn(3, 5)

    found = MarkovChain(start, net, inputs).log_prob(z)
    wide = inputs.expand(3, 5, T - 1, U)
    expected = one_by_one(start, net, z, wide)
    assert found.shape == (3, 5)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad((weights * found).sum(), leaves)
    theirs = torch.autograd.grad((weights * expected).sum(), leaves)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_density_of_a_linear_chain_is_that_of_the_joint_normal() -> None:
    torch.manual_seed(0)
    inputs, z = torch.randn(4, T - 1, U), torch.randn(4, T, D)
    found = MarkovChain(initial(4), linear, inputs).log_prob(z)
    expected = joint(inputs @ PUSH.mT).log_prob(z.flatten(-2))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_prior_and_likelihood_make_the_evidence_of_pyros_hmm() -> None:
    r"""Bayes' theorem: log p(z, x) - log p(z | x) is the evidence, whatever z."""
    torch.manual_seed(0)
    x, z, scale = torch.randn(T, D), torch.randn(T, D), 0.6
    chain = MarkovChain(initial(), linear, steps=T)
    likelihood = dist.Normal(z, scale).to_event(2).log_prob(x)
    prior = joint(torch.zeros(T - 1, D))
    precision = prior.precision_matrix + torch.eye(T * D) / scale**2
    pull = prior.precision_matrix @ prior.loc + x.flatten() / scale**2
    posterior = dist.MultivariateNormal(
        torch.linalg.solve(precision, pull), precision_matrix=precision
    )
    # GaussianHMM's first transition leads to the first state: from a point, by no turn
    turns = torch.stack([torch.zeros(D, D), *[TURN.mT] * (T - 1)])
    noises = torch.stack([START, *[NOISE] * (T - 1)])
    locs = torch.stack([LOC, *[torch.zeros(D)] * (T - 1)])
    hmm = dist.GaussianHMM(
        dist.MultivariateNormal(torch.zeros(D), torch.eye(D)),
        turns,
        dist.MultivariateNormal(locs, scale_tril=noises),
        torch.eye(D),
        dist.Normal(torch.zeros(D), scale).to_event(1),
        duration=T,
    )
    found = chain.log_prob(z) + likelihood - posterior.log_prob(z.flatten())
    torch.testing.assert_close(found, hmm.log_prob(x), rtol=1e-9, atol=1e-9)


def test_draws_have_the_moments_of_the_joint_normal() -> None:
    r"""Whitened draws: 12 means and 78 products, each within 5 standard errors, of two chains.

    A seed fails with probability 1e-4.
    """
    torch.manual_seed(0)
    size, inputs = 40_000, torch.randn(2, T - 1, U)
    z = MarkovChain(initial(), linear, inputs).rsample((size,))
    assert z.shape == (size, 2, T, D)

    exact = joint(inputs @ PUSH.mT)
    away = (z.flatten(-2) - exact.loc).unsqueeze(-1)
    white = torch.linalg.solve_triangular(exact.scale_tril, away, upper=False).squeeze(-1)
    assert white.mean(0).abs().max() < 5 / size**0.5
    for j in range(2):
        products = white[:, j].mT @ white[:, j] / size
        assert (products - torch.eye(T * D)).abs().max() < 5 * (2 / size) ** 0.5


def test_gradients_through_draws_are_those_of_the_joint_normal() -> None:
    r"""The same noise, through the chain and through the joint's Cholesky factor.

    The joint's factor is block-triangular in time, so that both map noise to states alike.
    """
    inputs = torch.randn(T - 1, U)
    leaves = [each.clone().requires_grad_() for each in (TURN, START, inputs)]
    turn, factor, u = leaves

    def step(z: Tensor, u: Tensor) -> TorchDistribution:
        return dist.MultivariateNormal(z @ turn.mT + u @ PUSH.mT, scale_tril=NOISE)

    weights = torch.randn(7, T, D)
    start = dist.MultivariateNormal(LOC, scale_tril=factor)
    torch.manual_seed(1)
    z = MarkovChain(start, step, u).rsample((7,))
    torch.manual_seed(1)
    noise = torch.stack([torch.randn(7, D) for _ in range(T)], -2).flatten(-2)
    exact = joint(u @ PUSH.mT, turn, factor)
    expected = exact.loc + noise @ exact.scale_tril.mT

    torch.testing.assert_close(z.flatten(-2), expected, rtol=1e-10, atol=1e-10)
    ours = torch.autograd.grad((weights * z).sum(), leaves)
    theirs = torch.autograd.grad((weights.flatten(-2) * expected).sum(), leaves)
    for mine, other in zip(ours[::2], theirs[::2], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-9)
    # above the diagonal a factor of a covariance has a gradient, one of a distribution none
    torch.testing.assert_close(ours[1].tril(), theirs[1].tril(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("wrong", [0.0, float("nan"), float("inf")])
def test_states_past_the_end_count_nothing(wrong: float) -> None:
    torch.manual_seed(0)
    net, inputs, z = Net(), torch.randn(5, T - 1, U), torch.randn(5, T, D)
    lengths = torch.tensor([T, 1, 2, 3, T - 1])
    over = torch.arange(T) >= lengths[:, None]
    spoiled = torch.where(over[..., None], wrong, z).requires_grad_()
    start = dist.Normal(torch.zeros(D), 1.0).to_event(1)
    fn = MarkovChain(start, net, inputs, lengths=lengths)

    found = fn.log_prob(spoiled)
    assert found.shape == (5,)
    expected = one_by_one(start.expand((5,)), net, z, inputs, lengths)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

    slopes = torch.autograd.grad(found.sum(), [spoiled, *net.parameters()])
    assert all(slope.isfinite().all() for slope in slopes)
    assert (slopes[0][over] == 0).all()


def test_a_draw_stays_where_its_sequence_ends() -> None:
    lengths = torch.tensor([T, 2, 1])
    start = dist.Normal(torch.zeros(D), 1.0).to_event(1)
    fn = MarkovChain(start, lambda z: dist.Normal(1e200 * z, 1.0).to_event(1), steps=T)
    assert not fn.rsample().isfinite().all()
    fn = MarkovChain(start, linear, steps=T, lengths=lengths)
    z = fn.rsample((4,))

    assert z.shape == (4, 3, T, D)
    assert (z[:, 1, 2:] == z[:, 1, 1:2]).all()
    assert (z[:, 2] == z[:, 2, :1]).all()
    assert (z[:, 0].diff(dim=-2) != 0).all()


def test_chains_of_lognormal_states_have_gradients_past_the_end() -> None:
    start = dist.LogNormal(torch.zeros(D), 1.0).to_event(1)
    scale = torch.tensor(0.5, requires_grad=True)
    fn = MarkovChain(
        start,
        lambda z: dist.LogNormal(z.log(), scale).to_event(1),
        steps=3,
        lengths=torch.tensor([2, 3]),
        validate_args=True,
    )
    z = fn.rsample()
    assert fn.support.check(z).all()
    (slope,) = torch.autograd.grad(fn.log_prob(z.detach()).sum(), scale)
    assert slope.isfinite()


def test_inside_plates_and_particles_it_is_expanded() -> None:
    net, inputs = Net(), torch.randn(5, T - 1, U)
    start = dist.Normal(torch.zeros(D), 1.0).to_event(1)

    def program() -> None:
        with pyro.plate("particles", 4, dim=-2), pyro.plate("data", 5, dim=-1):
            pyro.sample("z", MarkovChain(start, net, inputs))

    trace = poutine.trace(program).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["z"]
    assert site["value"].shape == (4, 5, T, D)
    assert site["value"][..., 0, 0].unique().numel() == 20
    expected = one_by_one(start, net, site["value"], inputs.expand(4, 5, T - 1, U))
    torch.testing.assert_close(site["unscaled_log_prob"], expected, rtol=1e-12, atol=1e-12)


def test_a_value_with_fewer_dimensions_is_broadcast() -> None:
    net, inputs, z = Net(), torch.randn(5, T - 1, U), torch.randn(T, D)
    fn = MarkovChain(dist.Normal(torch.zeros(D), 1.0).to_event(1), net, inputs)
    torch.testing.assert_close(fn.log_prob(z), fn.log_prob(z.expand(5, T, D)))


def test_one_state_is_the_initial_one() -> None:
    start, z = initial(3), torch.randn(3, 1, D)
    fn = MarkovChain(start, linear, steps=1)
    torch.testing.assert_close(fn.log_prob(z), start.log_prob(z[:, 0]))
    assert fn.rsample().shape == (3, 1, D)


def test_what_has_no_pathwise_gradient_is_drawn_without() -> None:
    flips = dist.Bernoulli(torch.full((D,), 0.5)).to_event(1)
    fn = MarkovChain(flips, lambda z: dist.Bernoulli(0.9 * z).to_event(1), steps=T)
    z = fn.sample((50,))

    assert not fn.has_rsample
    assert (z.diff(dim=-2) <= 0).all()  # 0 stays 0
    assert fn.log_prob(z).shape == (50,)


@pytest.mark.parametrize("lengths", [None, torch.tensor([T, 1, 2, 4, T - 1])])
def test_expanded_it_is_the_same(lengths: Tensor | None) -> None:
    net, inputs, z = Net(), torch.randn(5, T - 1, U), torch.randn(4, 5, T, D)
    fn = MarkovChain(vector(), net, inputs, lengths=lengths)
    wide = fn.expand((4, 5))

    assert (wide.batch_shape, wide.event_shape) == ((4, 5), (T, D))
    torch.testing.assert_close(wide.log_prob(z), fn.log_prob(z))
    assert wide.rsample((3,)).shape == (3, 4, 5, T, D)
    assert wide.has_rsample
    assert not fn.has_rsample_(False).expand((4, 5)).has_rsample


def test_single_precision_stays() -> None:
    net, inputs = Net().float(), torch.randn(5, T - 1, U).float()
    fn = MarkovChain(dist.Normal(torch.zeros(D).float(), 1.0).to_event(1), net, inputs)
    z = fn.rsample((3,))
    assert z.dtype == fn.log_prob(z).dtype == torch.float


def test_draws_without_a_gradient_after_one_with() -> None:
    def jump(z: Tensor) -> TorchDistribution:  # next to one or the other
        locs = torch.stack([z, z + 10], -2)
        weights = dist.Categorical(torch.full((*z.shape[:-1], 2), 0.5))
        return dist.MixtureSameFamily(weights, dist.Normal(locs, 1e-3).to_event(1))

    fn = MarkovChain(vector(7), jump, steps=T)
    with pytest.raises(ValueError, match="got MixtureSameFamily: draw without"):
        fn.rsample()
    for draw in (fn.sample, fn.has_rsample_(False)):
        steps = draw().diff(dim=-2) / 10
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-2)
        assert steps.round().unique().tolist() == [0, 1]


class Random(PyroModule):
    r"""A transition whose weight is a latent of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = PyroSample(dist.Normal(torch.zeros(D, D), 1.0).to_event(2))

    def forward(self, z: Tensor) -> TorchDistribution:
        return dist.Normal(z @ self.weight, 1.0).to_event(1)


def vector(*batch: int) -> TorchDistribution:
    return dist.Normal(torch.zeros(*batch, D), 1.0).to_event(1)


ERRORS: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: MarkovChain(vector(), linear), ValueError, "number of steps, or inputs"),
    (lambda: MarkovChain(vector(), linear, steps=0), ValueError, "steps of at least 1, got 0"),
    (lambda: MarkovChain(vector(), linear, steps=1.5), TypeError, "steps to be an integer"),
    (
        lambda: MarkovChain(vector(), linear, torch.zeros(4, U), steps=4),
        ValueError,
        "one step less than the 4 states, .* got those of 4",
    ),
    (lambda: MarkovChain(vector(), linear, torch.zeros(4)), ValueError, r"shape \(\*, T - 1, I\)"),
    (
        lambda: MarkovChain(dist.Normal(torch.zeros(D), 1.0), linear, steps=3),
        ValueError,
        "initial state to be a vector",
    ),
    (
        lambda: MarkovChain(vector(), lambda z: dist.Normal(z, 1.0), steps=3).sample(),
        ValueError,
        r"event shape \(2,\), as the initial",
    ),
    (
        lambda: MarkovChain(vector(), linear, steps=3, lengths=torch.tensor([2.0])),
        TypeError,
        "lengths to be integers",
    ),
    (
        lambda: MarkovChain(vector(), linear, steps=3, lengths=torch.tensor([4])),
        ValueError,
        "lengths from 1 to the number of steps, 3",
    ),
    (lambda: MarkovChain(vector(), Random(), steps=3).rsample(), ValueError, "holds '.*weight'"),
    (
        lambda: MarkovChain(vector(), Random(), steps=3).log_prob(torch.zeros(3, D)),
        ValueError,
        "without sites, .* draw it before",
    ),
    (
        lambda: MarkovChain(vector(), linear, steps=3, lengths=torch.tensor([3])).log_prob(
            torch.zeros(1, D)
        ),
        ValueError,
        r"shape \(\*, 3, 2\), got \(1, 2\)",
    ),
    (
        lambda: MarkovChain(vector(), linear, steps=3).enumerate_support(),
        NotImplementedError,
        "chain that is drawn, .*DiscreteHMM",
    ),
    (
        lambda: MarkovChain(vector(), linear, steps=3, lengths=torch.tensor([0])),
        ValueError,
        "lengths from 1 to the number of steps, 3",
    ),
]


@pytest.mark.parametrize("call, error, match", ERRORS)
def test_errors(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
