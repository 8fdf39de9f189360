r"""What Pyro expects of our programs, and what they promise: every guide with every model."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import Adam
from scipy import stats
from torch import Size, Tensor, nn

from pyro_vae.guides import AmortizedMultivariateNormal, AmortizedNormal
from pyro_vae.likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    Likelihood,
    Normal,
    NormalLearnedScale,
    NormalPredictedScale,
    Poisson,
)
from pyro_vae.models import VAE
from pyro_vae.nn import conv_decoder, conv_encoder, mlp

Guide = AmortizedNormal | AmortizedMultivariateNormal

N, K, D, EVENT = 6, 3, 2, (1, 8, 8)
GUIDES = {"diagonal": (AmortizedNormal, 2 * D), "full": (AmortizedMultivariateNormal, 5)}
LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "bernoulli": Bernoulli,
    "binomial": lambda: Binomial(16),
    "categorical": lambda: Categorical(4),
    "continuous bernoulli": ContinuousBernoulli,
    "normal": lambda: Normal(0.5),
    "learned": NormalLearnedScale,
    "poisson": Poisson,
    "predicted": NormalPredictedScale,
}


@pytest.fixture(params=GUIDES)
def guide(request: pytest.FixtureRequest) -> Guide:
    return GUIDES[request.param][0](EVENT, {"z": D}, mlp(64, GUIDES[request.param][1], (16,)))


@pytest.fixture(params=LIKELIHOODS)
def model(request: pytest.FixtureRequest) -> VAE:
    likelihood = LIKELIHOODS[request.param]()
    return VAE(EVENT, D, likelihood, mlp(D, likelihood.parameters_per_feature * 64, (16,)))


@pytest.fixture
def x(model: VAE) -> Tensor:
    return model(n=N).detach()


def trace(program: Callable, *args: object, **kwargs: object) -> poutine.Trace:
    traced = poutine.trace(program).get_trace(*args, **kwargs)
    traced.compute_log_prob()
    return traced


def constant(*outputs: float) -> nn.Linear:
    r"""An encoder that returns the same whatever the data."""
    network = nn.Linear(64, len(outputs))
    network.load_state_dict(
        {"weight": torch.zeros(len(outputs), 64), "bias": torch.tensor(outputs)}
    )
    return network


def test_svi_trains_every_parameter(model: VAE, guide: Guide, x: Tensor) -> None:
    parameters = [*model.parameters(), *guide.parameters()]
    before = [p.detach().clone() for p in parameters]
    elbo = Trace_ELBO(num_particles=50, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, Adam({"lr": 1e-2}), elbo)

    def loss() -> float:
        pyro.set_rng_seed(1)  # the same noise before and after
        return svi.evaluate_loss(x)

    start = loss()
    for _ in range(20):
        svi.step(x)

    assert loss() < start
    assert all((p != q).any() for p, q in zip(parameters, before, strict=True))


def test_density_is_its_equation(model: VAE, x: Tensor) -> None:
    z = torch.randn(N, D)
    sites = trace(poutine.condition(model, {"z": z}), x).nodes

    prior = stats.norm.logpdf(z.numpy()).sum(-1)
    likelihood = model.likelihood(model.decoder(z), Size(EVENT)).log_prob(x)

    torch.testing.assert_close(sites["z"]["log_prob"], torch.tensor(prior))
    torch.testing.assert_close(sites["x"]["log_prob"], likelihood)
    assert [f.name for f in sites["z"]["cond_indep_stack"]] == ["data"]
    assert [(f.name, f.dim, f.size) for f in sites["x"]["cond_indep_stack"]] == [("data", -1, N)]


def test_conditioned_data_are_observed_data(model: VAE, x: Tensor) -> None:
    conditioned = poutine.condition(model, {"x": x, "z": torch.zeros(N, D)})
    observed = poutine.condition(model, {"z": torch.zeros(N, D)})

    torch.testing.assert_close(
        trace(conditioned, n=N).log_prob_sum(), trace(observed, x).log_prob_sum()
    )


def test_generates(model: VAE) -> None:
    sites = trace(model, n=3).nodes

    assert model(n=3).shape == (3, *EVENT)
    assert model(n=3).dtype == torch.float64
    assert model().shape == (1, *EVENT)
    assert not sites["x"]["is_observed"]
    assert sites["z"]["value"].shape == (3, D)


def test_generates_from_the_prior(model: VAE) -> None:
    z = trace(model, n=5_000).nodes["z"]["value"]
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-4  # the share of seeds that fail


def test_predictive(model: VAE, guide: Guide, x: Tensor) -> None:
    draws = Predictive(model, guide=guide, num_samples=400)(x)
    loc = guide.encoder(x.flatten(1))[:, :D]
    stderr = draws["z"].std(0) / math.sqrt(400)

    assert draws["z"].shape == (400, N, D)
    assert ((draws["z"].mean(0) - loc).abs() < 4.5 * stderr).all()  # fails for 8e-5 of the seeds
    assert (draws["x"] == x).all()
    assert Predictive(model, num_samples=4)(n=3)["x"].shape == (4, 3, *EVENT)
    assert Predictive(model, num_samples=4, parallel=True)(n=3)["x"].shape == (4, 3, *EVENT)


def test_renders(model: VAE, guide: Guide, x: Tensor) -> None:
    source = pyro.render_model(model, model_args=(x,)).source
    assert "z -> x" in source
    assert "label=data" in source
    assert "label=data" in pyro.render_model(guide, model_args=(x,)).source


def test_particles_are_a_loop(model: VAE, guide: Guide, x: Tensor) -> None:
    with pyro.plate("particles", K, dim=-2):
        q = trace(guide, x)
        p = trace(poutine.replay(model, q), x)
    z = q.nodes["z"]["value"]

    assert z.shape == (K, N, D)
    for k in range(K):
        q_k = trace(poutine.condition(guide, {"z": z[k]}), x)
        p_k = trace(poutine.condition(model, {"z": z[k]}), x)
        for whole, one, name in ((q, q_k, "z"), (p, p_k, "z"), (p, p_k, "x")):
            torch.testing.assert_close(
                whole.nodes[name]["log_prob"][k], one.nodes[name]["log_prob"]
            )


def test_vectorized_elbo_of_pyro(guide: Guide) -> None:
    model = VAE(EVENT, D)
    x = model(n=N).detach()
    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    draws = torch.tensor([elbo.loss(model, guide, x) for _ in range(100)])
    loop = torch.tensor([Trace_ELBO().loss(model, guide, x) for _ in range(400)])

    stderr = math.sqrt(draws.var() / 100 + loop.var() / 400)
    assert abs(draws.mean() - loop.mean()) < 4.5 * stderr  # fails for 7e-6 of the seeds
    # The mean of four particles has a quarter of the variance: they are not one repeated.
    assert draws.var() < 0.6 * loop.var()


def test_guides_take_data_with_particles(guide: Guide) -> None:
    x = torch.randn(K, N, *EVENT)
    z = guide(x)["z"]

    assert z.shape == (K, N, D)
    sites = trace(poutine.condition(guide, {"z": z}), x).nodes
    one = trace(poutine.condition(guide, {"z": z[1]}), x[1]).nodes
    torch.testing.assert_close(sites["z"]["log_prob"][1], one["z"]["log_prob"])


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("family", GUIDES)
def test_convolutional_pair(name: str, family: str) -> None:
    likelihood = LIKELIHOODS[name]()
    P = likelihood.parameters_per_feature
    model = VAE((2, 9, 8), D, likelihood, conv_decoder(D, (2, 9, 8), P, (6, 4), 16))
    encoder = conv_encoder((2, 9, 8), GUIDES[family][1], (4, 6), 16)
    guide = GUIDES[family][0]((2, 9, 8), {"z": D}, encoder)
    x = model(n=N).detach()

    elbo = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    SVI(model, guide, Adam({"lr": 1e-2}), elbo).step(x)
    gradients = [p.grad for p in (*model.parameters(), *guide.parameters())]
    assert model(n=3).shape == (3, 2, 9, 8)
    assert all(g is not None for g in gradients)


def test_two_sites_share_the_encoder() -> None:
    x, widths = torch.randn(N, *EVENT), {"a": 2, "b": 3}
    guide = AmortizedNormal(EVENT, widths)
    sites = trace(guide, x).nodes
    loc, raw = guide.encoder(x.flatten(1)).chunk(2, -1)
    scale = raw.exp().log1p() + 1e-6

    for name, part in (("a", slice(0, 2)), ("b", slice(2, 5))):
        expected = dist.Normal(loc[:, part], scale[:, part]).log_prob(sites[name]["value"])
        torch.testing.assert_close(sites[name]["log_prob"], expected.sum(-1))


def test_full_covariance_is_that_of_its_factor() -> None:
    x, widths = torch.randn(N, *EVENT), {"a": 2, "b": 3}
    guide = AmortizedMultivariateNormal(EVENT, widths)
    sites = trace(guide, x).nodes
    outputs = guide.encoder(x.flatten(1)).detach()
    assert outputs.shape == (N, 2 + 3 + 3 + 6)

    for name, size, start, raw in (("a", 2, 0, 5), ("b", 3, 2, 8)):
        below = raw + size  # the diagonal stands first, then rows below it
        for n in range(N):
            factor = torch.zeros(size, size)
            for i in range(size):
                factor[i, i] = math.log1p(math.exp(outputs[n, raw + i])) + 1e-6
                for j in range(i):
                    factor[i, j] = outputs[n, below + i * (i - 1) // 2 + j]
            expected = stats.multivariate_normal(
                outputs[n, start : start + size].numpy(), (factor @ factor.T).numpy()
            ).logpdf(sites[name]["value"][n].detach().numpy())
            assert sites[name]["log_prob"][n].item() == pytest.approx(expected, rel=1e-9)


def test_full_covariance_without_correlations_is_diagonal() -> None:
    x, z = torch.randn(N, *EVENT), torch.randn(N, D)
    diagonal = AmortizedNormal(EVENT, {"z": D}, constant(0.1, 0.2, -1.0, 3.0))
    full = AmortizedMultivariateNormal(EVENT, {"z": D}, constant(0.1, 0.2, -1.0, 3.0, 0.0))

    torch.testing.assert_close(*(
        trace(poutine.condition(guide, {"z": z}), x).log_prob_sum() for guide in (diagonal, full)
    ))  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("raw", [(-1e4, -1e4), (1e4, 1e4), (-1e4, 1e4), (-80.0, 0.0)])
@pytest.mark.parametrize("family", GUIDES)
def test_scales_are_safe(family: str, raw: tuple[float, float], dtype: torch.dtype) -> None:
    outputs = (0.5, -0.5, *raw) if family == "diagonal" else (0.5, -0.5, *raw, 0.3)
    guide = GUIDES[family][0](EVENT, {"z": D}, constant(*outputs)).to(dtype)
    model = VAE(EVENT, D).to(dtype)
    x = torch.ones(N, *EVENT, dtype=dtype)

    sites = trace(guide, x).nodes
    Trace_ELBO().differentiable_loss(model, guide, x).backward()

    assert (sites["z"]["fn"].variance > 0).all()
    assert sites["z"]["log_prob"].isfinite().all()
    assert all(p.grad.isfinite().all() for p in guide.parameters())


def test_float32_programs_stay_float32(model: VAE, guide: Guide, x: Tensor) -> None:
    model, guide, x = model.float(), guide.float(), x.float()
    q = trace(guide, x)
    p = trace(poutine.replay(model, q), x)

    tensors = [q.nodes["z"]["value"], model(n=2), q.nodes["z"]["log_prob"]]
    tensors += [p.nodes["z"]["log_prob"], p.nodes["x"]["log_prob"]]
    assert {t.dtype for t in tensors} == {torch.float32}


def test_another_device(model: VAE, guide: Guide, x: Tensor) -> None:
    model, guide, x = model.to("meta"), guide.to("meta"), x.to("meta")
    with pyro.validation_enabled(False):  # which reads values
        q = trace(guide, x)
        p = trace(poutine.replay(model, q), x)

    tensors = [q.nodes["z"]["value"], q.nodes["z"]["log_prob"]]
    tensors += [p.nodes["z"]["log_prob"], p.nodes["x"]["log_prob"]]
    assert {t.device.type for t in tensors} == {"meta"}


def test_constants_are_buffers() -> None:
    assert [name for name, _ in VAE((64,), D).named_buffers()] == ["zeros", "ones"]


def test_nothing_inside_fixes_the_seed(model: VAE) -> None:
    assert (model(n=50) != model(n=50)).any()


SHAPE = r"expected x with shape \(N, 1, 8, 8\), .* got shape "


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: VAE(EVENT)(torch.zeros(3, 64)), ValueError, SHAPE + r"\(3, 64\)"),
        (lambda: VAE(EVENT)(torch.zeros(EVENT)), ValueError, SHAPE + r"\(1, 8, 8\)"),
        (lambda: AmortizedNormal(EVENT)(torch.zeros(3, 8, 8)), ValueError, SHAPE + r"\(3, 8, 8\)"),
        (
            lambda: AmortizedMultivariateNormal(EVENT)(torch.zeros(EVENT)),
            ValueError,
            SHAPE + r"\(1, 8, 8\)",
        ),
        (
            lambda: VAE(EVENT, D, NormalPredictedScale(), mlp(D, 64))(n=2),
            ValueError,
            r"decoder to return 2 x 64 outputs .* shape \(\*, 128\), got shape \(2, 64\)",
        ),
        (
            lambda: AmortizedNormal(EVENT, {"z": 2}, mlp(64, 5))(torch.zeros(3, *EVENT)),
            ValueError,
            r"encoder to return .* sites {'z': 2}: shape \(\*, 4\), got shape \(3, 5\)",
        ),
        (
            lambda: AmortizedMultivariateNormal(EVENT, {"z": 2}, mlp(64, 4))(
                torch.zeros(3, *EVENT)
            ),
            ValueError,
            r"shape \(\*, 5\), got shape \(3, 4\)",
        ),
        (lambda: VAE(EVENT, latents=0), ValueError, "site 'z', got 0"),
        (lambda: VAE(64), TypeError, r"such as \(64,\), got 64"),
        (lambda: AmortizedNormal((8, 0)), ValueError, r"positive sizes .* got \(8, 0\)"),
        (lambda: AmortizedNormal(EVENT, {"z": -1}), ValueError, "site 'z', got -1"),
        (lambda: AmortizedMultivariateNormal(EVENT, {}), ValueError, "at least one site"),
        (lambda: AmortizedMultivariateNormal(EVENT, 16), TypeError, "as a mapping"),
    ],
)
def test_errors(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("package", ["models", "guides"])
def test_packages_have_one_name(package: str) -> None:
    with pytest.raises(ImportError, match=f"import 'pyro_vae.{package}', not '{package}'"):
        __import__(package)
