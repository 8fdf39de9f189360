r"""Moved latents, of models whose means are known, in the order of known divergences."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import D, F, Linear, N
from pyro.distributions import transforms
from torch import Tensor
from torch.distributions import kl_divergence
from zoo import ZOO

from pyro_vae import encode, reconstruct, traverse
from pyro_vae.evaluation.features import feature_kl, quantiles
from pyro_vae.guides import AmortizedMultivariateNormal, AmortizedNormal
from pyro_vae.models import VAE


@pytest.fixture
def linear() -> Linear:
    return Linear()


def along(linear: Linear, centre: Tensor, index: int, values: Tensor) -> Tensor:
    r"""E[x | z] with one feature moved, by hand."""
    z = centre.expand(len(values), D).clone()
    z[:, index] = values
    return z @ linear.W.T + linear.b


@pytest.mark.parametrize("datum", [0, 3, None])
@pytest.mark.parametrize("plain", [False, True])
def test_rows_move_one_feature_from_the_code_of_a_datum(
    linear: Linear, datum: int | None, plain: bool
) -> None:
    model = linear.plain if plain else linear.model
    found = traverse(model, linear.guide, linear.x, datum=datum, steps=5, extent=2, batch_size=3)

    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    torch.testing.assert_close(found.values, values.expand(D, 5))
    centre = torch.zeros(D) if datum is None else linear.means[datum]
    for feature, means in zip(found.features, found.means, strict=True):
        torch.testing.assert_close(means, along(linear, centre, feature.index, values))


@pytest.mark.parametrize("axes", [None, (("z", 1), ("z", 0))])
def test_plane_moves_two_features_over_quantiles_of_the_prior(linear: Linear, axes: Any) -> None:
    plane = traverse(linear.model, linear.guide, linear.x, side=4, axes=axes).plane

    assert plane is not None
    assert [str(feature) for feature in plane.features] == (
        ["z[0]", "z[1]"] if axes is None else ["z[1]", "z[0]"]
    )
    below = torch.tensor([1 / 8, 3 / 8, 5 / 8, 7 / 8])
    values = dist.Normal(0.0, 1.0).icdf(below)
    torch.testing.assert_close(plane.values, values.expand(2, 4))
    for i in range(4):
        for j in range(4):
            z = torch.stack([values[i], values[j]])
            z = z if axes is None else z.flip(0)
            torch.testing.assert_close(plane.means[i, j], linear.W @ z + linear.b)


class Scaled:
    r"""Two sites with priors N(3, 2^2) and N(0, 1); z[k] has the scale s_k in the guide."""

    scales = torch.tensor([0.9, 0.1, 0.5])

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            a = pyro.sample("a", dist.Normal(torch.full((2,), 3.0), 2.0).to_event(1))
            b = pyro.sample("b", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(a.sum(-1) * b, 1.0), obs=x)
            pyro.sample("y", dist.Normal(a[..., 0], 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            loc = torch.stack([3 + x, torch.full_like(x, 3.0)], dim=-1)
            pyro.sample("a", dist.Normal(loc, 2 * self.scales[:2]).to_event(1))
            pyro.sample("b", dist.Normal(0.5 * x, self.scales[2]))

    def divergences(self, x: Tensor) -> Tensor:
        locs = torch.stack([x / 2, 0 * x, x / 2], dim=-1)
        q = dist.Normal(locs, self.scales)
        return kl_divergence(q, dist.Normal(torch.zeros(3), 1.0)).mean(0)


@pytest.mark.parametrize("batch_size", [2, 100])
def test_features_of_all_sites_are_ordered_by_their_divergence(batch_size: int) -> None:
    pair, x = Scaled(), torch.randn(N)
    found = traverse(pair.model, pair.guide, x, steps=3, extent=1.5, batch_size=batch_size)

    expected = dict(zip(["a[0]", "a[1]", "b[0]"], pair.divergences(x).tolist(), strict=True))
    order = sorted(expected, key=lambda name: -expected[name])
    assert [str(feature) for feature in found.features] == order == ["a[1]", "b[0]", "a[0]"]
    for feature in found.features:
        assert feature.kl == pytest.approx(expected[str(feature)], rel=1e-12)

    values = {"a": torch.tensor([0.0, 3.0, 6.0]), "b": torch.tensor([-1.5, 0.0, 1.5])}
    a, b = torch.tensor([3 + x[0], 3.0]), 0.5 * x[0]
    rows = {
        "a[0]": ((values["a"] + a[1]) * b, values["a"]),
        "a[1]": ((a[0] + values["a"]) * b, a[0].expand(3)),
        "b[0]": (a.sum() * values["b"], a[0].expand(3)),
    }
    for k, name in enumerate(order):
        torch.testing.assert_close(found.values[k], values[name[0]])
        torch.testing.assert_close(found.means["x"][k], rows[name][0])
        torch.testing.assert_close(found.means["y"][k], rows[name][1])
    assert found.plane is not None
    assert [str(feature) for feature in found.plane.features] == ["a[1]", "b[0]"]


def test_divergences_of_a_full_covariance_are_those_of_its_marginals() -> None:
    model, guide = VAE((F,), D), AmortizedMultivariateNormal((F,), {"z": D})
    x = torch.rand(N, F).round()
    found = traverse(model, guide, x)

    covariance = guide.posterior(
        *guide.encoder(x).split([D, D * (D + 1) // 2], -1)
    ).covariance_matrix
    loc = encode(model, guide, x)["z"]
    variance = covariance.diagonal(dim1=-2, dim2=-1).detach()
    expected = ((variance + loc**2 - 1 - variance.log()) / 2).mean(0)
    for feature in found.features:
        assert feature.kl == pytest.approx(expected[feature.index].item(), rel=1e-10)


def test_sampled_divergences_lie_within_their_error() -> None:
    r"""z2 -> z1 -> x with z1 drawn first: 4.5 standard errors of 500 draws of 50 data."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1.squeeze(-1), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", dist.Normal(x.new_zeros(1), 0.5).to_event(1))
            pyro.sample("z2", dist.Normal(z1 / 2, 0.7).to_event(1))

    found = traverse(model, guide, torch.zeros(50), draws=500, datum=None)
    # E[log q(z1) - log p(z1 | z2)], where z1 - z2 = z1 / 2 - 0.7 e
    square = 0.5**2 / 4 + 0.7**2
    z1 = -math.log(0.5) - 0.5 + square / 2
    z2 = -math.log(0.7) + (0.7**2 + 0.5**2 / 4 - 1) / 2
    kl = {feature.site: feature.kl for feature in found.features}
    error = 4.5 * 1.5 / math.sqrt(500 * 50)
    assert abs(kl["z1"] - z1) < error
    assert abs(kl["z2"] - z2) < error
    assert [feature.site for feature in found.features] == ["z1", "z2"]


def test_divergence_of_a_flow_is_that_of_its_moments() -> None:
    r"""An affine flow is a normal: 4096 draws give mean and variance within 4.5 errors."""
    base = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    q = dist.TransformedDistribution(
        base,
        [
            transforms.AffineTransform(
                torch.tensor([1.0, 0.0]), torch.tensor([0.5, 2.0]), event_dim=1
            )
        ],
    )
    p = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    scale, loc = torch.tensor([0.5, 2.0]), torch.tensor([1.0, 0.0])
    exact = (scale**2 + loc**2 - 1) / 2 - scale.log()
    # the derivatives are m for the mean and s - 1/s for the scale; that of p costs as much again
    error = (
        (loc * scale) ** 2 + ((scale**2 - 1) ** 2 / 2) + loc**2 + (1 + scale**2 + loc**2) ** 2 / 2
    )
    found = feature_kl(q, p, q.sample())
    assert ((found - exact).abs() < 4.5 * (error / 4096).sqrt()).all()


POSITIONS = torch.tensor([-2.0, 0.0, 1.0])
BELOW = dist.Normal(0.0, 1.0).cdf(POSITIONS)

QUANTILES: dict[str, tuple[dist.TorchDistribution, Tensor]] = {
    "normal": (dist.Normal(torch.tensor([1.0, 2.0]), 3.0).to_event(1), 3 * POSITIONS),
    "lognormal": (dist.LogNormal(torch.zeros(1), 0.5).to_event(1), (POSITIONS / 2).exp()),
    "uniform": (dist.Uniform(torch.zeros(1), 4.0).to_event(1), 4 * BELOW),
    "full": (
        dist.MultivariateNormal(torch.zeros(2), torch.tensor([[4.0, 1.0], [1.0, 9.0]])),
        2 * POSITIONS,
    ),
}


@pytest.mark.parametrize("name", QUANTILES)
def test_quantiles_of_priors(name: str) -> None:
    fn, expected = QUANTILES[name]
    found = quantiles(fn, POSITIONS)

    assert found.shape == (3, *fn.shape())
    torch.testing.assert_close(found[:, 0], expected + (1.0 if name == "normal" else 0.0))


def test_quantiles_without_an_inverse_are_those_of_draws() -> None:
    r"""4.5 standard errors of the quantiles of 4096 draws."""
    fn = dist.Gamma(torch.tensor([1.0]), 2.0).to_event(1)  # an exponential
    exact = -(1 - BELOW).log() / 2
    error = 4.5 * (BELOW * (1 - BELOW) / 4096).sqrt() / (2 * (1 - BELOW))
    assert ((quantiles(fn, POSITIONS)[:, 0] - exact).abs() < error).all()


def test_what_is_summed_out_keeps_its_most_probable_value() -> None:
    locs = torch.tensor([-5.0, 0.0, 5.0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            weights = torch.tensor([0.2, 0.5, 0.3])
            c = pyro.sample("c", dist.Categorical(weights), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(locs[c], 1.0))
            pyro.sample("x", dist.Normal(z, 0.1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x, 0.1))

    x = torch.tensor([4.8, -5.2, 0.1])
    for datum, loc in enumerate((5.0, -5.0, 0.0)):
        found = traverse(model, guide, x, datum=datum, steps=3, extent=1)
        expected = loc + torch.tensor([-1.0, 0.0, 1.0])
        torch.testing.assert_close(found.values[0], expected)
        torch.testing.assert_close(found.means[0], expected)
    # components lie so far apart that the divergence is that from the datum's own
    expected_kl = kl_divergence(
        dist.Normal(torch.tensor([-0.2, -0.2, 0.1]), 0.1), dist.Normal(0, 1)
    )
    assert found.features[0].kl == pytest.approx(expected_kl.mean().item(), abs=0.02)


def test_inputs_besides_are_those_of_the_datum() -> None:
    def model(x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", c.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample("x", dist.Normal(z + 10 * c, 0.1), obs=x)

    def guide(x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", c.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x, 1.0))

    c = torch.arange(3.0)
    found = traverse(model, guide, c, c, datum=2, steps=3, extent=1)
    torch.testing.assert_close(found.values, torch.tensor([[1.0, 2.0, 3.0]]))
    torch.testing.assert_close(found.means, torch.tensor([[21.0, 22.0, 23.0]]))
    assert found.plane is None


MOVABLE = [
    name
    for name in ZOO
    if name
    not in (
        "global_latent",
        "subsampled",
        "auto_normal",
        "auto_multivariate_normal",
        "auto_delta",
        "finite_mixture",
        "auto_normal_mixture",
        "auto_normal_infinite_mixture",
        "no_plate",
        "markov_chain",
    )
]


@pytest.mark.parametrize("name", MOVABLE)
def test_every_pair_is_traversed(name: str) -> None:
    r"""Where a feature is moved to its own code, the datum's reconstruction is found again."""
    model, guide, batch = ZOO[name]()
    found = traverse(model, guide, *batch, datum=1, steps=2001, extent=5.0)
    codes, expected = encode(model, guide, *batch), reconstruct(model, guide, *batch)
    if isinstance(expected, Tensor):
        expected, means = {"x": expected}, {"x": found.means}
    else:
        means = found.means
    for k, feature in enumerate(found.features):
        code = codes[feature.site][1].reshape(-1)[feature.index]
        step = (found.values[k] - code).abs().argmin()
        for site, mean in means.items():
            close = (mean[k, step] - expected[site][1]).abs() < 0.01 * (1 + expected[site][1].abs())
            assert close.all()


def test_seed_and_what_is_left_behind() -> None:
    model, guide, batch = ZOO["top_down"]()
    model.train()
    before = torch.get_rng_state()
    first, again, other = (traverse(model, guide, *batch, seed=seed) for seed in (0, 0, 1))

    assert first.features == again.features != other.features
    assert torch.get_rng_state().equal(before)
    assert model.training
    assert not first.means.requires_grad


def discrete() -> Any:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            c = pyro.sample("c", dist.Bernoulli(x.new_tensor(0.5)))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("c", dist.Bernoulli(x.new_tensor(0.5)))

    return model, guide, (torch.randn(N),)


def simplex() -> Any:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Dirichlet(x.new_ones(3)))

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Dirichlet(x.new_ones(3)))
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    return model, guide, (torch.randn(N),)


def maps() -> Any:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(2, 3), 1.0).to_event(2))

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2, 3), 1.0).to_event(2))
            pyro.sample("x", dist.Normal(z[..., 0, 0], 1.0), obs=x)

    return model, guide, (torch.randn(N),)


def latent_free() -> Any:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(x.new_zeros(()), 1.0), obs=x)

    return model, lambda x: None, (torch.randn(N),)


def two() -> Any:
    return VAE((F,), D), AmortizedNormal((F,), {"z": D}), (torch.ones(N, F),)


ERRORS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "global": (ZOO["auto_normal"], {}, r"inside the data plate 'data', got '.*' outside"),
    "no plate": (ZOO["no_plate"], {}, r"expected a data plate, .* got none"),
    "discrete": (discrete, {}, r"continuous latents to be moved, got the discrete site 'c'"),
    "simplex": (simplex, {}, r"moved on its own, got 'z' with support Simplex"),
    "maps": (maps, {}, r"shape \(N, D\), got 'z' with shape \(7, 2, 3\)"),
    "no latents": (latent_free, {}, r"a guide that draws latents, got none"),
    "chain": (ZOO["markov_chain"], {}, r"shape \(N, D\), got 'z' with shape \(7, 9, 2\)"),
    "datum": (two, {"datum": 7}, r"datum to be an index from 0 to 6, got 7"),
    "datum below": (two, {"datum": -1}, r"datum to be an index from 0 to 6, got -1"),
    "extent": (two, {"extent": 0.0}, r"a finite extent above 0, got 0.0"),
    "extent, infinite": (two, {"extent": math.inf}, r"a finite extent above 0, got inf"),
    "steps": (two, {"steps": 0}, r"steps of at least 1, got 0"),
    "side": (two, {"side": 0}, r"side of at least 1, got 0"),
    "draws": (two, {"draws": 0}, r"draws of at least 1, got 0"),
    "axis": (
        two,
        {"axes": (("z", 0), ("z", 2))},
        r"two of the features \[\('z', 0\), \('z', 1\)\]",
    ),
    "one axis": (two, {"axes": (("z", 0), ("z", 0))}, r"two of the features"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    make, arguments, match = ERRORS[name]
    model, guide, batch = make()
    with pytest.raises(ValueError, match=match):
        traverse(model, guide, *batch, **arguments)
