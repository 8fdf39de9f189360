r"""What latents hold and tell, where it is known."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import VAR, D, Linear, N
from measured import Metric, check_errors, measure
from pyro import poutine
from scipy import integrate
from torch import Tensor
from zoo import ZOO

from pyro_vae.evaluation import chunks, evaluate, information
from pyro_vae.evaluation.barber_agakov import barber_agakov
from pyro_vae.evaluation.curve import rate_distortion_curve
from pyro_vae.evaluation.encoded import across, guide_draw, log_densities
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.folding import fold
from pyro_vae.evaluation.information import mutual_information
from pyro_vae.evaluation.rate_distortion import rate_distortion
from pyro_vae.evaluation.units import active_units, kl_per_dimension
from pyro_vae.layout import plate_dims, sample_sites
from pyro_vae.pair import Pair

INFORMATION = D / 2 * math.log(1 + 1 / VAR)  # of x and z under the linear model


@pytest.fixture
def linear() -> Linear:
    return Linear()


# Units


@pytest.mark.parametrize("batch_size", [None, 3])
def test_active_units_of_a_linear_guide(linear: Linear, batch_size: int | None) -> None:
    linear.guide.encoder.weight.data[0] *= 0.05 / linear.means[:, 0].std()
    linear.guide.encoder.bias.data[0] = 3.0
    found = measure(active_units, linear.model, linear.guide, linear.x, batch_size=batch_size)

    assert set(found) == {"active_units", "active_units.z"}
    for each in found.values():
        expected = torch.stack([torch.tensor(0.0025), linear.means[:, 1].var()])
        torch.testing.assert_close(each.per_datum, expected)
        assert each.value == 1  # a standard deviation of 0.05 is none, 0.3 is
        assert each.unit == "of 2 units"


def chain(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        a = pyro.sample("a", dist.Normal(x, 1.0))
        pyro.sample("b", dist.Normal(2 * a, 1.0))


def chain_model(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
        a = pyro.sample("a", dist.Normal(b, 1.0))
        pyro.sample("x", dist.Normal(a, 1.0), obs=x)


@pytest.mark.parametrize("particles", [2, 9])
def test_noise_of_averages_is_no_activity(particles: int) -> None:
    r"""E[b | x] = 2 x, estimated with an error of variance 4 / K; fails for 6e-5 of the seeds."""
    x = torch.randn(5000) / 2
    found = measure(active_units, chain_model, chain, x, particles=particles)
    assert found["active_units.a"].per_datum.item() == pytest.approx(x.var())
    expected, error = 4 * x.var(), math.sqrt(2 / 5000) * (1 + 4 / particles)
    assert abs(found["active_units.b"].per_datum.item() - expected) < 4 * error


def test_categorical_latents_have_no_activity() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            c = pyro.sample("c", dist.Categorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(c.to(x), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("c", dist.Categorical(torch.ones(3)))

    with pytest.raises(ValueError, match="the categorical site 'c', whose values have no mean"):
        measure(active_units, model, guide, torch.randn(N))


def test_divergence_of_each_unit_of_a_linear_guide(linear: Linear) -> None:
    found = measure(kl_per_dimension, linear.model, linear.guide, linear.x)
    s = linear.scale
    expected = (s**2 + linear.means**2 - 1) / 2 - math.log(s)
    for d in range(D):
        torch.testing.assert_close(found[f"kl.z[{d}]"].per_datum, expected[:, d])
        assert found[f"kl.z[{d}]"].stderr == 0


@pytest.mark.parametrize("name", ["vae", "masked_and_scaled", "nested_plates", "top_down"])
def test_divergences_of_units_add_up_to_that_of_the_site(name: str) -> None:
    r"""The latter is sampled with 4000 particles: it lies within 4.5 standard errors."""
    model, guide, batch = ZOO[name]()
    found = measure(kl_per_dimension, model, guide, *batch, particles=200)
    sites = evaluate(model, guide, batch[0], ("elbo",), particles=4000)
    for site in [key for key in sites if key.startswith("kl.")]:
        units = [each for key, each in found.items() if key.startswith(f"{site}[")]
        error = math.hypot(sites[site].stderr, sum(each.stderr for each in units))
        assert abs(sum(each.value for each in units) - sites[site].value) < 4.5 * error


def test_divergence_without_a_closed_form_is_sampled() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1), poutine.scale(scale=0.5):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 2.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            loc = torch.stack([0 * x, 0 * x + 1], -1)
            pyro.sample("z", dist.StudentT(5.0, loc, 1.0).to_event(1))

    def term(z: float, loc: float) -> float:
        z = torch.tensor(z)
        q, p = dist.StudentT(5.0, loc, 1.0).log_prob(z), dist.Normal(0.0, 2.0).log_prob(z)
        return (q.exp() * (q - p / 2)).item()

    x = torch.randn(N)
    runs = [measure(kl_per_dimension, model, guide, x, particles=60, seed=s) for s in range(40)]
    for d in range(2):
        exact, _ = integrate.quad(term, -80, 80, args=(float(d),), points=[float(d)], limit=200)
        check_errors([found[f"kl.z[{d}]"] for found in runs], exact)


def test_masked_latents_cost_nothing() -> None:
    x = torch.tensor([-2.0, -1.0, 1.0, 2.0])
    mask = x > 0

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1), poutine.mask(mask=mask):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1), poutine.mask(mask=mask):
            pyro.sample("z", dist.Normal(x[:, None] + torch.arange(3.0), 1.0).to_event(1))

    found = measure(kl_per_dimension, model, guide, x)
    for d in range(3):
        expected = torch.where(mask, (x + d) ** 2 / 2, 0)
        torch.testing.assert_close(found[f"kl.z[{d}]"].per_datum, expected)


def test_many_units_are_folded() -> None:
    kl = torch.arange(20.0)
    found = {f"kl.z[{d}]": Estimate.of(torch.stack([v, v + 2]), 0.1) for d, v in enumerate(kl)}
    folded = fold({"elbo": Estimate(1.0, 0.0, 0.0), **found, "kl.y[0]": Estimate(2.0, 0.1, 0.1)}, 3)
    assert list(folded) == [
        "elbo",
        "kl.z[19]",
        "kl.z[18]",
        "kl.z[17]",
        "kl.z, 17 others",
        "kl.y[0]",
    ]
    rest = folded["kl.z, 17 others"]
    assert (rest.value, rest.unit) == (9.0, "nats, on average")  # the mean of 0 to 16, and 1
    assert rest.stderr == pytest.approx(0.1)
    assert rest.data_stderr == 1
    assert list(fold(found, 19)) == [f"kl.z[{d}]" for d in reversed(range(20))]


# Information


def exact_information(linear: Linear) -> tuple[float, float, float]:
    r"""Information, that with the own posterior left out, and marginal KL, by quadrature."""
    axis = torch.linspace(-9, 9, 451)
    z = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)[..., None, :]
    each = dist.Normal(linear.means, linear.scale).to_event(1).log_prob(z)  # (S, S, N)
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    cell = (axis[1] - axis[0]) ** 2
    q = each.logsumexp(-1, keepdim=True) - math.log(N)
    own = torch.eye(N, dtype=torch.bool)
    others = (each[..., None, :].expand(*each.shape, N)).masked_fill(own, -math.inf)
    above = each - others.logsumexp(-1) + math.log(N - 1)
    return (
        float((each.exp() * (each - q)).sum() * cell / N),
        float((each.exp() * above).sum() * cell / N),
        float((q.exp() * (q - prior)).sum() * cell),
    )


def test_information_and_marginal_divergence_are_those_of_quadrature(linear: Linear) -> None:
    r"""40 seeds: 1 in 500 of the five checks fails."""
    information, above, marginal = exact_information(linear)
    kl = sum(
        e.value for e in measure(kl_per_dimension, linear.model, linear.guide, linear.x).values()
    )
    assert information + marginal == pytest.approx(kl)
    exact = {
        "mutual_information": information,
        "mutual_information.above": above,
        "mutual_information.analytic": information,
        "mutual_information.kl": kl,
        "marginal_kl": marginal,
    }
    found = [
        measure(
            mutual_information,
            linear.model,
            linear.guide,
            linear.x,
            particles=210,
            batch_size=3,
            seed=seed,
        )
        for seed in range(40)
    ]
    assert set(found[0]) == set(exact)
    for name, value in exact.items():
        check_errors([each[name] for each in found], value)


@pytest.mark.parametrize("name", ["vae", "full_covariance", "bottom_up", "top_down", "mixture"])
def test_divergence_is_information_and_marginal_divergence(name: str) -> None:
    model, guide, batch = ZOO[name]()
    found = measure(mutual_information, model, guide, *batch, batch_size=3)
    parts = found["mutual_information"].per_datum + found["marginal_kl"].per_datum
    torch.testing.assert_close(parts, found["mutual_information.kl"].per_datum)
    if name in ("vae", "full_covariance"):
        with torch.no_grad():
            kl = Pair(model, guide).draw(batch, {}).kl["z"][0]
        analytic = found["mutual_information.analytic"].per_datum
        torch.testing.assert_close(analytic + found["marginal_kl"].per_datum, kl)
    else:
        assert name == "top_down" or "mutual_information.analytic" not in found
    assert found["mutual_information"] < found["mutual_information.above"] or name == "mixture"


def test_information_of_many_data_is_that_of_some(
    linear: Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(information, "MOST", 4)
    found = measure(mutual_information, linear.model, linear.guide, linear.x, seed=3)
    some = torch.randperm(N, generator=torch.Generator().manual_seed(3))[:4].sort().values
    expected = measure(mutual_information, linear.model, linear.guide, linear.x[some], seed=3)
    for name, each in found.items():
        assert each.to_dict() == expected[name].to_dict()
        assert each.per_datum is None
        assert expected[name].per_datum.shape == (4,)


def test_information_is_at_most_that_of_indices(linear: Linear) -> None:
    linear.guide.encoder.bias.data[D:] = -20.0  # posteriors become points
    found = measure(mutual_information, linear.model, linear.guide, linear.x)
    assert found["mutual_information"].value == pytest.approx(math.log(N))
    assert found["mutual_information.above"] > 1000


def test_bounds_enclose_the_information_of_the_population(linear: Linear) -> None:
    r"""With 500 data their biases, and 4 standard errors of 0.03, are below 0.15."""
    x = linear.model(n=500).detach()
    found = measure(mutual_information, linear.model, linear.guide, x, particles=1)
    below, above = found["mutual_information"], found["mutual_information.above"]
    assert INFORMATION - 0.15 < below < INFORMATION + 4 * below.data_stderr
    assert INFORMATION - 4 * above.data_stderr < above < INFORMATION + 0.15
    assert abs(found["marginal_kl"].value) < 0.15


def test_chunks_do_not_matter(linear: Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (mutual_information, linear.model, linear.guide, linear.x)
    whole = measure(*arguments, batch_size=3)
    seen = []
    original = log_densities

    def record(*args: Any) -> Tensor:
        seen.append(original(*args).shape)
        return original(*args)

    monkeypatch.setattr("pyro_vae.evaluation.information.log_densities", record)
    monkeypatch.setitem(chunks._BUDGET, "cpu", 60)
    chunked = measure(*arguments, batch_size=3)
    assert max(i * j * D for i, j in seen) <= 60
    assert sum(i * j for i, j in seen) == 2 * N * N
    for name, each in whole.items():
        torch.testing.assert_close(chunked[name].per_datum, each.per_datum)


@pytest.mark.parametrize("name", ["full_covariance", "bottom_up", "top_down", "nested_plates"])
def test_densities_given_other_data(name: str) -> None:
    model, guide, (x,) = ZOO[name]()
    pair = Pair(model, guide)
    with torch.no_grad():
        layout = pair.plan((x,), {}).layout
        draw = guide_draw(pair, layout, (x,), 2)
        sites = sample_sites(draw.guide_trace)
        values = {n: across(draw, site) for n, site in sites.items()}
        dims = {n: plate_dims(s)["data"] - s["fn"].event_dim for n, s in sites.items()}
        found = log_densities(pair, layout, (x,), values, dims)
        assert found.shape == (2 * N, N)
        torch.testing.assert_close(
            found.reshape(N, 2, N).diagonal(dim1=0, dim2=2), draw.combine(draw.log_guide.items())
        )
        for i, j in ((0, 0), (3, 5), (2 * N - 1, 1)):
            given = poutine.condition(guide, data={n: value[i] for n, value in values.items()})
            expected = poutine.trace(given).get_trace(x[j : j + 1]).log_prob_sum()
            torch.testing.assert_close(found[i, j], expected)


# Barber and Agakov


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_bound_on_the_information_of_a_linear_model(linear: Linear, shift: float) -> None:
    r"""The gap is the divergence of the posterior from the guide."""
    linear.guide.encoder.bias.data[:D] += shift
    exact = INFORMATION - D * shift**2 / (2 * linear.scale**2)
    arguments = (barber_agakov, linear.model, linear.guide, 100 + linear.x)
    options = {"particles": 300, "batch_size": 40}
    found = [measure(*arguments, **options, seed=seed)["barber_agakov"] for seed in range(40)]
    check_errors(found, exact)


def test_bound_of_a_decoder_that_ignores_latents(linear: Linear) -> None:
    linear.decoder.weight.data.zero_()
    linear.guide.encoder.weight.data.zero_()
    linear.guide.encoder.bias.data = torch.tensor(
        [0.0, 0.0, math.log(math.e - 1), math.log(math.e - 1)]
    )
    found = measure(barber_agakov, linear.model, linear.guide, linear.x)["barber_agakov"]
    assert abs(found.value) < 1e-5


def test_what_the_model_is_given_stays() -> None:
    r"""p(z) = N(y, 1), and a guide that knows only y: no information in x."""

    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(y, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(y, 1.0))

    found = measure(barber_agakov, model, guide, torch.randn(N), 10 * torch.arange(N).double())
    assert abs(found["barber_agakov"].value) < 1e-12


def test_a_site_may_have_dimensions_that_data_lack() -> None:
    def bound(*leading: None) -> float:
        def model(x: Tensor) -> None:
            with pyro.plate("data", x.shape[0], dim=-1):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                pyro.sample("x", dist.Normal(z[leading], 1.0), obs=x)

        def guide(x: Tensor) -> None:
            assert x.dim() == 1
            with pyro.plate("data", x.shape[0], dim=-1):
                pyro.sample("z", dist.Normal(x / 2, 0.7))

        return measure(barber_agakov, model, guide, torch.randn(N))["barber_agakov"].value

    assert bound(None, ...) == bound(...)


def test_what_is_observed_must_be_an_argument() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x + 1)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x, 1.0))

    with pytest.raises(ValueError, match="got another tensor at 'x'"):
        measure(barber_agakov, model, guide, torch.randn(N))


# Rate and distortion


def test_rate_and_distortion_are_the_parts_of_the_bound(linear: Linear) -> None:
    found = measure(rate_distortion, linear.model, linear.guide, linear.x, seed=3)
    parts = evaluate(linear.model, linear.guide, linear.x, ("elbo",), particles=10, seed=3)
    torch.testing.assert_close(found["rate"].per_datum, parts["kl"].per_datum)
    torch.testing.assert_close(found["distortion"].per_datum, -parts["log_likelihood"].per_datum)


def test_curve_is_ordered_by_rate(linear: Linear) -> None:
    sharp = Linear()
    sharp.guide.encoder.bias.data[D:] -= 3.0
    pairs = ((b, p.model, p.guide) for b, p in ((0.1, sharp), (1.0, linear)))
    points = rate_distortion_curve(pairs, linear.x, particles=5, seed=3)
    assert [point.beta for point in points] == [1.0, 0.1]
    parts = evaluate(linear.model, linear.guide, linear.x, ("elbo",), particles=5, seed=3)
    assert points[0].rate.value == parts["kl"].value
    assert points[0].distortion.value == -parts["log_likelihood"].value


# Errors


def scaled_prior() -> Any:
    def model(x: Tensor) -> None:
        with poutine.scale(scale=0.5):
            chain_model(x)

    return model, chain, (torch.randn(N),)


Case = tuple[Metric, Callable[[], tuple[Any, Any, tuple[Tensor, ...]]], str]
ERRORS: list[Case] = [
    (active_units, ZOO["no_plate"], "expected a data plate.*for active units"),
    (active_units, ZOO["global_latent"], r"got \['mu'\] outside the data plate 'data'"),
    (kl_per_dimension, ZOO["no_plate"], "expected a data plate.*divergence of each feature"),
    (kl_per_dimension, ZOO["full_covariance"], "got MultivariateNormal at 'z' in the guide"),
    (kl_per_dimension, ZOO["mixture"], "at 'z' in the guide, summed out with others"),
    (kl_per_dimension, ZOO["auxiliary"], "got Delta at 'z' in the guide"),
    (mutual_information, ZOO["auto_normal"], r"'mu'.* outside the data plate"),
    (mutual_information, ZOO["auxiliary"], r"got the sites \['u'\] that the model does not have"),
    (mutual_information, ZOO["masked_and_scaled"], r"got the sites \['z'\] under poutine.scale"),
    (mutual_information, scaled_prior, r"got the sites \['a', 'b'\] under poutine.scale"),
    (barber_agakov, ZOO["masked_and_scaled"], "for the Barber-Agakov bound.*poutine.scale"),
    (barber_agakov, ZOO["no_plate"], "expected a data plate.*for the Barber-Agakov bound"),
]


@pytest.mark.parametrize("metric, make, match", ERRORS)
def test_what_has_no_answer_is_refused(metric: Metric, make: Callable, match: str) -> None:
    model, guide, batch = make()
    with pytest.raises(ValueError, match=match):
        measure(metric, model, guide, *batch)


@pytest.mark.parametrize("metric", [active_units, mutual_information])
def test_a_single_datum_tells_nothing(linear: Linear, metric: Metric) -> None:
    with pytest.raises(ValueError, match=r"expected at least two data.*got 1"):
        measure(metric, linear.model, linear.guide, linear.x[:1])


def test_points_have_no_densities() -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("a", dist.Normal(x, 1.0))
            pyro.sample("b", dist.Delta(x))

    with pytest.raises(ValueError, match=r"got the sites \['b'\] that have no density"):
        measure(mutual_information, chain_model, guide, torch.randn(N))
