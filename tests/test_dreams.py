r"""Dreams: the sleep gradient against sums over all dreams, and what cannot dream."""

import math
from collections.abc import Callable
from typing import Any

import bits as small
import pyro
import pyro.distributions as dist
import pytest
import torch
from bits import Bits, Global, OneLayer, TwoLayers, grad, sampled, within
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from zoo import ZOO

from pyro_vae import SVI
from pyro_vae.draws import Draw
from pyro_vae.dreams import dream
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.objectives import WakeSleep
from pyro_vae.pair import Pair


def dreamt(bits: Bits) -> Tensor:
    r"""The mean of log q over what the model draws, whose gradient by phi is that of sleep."""
    kept, total = bits.x, torch.zeros(())
    for x in torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * kept.numel()).view(-1, *kept.shape):
        bits.x = x
        p, q, _ = bits.table()
        total = total + (_log_p(bits, p).exp().detach() @ q).mean()
    bits.x = kept
    return total


def _log_p(bits: Bits, p: Tensor) -> Tensor:
    r"""log p of all data and latents of each state: of a global one what was shared out."""
    if not isinstance(bits, Global):
        return p.sum(1)
    w = torch.stack([state["w"] for state in bits.states()])
    shared = small.mass(bits.theta["a"], w)
    return (p - shared.unsqueeze(1) / bits.data_size).sum(1) + shared


def test_a_site_may_have_dimensions_that_data_lack() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z[None], 1.0), obs=x)

    def guide(x: Tensor) -> None:
        assert x.dim() == 1
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    assert dream(Pair(model, guide).draw((torch.randn(3),), {}))["z"].shape == (1, 3)


@pytest.mark.parametrize("pair", [OneLayer, TwoLayers])
def test_the_sleep_gradient(pair: type[Bits]) -> None:
    r"""Means over 100 batches of 2,000 dreams lie within 4 errors: 1 in 2,000 tests fails."""
    bits, names = pair(), ["e", "f", "g"] if pair is TwoLayers else ["e", "f"]
    phi = [bits.phi[name] for name in names]
    rows = bits.x.repeat(1000, 1)
    mean, error = sampled(Pair(bits.model, bits.guide), WakeSleep(), rows, phi, 100)
    within(mean, error, grad(dreamt(bits), phi))


@pytest.mark.parametrize("data_size", [2, 10])
def test_the_sleep_gradient_of_global_latents(data_size: int) -> None:
    r"""Each dream has one w, which counts as a datum's share of it; 3,000 dreams, 4 errors."""
    bits = Global(data_size)
    phi, layout = [*bits.phi.values()], bits.pair.plan((bits.x,), {}).layout
    draw = Draw(bits.model, bits.guide, (bits.x,), {}, layout, data_size=data_size, pathwise=False)
    found = []
    for _ in range(3000):
        density = draw.combine(dream(draw).items()).mean()
        found.append(torch.cat([g.flatten() for g in grad(density, phi)]))
    all_ = torch.stack(found)
    expected = torch.cat([g.flatten() for g in grad(dreamt(bits), phi)])
    error = all_.std(0) / math.sqrt(3000)
    assert ((all_.mean(0) - expected).abs() <= 4 * error).all()
    assert (error < 0.2 * expected.abs().max()).all()


def test_dreams_of_integers_are_integers() -> None:
    r"""Counts are drawn as floating-point numbers, which could index no table."""
    table = torch.randn(50)

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 0.1))
            pyro.sample("x", dist.Poisson(z.exp()), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(table[x], 1.0))

    draw = Pair(model, guide).draw((torch.arange(5),), {})
    assert dream(draw)["z"].isfinite().all()


def test_no_gradient_reaches_the_model() -> None:
    bits = OneLayer()
    draw = bits.pair.draw((bits.x,), {})
    density = draw.combine(dream(draw).items()).mean()
    assert not any(g.any() for g in grad(density, [*bits.theta.values()]))
    assert any(g.any() for g in grad(density, [*bits.phi.values()]))


class Labelled:
    r"""y -> x <- z, with a label y that is given, or that is observed, and one that is looked up.

    Notes the arguments that each program was called with.
    """

    def __init__(self, observes_label: bool) -> None:
        self.observes_label, self.seen = observes_label, []

    def model(self, x: Tensor, y: Tensor, *, offset: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            if self.observes_label:
                y = pyro.sample("y", dist.Categorical(x.new_ones(3)), obs=y)
            loc = pyro.deterministic("loc", z + 100 * y + offset)
            assert loc.shape in (x.shape, (2, *x.shape))  # Pyro's uncondition expands it
            pyro.sample("x", dist.Normal(loc, 0.01), obs=x)

    def guide(self, x: Tensor, y: Tensor, *, offset: Tensor) -> None:
        self.seen.append((x, y, offset))
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x - 100 * y - offset, 0.01))


@pytest.mark.parametrize("observes_label", [False, True])
def test_what_is_observed_is_replaced_and_other_arguments_stay(observes_label: bool) -> None:
    r"""Then the guide finds z to within a few hundredths: its log-densities are high.

    They are -(x - z)^2 / 0.0002 + 3.7, with x - z of sd 0.01: below -15 for 1 in 10^9 data.
    """
    pair = Labelled(observes_label)
    x, y, offset = torch.zeros(50), torch.arange(50) % 3, torch.tensor(5.0)
    draw = Pair(pair.model, pair.guide).draw((x, y), {"offset": offset}, 2)
    found = dream(draw)["z"]

    dreamt_x, dreamt_y, given = pair.seen[-1]
    assert found.shape == (1, 50)
    assert (found > -15).all()
    assert given is offset
    assert (dreamt_x != x).all()
    assert dreamt_y.dtype == y.dtype
    assert (dreamt_y is not y and bool((dreamt_y != y).any())) == observes_label


def test_dreams_are_of_the_rows_that_the_plate_holds() -> None:
    r"""Both programs read covariates of the rows that a subsampling plate drew."""
    covariates = torch.arange(0.0, 1000.0, 10.0)

    def model(x: Tensor) -> None:
        with pyro.plate("data", 100, subsample_size=5, dim=-1) as rows:
            z = pyro.sample("z", dist.Normal(covariates[rows], 0.01))
            pyro.sample("x", dist.Normal(z, 0.01), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", 100, subsample_size=5, dim=-1) as rows:
            pyro.sample("z", dist.Normal(covariates[rows], 0.01))

    draw = Pair(model, guide).draw((torch.zeros(5),), {})
    assert draw.data_size == 100
    assert (dream(draw)["z"] > -15).all()


def bare_guide(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", dist.Normal(x, 1.0))


def model_of(observed: Callable[[Tensor], Tensor], twice: bool = False) -> Callable[..., None]:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=observed(x))
            if twice:
                pyro.sample("y", dist.Normal(z, 1.0), obs=x)

    return model


def fixed(x: Tensor) -> Tensor:
    return x


def moved(x: Tensor) -> Tensor:
    return x + 1


def point(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", dist.Delta(x))


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "not an argument": (model_of(moved), bare_guide, r"as it is \(obs=x\).* \['x'\]"),
    "observed twice": (model_of(fixed, twice=True), bare_guide, r"one site .* \['x', 'y'\]"),
    "point": (model_of(fixed), point, "got 'z', a point"),
    "auxiliary": (
        model_of(fixed),
        AutoNormal(model_of(fixed)),
        "got 'z_unconstrained', an auxiliary site",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    model, guide, match = REFUSED[case]
    draw = Pair(model, guide).draw((torch.randn(4),), {})
    with pytest.raises(ValueError, match=match):
        dream(draw)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("auxiliary", r"got pyro.factor at \['sparsity'\]"),
        ("partly_observed", r"obs_mask, got it at \['y_unobserved'\]"),
        ("auto_delta", "got 'mu', a point"),
        ("auto_normal", "got 'mu_unconstrained', an auxiliary site"),
    ],
)
def test_rows_of_the_zoo_that_cannot_dream(row: str, match: str) -> None:
    model, guide, batch = ZOO[row]()
    draw = Pair(model, guide).draw(batch, {})
    with pytest.raises(ValueError, match=match):
        dream(draw)


def test_what_a_handler_observes_is_no_argument() -> None:
    r"""A conditioned model (poutine.condition) observes a tensor that is no argument."""
    model = poutine.condition(VAE((3,), 2), data={"x": torch.ones(4, 3)})
    svi = SVI(model, AmortizedNormal((3,), {"z": 2}), torch.optim.Adam, WakeSleep())
    with pytest.raises(ValueError, match=r"as it is \(obs=x\).* \['x'\]"):
        svi.step(torch.ones(4, 3))
