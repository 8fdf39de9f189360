r"""Missing features: densities, evidence and imputation of linear models, where all is known."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import check_moments
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from test_ppca import VAR, affine
from torch import Size, Tensor, nn

from pyro_vae import check, evaluate, fit, impute
from pyro_vae.capturable import examine
from pyro_vae.data import Data
from pyro_vae.distributions import PartlyObserved, missing_values
from pyro_vae.draws import Draw
from pyro_vae.evaluation import imputation
from pyro_vae.guides import AmortizedNormal
from pyro_vae.likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    Likelihood,
    Masked,
    Normal,
    NormalLearnedScale,
    NormalPredictedScale,
    Poisson,
    check_support,
)
from pyro_vae.models import VAE
from pyro_vae.nn import Filled, masked_mlp
from pyro_vae.objectives import ELBO
from pyro_vae.pair import Pair

N, F, D = 7, 5, 2
NAN = math.nan

LIKELIHOODS: dict[str, tuple[Likelihood, float]] = {  # and a value without density
    "bernoulli": (Bernoulli(), 2.0),
    "binomial": (Binomial(3), 4.0),
    "categorical": (Categorical(3), 3.0),
    "poisson": (Poisson(), -1.0),
    "continuous bernoulli": (ContinuousBernoulli(), 1.5),
    "normal": (Normal(0.3), math.inf),
    "learned scale": (NormalLearnedScale(), -math.inf),
    "predicted scale": (NormalPredictedScale(), math.inf),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("event_shape", [(), (6,), (2, 3)])
def test_density_is_that_of_the_observed_features(name: str, event_shape: tuple) -> None:
    likelihood, _ = LIKELIHOODS[name]
    outputs = torch.randn(4, likelihood.parameters_per_feature * math.prod(event_shape))
    x = likelihood(outputs, Size(event_shape)).sample()
    hidden = torch.rand(x.shape) < 0.4
    assert 0 < hidden.sum() < hidden.numel()

    def densities(x: Tensor, fn: Any) -> tuple[Tensor, ...]:
        free = outputs.clone().requires_grad_()
        found = fn(free).log_prob(x)
        return found.detach(), *torch.autograd.grad(found.sum(), free)

    whole = Size(event_shape)
    found = densities(x.where(~hidden, NAN), lambda o: Masked(likelihood)(o, whole))

    def unmasked(o: Tensor) -> Any:
        fn = likelihood(o, whole)
        fn = fn.base_dist if event_shape else fn
        return fn.mask(~hidden).to_event(len(event_shape))

    for one, other in zip(found, densities(x, unmasked), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    fn = Masked(likelihood)(outputs, whole)
    assert (fn.batch_shape, fn.event_shape) == ((4,), event_shape)
    assert fn.sample().isfinite().all()
    torch.testing.assert_close(fn.mean, likelihood(outputs, whole).mean)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_support_is_the_likelihoods_and_nan(name: str) -> None:
    likelihood, outside = LIKELIHOODS[name]
    fn = Masked(likelihood)(torch.zeros(2 * likelihood.parameters_per_feature), Size([2]))

    for what in (Masked(likelihood), fn):
        check_support(what, torch.tensor([0.0, NAN]))
        with pytest.raises(ValueError, match=r"expected .*, or NaN where they are missing \("):
            check_support(what, torch.tensor([NAN, outside]))
    if math.isfinite(outside):  # to Pyro infinities are real numbers
        with pytest.raises(ValueError, match="within the support"):
            fn.log_prob(torch.tensor([NAN, outside]))


def test_a_density_on_positive_numbers() -> None:
    fn = PartlyObserved(dist.Gamma(torch.ones(3), torch.ones(3)))
    x = torch.tensor([1.0, NAN, 2.0])

    torch.testing.assert_close(fn.log_prob(x), torch.tensor([-1.0, 0.0, -2.0]))
    expanded = fn.expand(Size([2, 3]))
    assert expanded.batch_shape == (2, 3)
    assert expanded.rsample(Size([4])).shape == (4, 2, 3)
    assert missing_values(fn.to_event(1).expand(Size([2])), x).tolist() == [False, True, False]
    torch.testing.assert_close(fn.variance, torch.ones(3))

    loc = torch.zeros(3, requires_grad=True)
    log_prob = PartlyObserved(dist.LogNormal(loc, 1.0)).log_prob(x)  # 0 has no density
    log_prob.sum().backward()
    assert log_prob[1] == 0
    torch.testing.assert_close(loc.grad, torch.tensor([0.0, 0.0, math.log(2)]))


def test_features_of_a_vector_are_not_missing_alone() -> None:
    fn = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError, match="single numbers, got MultivariateNormal with event shape"):
        PartlyObserved(fn)


def test_a_learned_scale_is_a_parameter_of_the_model() -> None:
    model = VAE((F,), D, Masked(NormalLearnedScale()))

    assert "likelihood.likelihood.log_scale" in dict(model.named_parameters())
    assert repr(Masked(Normal(0.5))) == "Masked(Normal(scale=0.5))"


def test_networks_see_zeros_and_where_they_are() -> None:
    x = torch.tensor([[1.0, NAN, 0.0]])

    torch.testing.assert_close(Filled(nn.Identity())(x), torch.tensor([[1.0, 0.0, 0.0]]))
    assert Filled(nn.Identity())(torch.tensor([math.inf])).isinf()
    network = masked_mlp(3, 1, hidden=())
    weight = torch.tensor([[1.0, 10.0, 100.0, 0.1, 0.01, 0.001]])
    network[1].load_state_dict({"weight": weight, "bias": torch.zeros(1)})
    torch.testing.assert_close(network(x), torch.tensor([[1.101]]))


class Case:
    r"""Probabilistic PCA with holes, and the posterior of what is observed, or one beside it."""

    def __init__(self) -> None:
        self.W, self.b = torch.randn(F, D), torch.randn(F)
        self.model = VAE((F,), D, Masked(Normal(math.sqrt(VAR))), decoder=affine(self.W, self.b))
        self.x = self.model(n=N).detach()
        self.hidden = torch.rand(N, F) < 0.4
        self.hidden[0], self.hidden[1] = False, True
        self.x[self.hidden] = NAN
        self.covariance = self.W @ self.W.T + VAR * torch.eye(F)

    def guide(self, x: Tensor, shift: float = 0.0, width: float = 1.0) -> None:
        observed = (~x.isnan()).to(x)
        precision = (observed[:, None] * self.W.T) @ self.W / VAR + torch.eye(D)
        rest = torch.where(x.isnan(), 0.0, x - self.b)
        loc = torch.linalg.solve(precision, rest @ self.W / VAR)
        fn = dist.MultivariateNormal(loc + shift, precision_matrix=precision / width**2)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", fn)

    def beside(self, x: Tensor) -> None:
        self.guide(x, shift=0.2, width=1.5)

    @property
    def evidence(self) -> Tensor:
        found = []
        for x, hidden in zip(self.x, self.hidden, strict=True):
            o = ~hidden
            fn = dist.MultivariateNormal(self.b[o], self.covariance[o][:, o]) if o.any() else None
            found.append(fn.log_prob(x[o]) if fn else torch.zeros(()))
        return torch.stack(found)

    def conditional(self, n: int) -> tuple[Tensor, Tensor]:
        r"""The mean and the covariance of what is missing in a datum."""
        h, o, C = self.hidden[n], ~self.hidden[n], self.covariance
        slope = torch.linalg.solve(C[o][:, o], C[o][:, h]).T
        return self.b[h] + slope @ (self.x[n, o] - self.b[o]), C[h][:, h] - slope @ C[o][:, h]


def test_bounds_and_evidence_are_those_of_what_is_observed() -> None:
    case = Case()
    estimates = evaluate(case.model, case.guide, case.x, particles=3)

    for name, sign in (("elbo", 1), ("nll", -1)):  # at the posterior no draw is off
        torch.testing.assert_close(sign * estimates[name].per_datum, case.evidence)
    assert "bpd" not in estimates
    total = case.evidence.sum().item()
    assert -Trace_ELBO().loss(case.model, case.guide, case.x) == pytest.approx(total)
    draw = Pair(case.model, case.guide).draw((case.x,), {}, 3)
    torch.testing.assert_close(ELBO("sampled", 3)(draw).value, case.evidence)


def test_mass_functions_have_no_bits_per_dimension() -> None:
    x = (torch.rand(N, F) < 0.5).double()
    setting = {"metrics": ["nll"], "particles": 2}
    pairs = {
        "bpd": (VAE((F,), D), AmortizedNormal((F,), {"z": D})),
        "none": (VAE((F,), D, Masked(Bernoulli())), AmortizedNormal((F,), {"z": D}, masked_mlp)),
    }
    found = {name: "bpd" in evaluate(*pair, x, **setting) for name, pair in pairs.items()}
    assert found == {"bpd": True, "none": False}


def test_evidence_beside_the_posterior() -> None:
    r"""Within 4 standard errors: 1 in 16,000 seeds fails."""
    case = Case()
    found = evaluate(case.model, case.beside, case.x, particles=20_000)

    assert abs(float(found["nll"]) + case.evidence.mean()) < 4 * found["nll"].stderr
    assert found["elbo"] < case.evidence.mean() - 10 * found["elbo"].stderr


def means(case: Case, guide: Any, seeds: int = 40, **setting: Any) -> tuple[Tensor, Tensor]:
    found = [impute(case.model, guide, case.x, seed=seed, **setting) for seed in range(seeds)]
    rows = torch.stack(found)
    return rows.mean(0), rows.std(0) / math.sqrt(seeds)


@pytest.mark.parametrize("guide", ["guide", "beside"])
@pytest.mark.parametrize("chunk", [None, 300])
def test_imputed_means(guide: str, chunk: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    r"""Each of 15 holes is within 5 errors, from 40 seeds: 1 in 6,000 tests fails."""
    case = Case()
    if chunk:
        monkeypatch.setattr(imputation, "chunk_sizes", lambda *_: (N, chunk))
    mean, stderr = means(case, getattr(case, guide), particles=1000)

    torch.testing.assert_close(mean[~case.hidden], case.x[~case.hidden], rtol=0, atol=1e-12)
    for n in range(1, N):
        h = case.hidden[n]
        assert ((mean[n, h] - case.conditional(n)[0]).abs() <= 5 * stderr[n, h]).all()
    assert stderr[case.hidden].max() < 0.02


@pytest.mark.parametrize("guide", ["guide", "beside"])
@pytest.mark.parametrize("chunk", [None, 20_000])
def test_imputed_draws(guide: str, chunk: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    r"""Moments of 400 draws (:func:`check_moments`); particles add a hundredth to the variance."""
    case = Case()
    if chunk:
        monkeypatch.setattr(imputation, "chunk_sizes", lambda *_: (N, chunk))
    program = getattr(case, guide)
    found = impute(case.model, program, case.x, draws=400, particles=50_000)

    assert found.shape == (400, N, F)
    torch.testing.assert_close(found[:, ~case.hidden], case.x[~case.hidden].expand(400, -1))
    for n in range(1, N):
        check_moments(found[:, n, case.hidden[n]], *case.conditional(n))


def test_chunks_count_by_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    r"""The last chunk alone, of one particle, would have about nine times the variance."""
    case = Case()
    monkeypatch.setattr(imputation, "chunk_sizes", lambda *_: (N, 1))
    found = impute(case.model, lambda x: case.guide(x, 0.0, 3.0), case.x, draws=300, particles=600)
    mean, covariance = case.conditional(1)

    spread = (found[:, 1] - mean).square().mean(0).sum() / covariance.trace()
    assert 0.6 < spread < 1.6


def test_one_particle_follows_the_guide() -> None:
    case = Case()
    z = poutine.trace(case.guide).get_trace(case.x).nodes["z"]["fn"]
    far = impute(case.model, lambda x: case.guide(x, 100.0, 1e-9), case.x, particles=1)
    expected = (z.mean + 100) @ case.W.T + case.b

    torch.testing.assert_close(far[case.hidden], expected[case.hidden], rtol=1e-6, atol=1e-5)
    parts = [impute(case.model, case.guide, case.x, batch_size=b, particles=4000) for b in (2, N)]
    torch.testing.assert_close(*parts, rtol=0, atol=0.15)  # the order of the data is kept


class Labelled:
    r"""z -> x, z -> y -> w, where some y are hidden; the posterior is z ~ N(x / 2, 1 / 2)."""

    def __init__(self, passed_on: bool) -> None:
        self.passed_on = passed_on

    def model(self, x: Tensor, w: Tensor, y: Tensor, known: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            y = pyro.sample("y", dist.Normal(z, 1.0), obs=y, obs_mask=known)
            if self.passed_on:
                pyro.sample("w", dist.Normal(y, 1.0), obs=w)

    def guide(self, x: Tensor, w: Tensor, y: Tensor, known: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    def posterior(self, x: Tensor, w: Tensor) -> tuple[Tensor, float]:
        if not self.passed_on:
            return x / 2, 1.5
        return (x / 2 / 1.5 + w) / (1 / 1.5 + 1), 1 / (1 / 1.5 + 1)


@pytest.mark.parametrize("passed_on", [False, True])
def test_whole_data_that_an_obs_mask_hides(passed_on: bool) -> None:
    r"""Within 4.5 errors, of effective samples no fewer than a tenth: 1 in 40,000 tests fails."""
    case, known = Labelled(passed_on), torch.tensor([True, False, False])
    x, w, y = torch.tensor([[1.0, -1.0, 2.0], [0.5, 1.0, 0.0], [9.0, NAN, 7.0]])
    y = torch.where(known, y, 0.0)
    mean, variance = case.posterior(x, w)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imputation, "chunk_sizes", lambda *_: (3, 30_000))
        found = impute(case.model, case.guide, x, w, y, known, particles=50_000)
        draws = impute(case.model, case.guide, x, w, y, known, particles=50_000, draws=500)
    assert found["y"][0] == 9
    assert (draws["y"][:, 0] == 9).all()
    torch.testing.assert_close(found["x"], x)
    error = 4.5 * math.sqrt(variance)
    assert ((found["y"] - mean)[1:].abs() <= error / math.sqrt(5_000)).all()
    assert ((draws["y"].mean(0) - mean)[1:].abs() <= error / math.sqrt(450)).all()
    spread = draws["y"][:, 1:].var(0) / variance - 1
    assert (spread.abs() <= 4.5 * math.sqrt(2 / 450)).all()


class Clusters(PyroModule):
    r"""c -> z -> x, with c summed out."""

    def forward(self, x: Tensor) -> None:
        locs = x.new_tensor([[-0.5, -1.0], [0.5, 3.0]])  # near enough that c is not certain
        with pyro.plate("data", x.shape[0], dim=-1):
            fn = dist.Categorical(x.new_tensor([0.3, 0.7]))
            c = pyro.sample("c", fn, infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            normal = dist.Normal(locs[c] + z[..., None], 1.0)
            pyro.sample("x", PartlyObserved(normal).to_event(1), obs=x)


def test_draws_where_the_model_sums_out() -> None:
    r"""Within 4.5 standard errors: 1 in 100,000 tests fails."""

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))

    x = torch.tensor([[0.3, NAN]])
    log_joint = torch.tensor([0.3, 0.7]).log() + dist.Normal(
        torch.tensor([-0.5, 0.5]), math.sqrt(2)
    ).log_prob(x[0, 0])
    weights = log_joint.softmax(0)
    each = torch.tensor([-1.0, 3.0]) + (x[0, 0] - torch.tensor([-0.5, 0.5])) / 2
    mean = (weights * each).sum()
    variance = 1.5 + (weights * (each - mean).square()).sum()

    draws = impute(Clusters(), guide, x, draws=500, particles=20_000)[:, 0, 1]
    assert abs(draws.mean() - mean) < 4.5 * (variance / 490).sqrt()
    with pytest.raises(ValueError, match=r"sums nothing out, .* \['c'\]: ask for draws="):
        impute(Clusters(), guide, x)


def test_without_a_data_plate() -> None:
    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
        fn = dist.Normal(mu[..., None].expand(*mu.shape, 3), 1.0)
        pyro.sample("x", PartlyObserved(fn).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("mu", dist.Normal(x.new_tensor(2.0), math.sqrt(1 / 3)))

    x = torch.tensor([2.0, NAN, 4.0])  # the guide is the posterior
    mean = impute(model, guide, x, particles=10_000)
    assert abs(mean[1] - 2) < 4.5 * math.sqrt(1 / 3 / 10_000)
    draws = impute(model, guide, x, particles=10_000, draws=400)
    assert draws.shape == (400, 3)
    assert abs(draws[:, 1].mean() - 2) < 4.5 * math.sqrt(4 / 3 / 390)


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda c: impute(c.model, c.guide), ValueError, "both programs are called with, got none"),
        (lambda c: impute(c.model, c.guide, "x"), TypeError, "got argument 0 of type str"),
        (lambda c: impute(c.model, c.guide, c.x, draws=0), ValueError, "draws of at least 1"),
        (lambda c: impute(c.model, c.guide, c.x, particles=1.5), TypeError, "an integer, got 1.5"),
        (
            lambda c: impute(c.model, poutine.scale(c.guide, 0.5), c.x),
            ValueError,
            "no poutine.scale",
        ),
        (
            lambda c: impute(c.model, lambda x: c.guide(x, math.inf), c.x),
            ValueError,
            "finite log-densities|constraint",
        ),
    ],
)
def test_errors(call: Callable[[Case], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match), pyro.validation_enabled(False):
        call(Case())


def test_training_and_checks_take_data_with_holes() -> None:
    case = Case()
    guide = AmortizedNormal((F,), {"z": D}, masked_mlp)

    assert check(case.model, guide, case.x) == []
    data = Data("holes", {"x": case.x}, {}, {}, Masked(Normal()), (-9.0, 9.0))
    before = evaluate(case.model, guide, case.x, ["elbo"], particles=200)["elbo"]
    fit(case.model, guide, data, epochs=20, batch_size=4, progress=False)
    assert evaluate(case.model, guide, case.x, ["elbo"], particles=200)["elbo"] > before
    programs = {"model": case.model, "guide": guide}
    layout = Pair(case.model, guide).plan((case.x,), {}).layout
    # raises if no graph could be made of it
    examine(
        lambda _, x: Draw(*programs.values(), (x,), {}, layout).log_weights, programs, (case.x,), {}
    )
