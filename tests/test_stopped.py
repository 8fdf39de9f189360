r"""Densities of the guide whose parameters are stopped, against gradients that were taken by hand.

With :math:`z = T(\epsilon; \phi)` the derivative of :math:`\log q_\phi(z)` by :math:`\phi` is that
of its density plus that along the path; only the second one may be left.
"""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints, transforms
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from zoo import ZOO, Leading

from pyro_vae import SVI
from pyro_vae.draws import Draw
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.pair import Pair

N, F, D = 7, 5, 2


class Guide(PyroModule):
    r"""q(z) as a function of leaves."""

    def __init__(self, made: Callable[..., Any], **leaves: Tensor) -> None:
        super().__init__()
        self.made, self.names = made, list(leaves)
        for name, leaf in leaves.items():
            setattr(self, name, nn.Parameter(leaf))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", self.made(*(getattr(self, name) for name in self.names)))


def model(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(D), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def draw_of(guide: Any, particles: int = 3) -> Draw:
    return Pair(model, guide).draw((torch.randn(N),), {}, particles)


def normal(loc: Tensor, scale: Tensor) -> Any:
    return dist.Normal(loc, scale).to_event(1)


def full(loc: Tensor, tril: Tensor) -> Any:
    return dist.MultivariateNormal(loc, scale_tril=tril.tril())


def low_rank(loc: Tensor, factor: Tensor, diagonal: Tensor) -> Any:
    return dist.LowRankMultivariateNormal(loc, factor, diagonal)


def masked(loc: Tensor, scale: Tensor) -> Any:
    return dist.Normal(loc, scale).mask(torch.tensor([True, False])).to_event(1)


def affine(loc: Tensor, scale: Tensor) -> Any:
    base = dist.Normal(torch.zeros(D), 1.0).to_event(1)
    return dist.TransformedDistribution(base, [transforms.AffineTransform(loc, scale, 1)])


def affine_of_affine(loc: Tensor, scale: Tensor) -> Any:
    chain = transforms.ComposeTransform(
        [transforms.AffineTransform(loc, scale), transforms.ExpTransform()]
    )
    return dist.TransformedDistribution(dist.Normal(loc, scale), [chain]).to_event(1)


def inverse(loc: Tensor, scale: Tensor) -> Any:
    base = dist.Normal(torch.zeros(D), 1.0).to_event(1)
    return dist.TransformedDistribution(base, [transforms.AffineTransform(loc, scale, 1).inv])


def log_normal(loc: Tensor, scale: Tensor) -> Any:
    return dist.LogNormal(loc, scale).to_event(1)


LOC, SCALE = torch.tensor([0.3, -0.5]), torch.tensor([0.7, 1.3])
TRIL = torch.tensor([[0.7, 0.0], [0.4, 1.3]])

FAMILIES: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "Normal": (normal, (LOC, SCALE)),
    "MultivariateNormal": (full, (LOC, TRIL)),
    "LowRankMultivariateNormal": (low_rank, (LOC, TRIL[:, :1], SCALE)),
    "masked": (masked, (LOC, SCALE)),
    "affine": (affine, (LOC, SCALE)),
    "inverse": (inverse, (LOC, SCALE)),
    "composed": (affine_of_affine, (LOC, SCALE)),
    "LogNormal": (log_normal, (LOC, SCALE)),
    "Gamma": (lambda a, b: dist.Gamma(a.exp(), b.exp()).to_event(1), (LOC, SCALE)),
    "Laplace": (lambda a, b: dist.Laplace(a, b).to_event(1), (LOC, SCALE)),
}


def path_gradient(fixed: Any, value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    r"""The density's derivative by the value, times the value's by the leaves."""
    point = value.detach().requires_grad_()
    (slope,) = torch.autograd.grad(fixed.log_prob(point).sum(), point)
    return list(torch.autograd.grad(value, leaves, slope, retain_graph=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_only_the_path_is_left(name: str) -> None:
    made, values = FAMILIES[name]
    values = tuple(value.double() for value in values)
    guide = Guide(made, **{f"p{i}": value for i, value in enumerate(values)})
    draw = draw_of(guide)
    assert not draw.layout.chained
    leaves = list(guide.parameters())
    expected = path_gradient(made(*values), draw.values["z"], leaves)
    plain = torch.autograd.grad(draw.log_guide["z"].sum(), leaves, retain_graph=True)
    found = torch.autograd.grad(draw.stopped_log_guide["z"].sum(), leaves)

    torch.testing.assert_close(draw.stopped_log_guide["z"], draw.log_guide["z"])
    for ours, theirs, whole in zip(found, expected, plain, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert not torch.allclose(ours, whole)


@pytest.mark.parametrize("size", [0, 1])
def test_a_transform_may_be_kept_from_draw_to_draw(size: int) -> None:
    r"""It holds its inverse, and the inverse holds it."""
    kept = transforms.ExpTransform(cache_size=size)

    def made(loc: Tensor, scale: Tensor) -> Any:
        return dist.TransformedDistribution(dist.Normal(loc, scale), [kept]).to_event(1)

    guide = Guide(made, loc=LOC.double(), scale=SCALE.double())
    pair = Pair(model, guide)
    for _ in range(2):
        draw = pair.draw((torch.randn(N),), {}, 3)
        value = draw.values["z"]
        fixed = dist.LogNormal(LOC.double(), SCALE.double()).to_event(1)
        expected = path_gradient(fixed, value, list(guide.parameters()))
        total = draw.stopped_log_guide["z"].sum()
        found = torch.autograd.grad(total, list(guide.parameters()))
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(draw.stopped_log_guide["z"], draw.log_guide["z"])


class Flow(PyroModule):
    r"""A normal sent through transforms that are modules."""

    def __init__(self, *flows: Any) -> None:
        super().__init__()
        self.flows = nn.ModuleList(flows)
        self.loc = nn.Parameter(torch.tensor([0.3, -0.5]))

    def made(self) -> Any:
        base = dist.Normal(self.loc, 1.0).to_event(1)
        return dist.TransformedDistribution(base, list(self.flows))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", self.made())


FLOWS: dict[str, Callable[[], Any]] = {
    "affine autoregressive": lambda: transforms.affine_autoregressive(D, [4]),
    "affine coupling": lambda: transforms.affine_coupling(D, [4]),
    "spline": lambda: transforms.spline(D),
    "matrix exponential": lambda: transforms.matrix_exponential(D),
}


@pytest.mark.parametrize("flows", [[name] for name in FLOWS] + [["affine coupling", "spline"]])
def test_of_transforms_that_are_modules_only_the_path_is_left(flows: list[str]) -> None:
    r"""Expected: the density of a copy whose parameters are constants, inverted anew."""
    guide = Flow(*(FLOWS[name]() for name in flows))
    copy = Flow(*(FLOWS[name]() for name in flows))
    copy.load_state_dict(guide.state_dict())
    draw = draw_of(guide)
    assert not draw.layout.chained  # one pass will do
    leaves = list(guide.parameters())
    expected = path_gradient(copy.made(), draw.values["z"], leaves)
    found = torch.autograd.grad(draw.stopped_log_guide["z"].sum(), leaves)

    torch.testing.assert_close(draw.stopped_log_guide["z"], draw.log_guide["z"])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.any()


class ChainedFlow(PyroModule):
    r"""z1 ~ N(loc, 1), z2 ~ N(z1, 1) sent through a transform that remembers what it drew."""

    def __init__(self) -> None:
        super().__init__()
        self.flow = transforms.affine_autoregressive(D, [4])
        self.loc = nn.Parameter(torch.tensor([0.3, -0.5]))

    def second(self, z1: Tensor) -> Any:
        base = dist.Normal(z1, 1.0).to_event(1)
        return dist.TransformedDistribution(base, [self.flow])

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", dist.Normal(self.loc, 1.0).to_event(1))
            pyro.sample("z2", self.second(z1))


def test_a_chain_through_a_transform_inverts_it_anew() -> None:
    r"""Expected: log q of a copy whose parameters are constants, along the path of both values."""

    def chained(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            zero = x.new_zeros(D)
            z1 = pyro.sample("z1", dist.Normal(zero, 1.0).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(zero, 1.0).to_event(1))
            pyro.sample("x", dist.Normal((z1 + z2).sum(-1), 1.0), obs=x)

    guide, copy = ChainedFlow(), ChainedFlow()
    copy.load_state_dict(guide.state_dict())
    draw = Pair(chained, guide).draw((torch.randn(N),), {}, 3)
    assert draw.layout.chained == {"z2"}
    values, leaves = [draw.values["z1"], draw.values["z2"]], list(guide.parameters())
    z1, z2 = points = [value.detach().requires_grad_() for value in values]
    fixed = dist.Normal(copy.loc.detach(), 1.0).to_event(1).log_prob(z1)
    density = fixed + copy.second(z1).log_prob(z2)
    slopes = torch.autograd.grad(density.sum(), points)
    expected = torch.autograd.grad(values, leaves, slopes, retain_graph=True)
    stopped = draw.combine(draw.stopped_log_guide.items())

    torch.testing.assert_close(stopped, density)
    found = torch.autograd.grad(stopped.sum(), leaves)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_chain_keeps_the_path_through_earlier_latents() -> None:
    r"""z1 = a + e1, z2 = b z1 + c e2 (scale c), so that by hand, with e2 and z1 as functions:

    log q(z2 | z1) = -(z2 - b z1)² / 2c² - log c, of which b and c are stopped, has the derivative
    zero by a (z2 - b z1 = c e2 does not change), -(c e2 / c²) z1 by b, and -(c e2 / c²) e2 by c.
    """

    class Chain(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.tensor(0.3))
            self.b = nn.Parameter(torch.tensor(-0.8))
            self.c = PyroParam(torch.tensor(0.6), constraints.positive)

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", x.shape[0], dim=-1):
                z1 = pyro.sample("z1", dist.Normal(self.a, 1.0))
                pyro.sample("z2", dist.Normal(self.b * z1, self.c))

    def chained(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", dist.Normal(x.new_zeros(()), 1.0))
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z1 + z2, 1.0), obs=x)

    guide = Chain()
    draw = Pair(chained, guide).draw((torch.randn(N),), {}, 3)
    assert draw.layout.chained == {"z2"}
    raw = dict(guide.named_parameters())["c_unconstrained"]  # c = exp(raw)
    z1, z2 = draw.values["z1"].detach(), draw.values["z2"].detach()
    c, e1 = 0.6, z1 - 0.3
    e2 = (z2 + 0.8 * z1) / c
    first, second = draw.stopped_log_guide["z1"].sum(), draw.stopped_log_guide["z2"].sum()
    of_first = torch.autograd.grad(first, guide.a, retain_graph=True)
    of_second = torch.autograd.grad(second, [guide.a, guide.b, raw])

    torch.testing.assert_close(of_first[0], -e1.sum())
    # but for b: stopped, so that of z2 the path by z1 has the slope b, and the mean the same
    torch.testing.assert_close(of_second[0], torch.zeros(()), atol=1e-12, rtol=0)
    torch.testing.assert_close(of_second[1], -(e2 / c * z1).sum())
    torch.testing.assert_close(of_second[2], -(e2 / c * e2 * c).sum())
    torch.testing.assert_close(first + second, sum(draw.log_guide.values()).sum())


def counted(*networks: nn.Module) -> list[Any]:
    calls: list[Any] = []
    for network in networks:
        network.register_forward_hook(lambda net, *_: calls.append(net))
    return calls


@pytest.mark.parametrize("name", ["vae", "full_covariance"])
def test_independent_sites_need_no_second_pass(name: str) -> None:
    model, guide, batch = ZOO[name]()
    pair = Pair(model, guide)
    pair.plan(batch, {})
    calls = counted(guide.encoder)
    draw = pair.draw(batch, {}, 3)
    torch.testing.assert_close(draw.stopped_log_weights, draw.log_weights)
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["bottom_up", "top_down"])
def test_dependent_sites_need_one(name: str) -> None:
    model, guide, batch = ZOO[name]()
    pair = Pair(model, guide)
    pair.plan(batch, {})
    calls = counted(guide.first, guide.second)
    draw = pair.draw(batch, {}, 3)
    torch.testing.assert_close(draw.stopped_log_weights, draw.log_weights)
    assert calls == [guide.first, guide.second] * 2


@pytest.mark.parametrize("name", [n for n in ZOO if n != "batch_norm_and_dropout"])
def test_values_are_those_of_the_densities(name: str) -> None:
    r"""On every pair, so that a bound's value does not depend on how it is differentiated."""
    model, guide, batch = ZOO[name]()
    draw = Pair(model, guide).draw(batch, {}, 3)
    assert list(draw.stopped_log_guide) == list(draw.log_guide)
    for site, density in draw.log_guide.items():
        torch.testing.assert_close(draw.stopped_log_guide[site], density)


def conjugate(x: Tensor) -> None:
    r"""Two global latents of ten data: a + b is seen with noise."""
    a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
    b = pyro.sample("b", dist.Normal(x.new_zeros(()), 2.0))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)


@pytest.mark.parametrize("family", [AutoMultivariateNormal, AutoLowRankMultivariateNormal])
def test_of_autoguides_nothing_is_left_at_the_posterior(family: Any) -> None:
    r"""Of a full normal: what stl leaves of the gradient is zero; of the plain ELBO it is not."""
    x = torch.randn(10)
    precision = torch.diag(torch.tensor([1.0, 0.25])) + 10 * torch.ones(2, 2)
    covariance = torch.linalg.inv(precision)
    guide = family(conjugate)
    pair = Pair(conjugate, guide)
    pair.plan((x,), {})
    with torch.no_grad():
        guide.loc.copy_(covariance @ torch.full((2,), x.sum().item()))
        if family is AutoMultivariateNormal:
            tril = torch.linalg.cholesky(covariance)
            guide.scale = tril.diagonal().clone()
            guide.scale_tril = tril / tril.diagonal().unsqueeze(-1)
        else:  # one factor: what is left of the diagonal must be positive
            a, b, c = covariance[0, 0], covariance[1, 1], covariance[0, 1]
            first = (a * c.square() / b).sqrt().sqrt()
            factor = torch.stack([first, c / first])
            diagonal = torch.stack([a, b]) - factor.square()
            guide.scale = diagonal.sqrt()
            guide.cov_factor.copy_((factor / diagonal.sqrt()).unsqueeze(-1))
    draw = pair.draw((x,), {}, 3)
    evidence = dist.MultivariateNormal(
        torch.zeros(10), torch.eye(10) + 5 * torch.ones(10, 10)
    ).log_prob(x)
    torch.testing.assert_close(draw.log_weights.sum(1), evidence.expand(3))
    leaves = list(guide.parameters())
    stopped = torch.autograd.grad(draw.stopped_log_weights.mean(), leaves, retain_graph=True)
    plain = torch.autograd.grad(draw.log_weights.mean(), leaves)
    assert max(g.abs().max() for g in stopped) < 1e-12
    assert max(g.abs().max() for g in plain) > 1e-3


def test_of_auto_normal_only_the_path_is_left() -> None:
    r"""Its sites are Deltas of auxiliary normals: z = loc + scale e, log q by hand."""
    x = torch.randn(10)
    guide = AutoNormal(conjugate)
    pair = Pair(conjugate, guide)
    draw = pair.draw((x,), {}, 3)
    locs = [getattr(guide.locs, name) for name in "ab"]
    raws = [getattr(guide.scales, f"{name}_unconstrained") for name in "ab"]
    total = draw.combine(draw.stopped_log_guide.items()).sum()
    found = torch.autograd.grad(total, [*locs, *raws], allow_unused=True)
    for i, name in enumerate("ab"):
        scale = getattr(guide.scales, name).detach()
        e = (draw.values[name].detach() - locs[i].detach()) / scale
        torch.testing.assert_close(found[i], -(e / scale).sum())
        slope = torch.autograd.grad(getattr(guide.scales, name), raws[i])[0]
        torch.testing.assert_close(found[2 + i], -(e / scale * e).sum() * slope)


class Moved(PyroModule):
    r"""z as a function, with a parameter, of an auxiliary site."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.3))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            base = dist.Normal(x.new_zeros(D), 1.0).to_event(1)
            u = pyro.sample("u", base, infer={"is_auxiliary": True})
            density = -D * self.slope.log().expand(u.shape[:-1])
            pyro.sample("z", dist.Delta(self.slope * u, density, event_dim=1))


STOPPING = [lambda: IWAE(3, "stl"), lambda: IWAE(3, "dreg"), lambda: ELBO(gradient="stl")]


@pytest.mark.parametrize("objective", STOPPING)
def test_functions_of_auxiliary_sites_with_parameters_are_refused(objective: Any) -> None:
    svi = SVI(model, Moved(), torch.optim.Adam, objective())
    with pytest.raises(ValueError, match=r"got \['z'\], functions with parameters of aux"):
        svi.step(torch.randn(N))


@pytest.mark.parametrize("layer", [lambda: nn.Dropout(0.3), lambda: nn.BatchNorm1d(6)])
@pytest.mark.parametrize("objective", STOPPING)
def test_a_guide_that_runs_twice_must_be_the_same_twice(objective: Any, layer: Any) -> None:
    model, guide, batch = ZOO["bottom_up"]()
    guide.first = nn.Sequential(guide.first, layer())
    svi = SVI(model, guide, torch.optim.Adam, objective())
    with pytest.raises(
        ValueError, match=rf"\['z2'\] depend .* got {type(layer()).__name__} 'first"
    ):
        svi.step(*batch)
    guide.eval()
    assert svi.step(*batch).isfinite()


class Recurrent(nn.Module):
    r"""Dropout inside a layer of another name."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.LSTM(1, 8, num_layers=2, dropout=0.5), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.inner(x.T.unsqueeze(-1))[0][-1])
        return found


class Functional(nn.Linear):
    r"""Dropout that is no layer."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.3, self.training)


@pytest.mark.filterwarnings("ignore:.*non-contiguous.*")
@pytest.mark.parametrize("network", [Recurrent, lambda: Functional(F, 6)])
@pytest.mark.parametrize("objective", STOPPING)
def test_whatever_makes_it_another(objective: Any, network: Any) -> None:
    model, guide, batch = ZOO["bottom_up"]()
    guide.first = network()
    svi = SVI(model, guide, torch.optim.Adam, objective(), capture=False)
    with pytest.raises(ValueError, match=r"\['z2'\] depend .* got other densities .* \['z1'\]"):
        svi.step(*batch)
    guide.eval()
    assert svi.step(*batch).isfinite()


@pytest.mark.parametrize("objective", STOPPING)
def test_a_guide_that_runs_once_may_change(objective: Any) -> None:
    layers = (nn.Linear(F, 6), nn.Dropout(0.3), nn.BatchNorm1d(6), nn.Linear(6, 2 * D))
    encoder = nn.Sequential(*layers)
    guide = AmortizedNormal((F,), {"z": D}, Leading(encoder))
    svi = SVI(VAE((F,), D), guide, torch.optim.Adam, objective())
    assert math.isfinite(svi.step(torch.ones(N, F)))
    assert encoder[0].weight.grad.any()
