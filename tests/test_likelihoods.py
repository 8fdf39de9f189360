r"""Likelihoods against scipy, sums over their support, quadrature and high-precision arithmetic."""

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, special, stats
from torch import Size, Tensor, nn

from pyro_vae import distributions
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
    check_support,
    fitting,
)

SCALE = 0.3


def truncated_exponential(x: np.ndarray, logits: np.ndarray) -> list[float]:
    r"""The continuous Bernoulli's log-density, in 100 digits."""
    with mpmath.workdps(100):
        pairs = [
            (mpmath.mpf(a), mpmath.mpf(b)) for a, b in zip(x.tolist(), logits.tolist(), strict=True)
        ]
        return [float(a * b - (mpmath.log(mpmath.expm1(b) / b) if b else 0)) for a, b in pairs]


def softplus(raw: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, raw)


# name -> (likelihood, log-density of x given the parameters, each with shape (S), draws of x)
LIKELIHOODS: dict[str, tuple[Callable[[], Likelihood], Callable, Callable[[int], Tensor]]] = {
    "bernoulli": (
        Bernoulli,
        lambda x, o: stats.bernoulli.logpmf(x, special.expit(o)),
        lambda n: torch.randint(2, (n,)).double(),
    ),
    "binomial": (
        lambda: Binomial(16),
        lambda x, o: stats.binom.logpmf(x, 16, special.expit(o)),
        lambda n: torch.randint(17, (n,)).double(),
    ),
    "poisson": (
        Poisson,
        lambda x, o: stats.poisson.logpmf(x, np.exp(o)),
        lambda n: torch.randint(40, (n,)).double(),
    ),
    "categorical": (
        lambda: Categorical(5),
        lambda x, *o: special.log_softmax(np.stack(o), 0)[x.astype(int), np.arange(len(x))],
        lambda n: torch.randint(5, (n,)).double(),
    ),
    "continuous_bernoulli": (ContinuousBernoulli, truncated_exponential, torch.rand),
    "normal": (lambda: Normal(SCALE), lambda x, o: stats.norm.logpdf(x, o, SCALE), torch.randn),
    "normal_learned": (
        lambda: NormalLearnedScale(SCALE),
        lambda x, o: stats.norm.logpdf(x, o, SCALE),
        torch.randn,
    ),
    "normal_predicted": (
        NormalPredictedScale,
        lambda x, m, r: stats.norm.logpdf(x, m, softplus(r) + 1e-3),
        torch.randn,
    ),
}
EXPONENTIAL = {  # the likelihoods whose output is the natural parameter
    "bernoulli": Bernoulli(),
    "binomial": Binomial(16),
    "poisson": Poisson(),
    "continuous_bernoulli": ContinuousBernoulli(),
}
EXTREMES = [-1e4, -100.0, -36.0, -3.0, -0.2500001, -0.24, -1e-3, -1e-9, 0.0, 1e-20, 1e-6]
EXTREMES += [0.01, 0.2499999, 0.25, 0.26, 1.0, 15.0]


@pytest.fixture(params=LIKELIHOODS)
def case(request: pytest.FixtureRequest) -> tuple:
    make, reference, draw = LIKELIHOODS[request.param]
    return make(), reference, draw


@pytest.mark.parametrize("event_shape", [(), (5,), (2, 3, 4)])
@pytest.mark.parametrize("leading", [(), (3,), (4, 3)])
def test_log_density(case: tuple, leading: tuple, event_shape: tuple) -> None:
    likelihood, reference, draw = case
    P, F = likelihood.parameters_per_feature, math.prod(event_shape)

    outputs = 2 * torch.randn(*leading, P * F)
    x = draw(math.prod(leading) * F).reshape(leading + event_shape)
    fn = likelihood(outputs, Size(event_shape))
    # Feature f's p-th parameter is output p F + f.
    parameters = outputs.reshape(-1, P, F).movedim(1, 0).reshape(P, -1)
    expected = torch.as_tensor(reference(x.flatten().numpy(), *parameters.numpy()))

    assert fn.batch_shape == leading
    assert fn.event_shape == event_shape
    torch.testing.assert_close(
        fn.log_prob(x), expected.reshape((*leading, F)).sum(-1), rtol=1e-12, atol=1e-12
    )


def test_float32_is_as_accurate_as_its_rounding(case: tuple) -> None:
    likelihood, _, draw = case
    outputs = 3 * torch.randn(64, likelihood.parameters_per_feature).float()
    x = draw(64).float()

    expected = likelihood(outputs.double(), Size()).log_prob(x.double())
    likelihood = likelihood.float() if isinstance(likelihood, nn.Module) else likelihood
    log_prob = likelihood(outputs, Size()).log_prob(x)

    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob.double(), expected, rtol=1e-6, atol=5e-6)


@pytest.mark.parametrize("name, top", [("bernoulli", 1), ("binomial", 16), ("poisson", 400)])
@pytest.mark.parametrize("output", [-100.0, -1.0, 0.0, 2.0, 4.0])
def test_mass_sums_to_one(name: str, top: int, output: float) -> None:
    x = torch.arange(top + 1.0)
    fn = EXPONENTIAL[name](torch.full((1,), output), Size())

    assert fn.log_prob(x).exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert (x * fn.log_prob(x).exp()).sum().item() == pytest.approx(fn.mean.item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.uint8])
def test_categorical_enumerated(dtype: torch.dtype) -> None:
    fn = Categorical(256)(5 * torch.randn(256), Size())
    x = torch.arange(256).to(dtype)
    probs = fn.log_prob(x).exp()

    assert probs.sum().item() == pytest.approx(1, abs=1e-12)
    assert (x * probs).sum().item() == pytest.approx(fn.mean.item(), rel=1e-12)


@pytest.mark.parametrize("name", ["binomial", "poisson", "categorical"])
def test_integer_tensors_are_data_too(name: str) -> None:
    make, _, draw = LIKELIHOODS[name]
    fn = make()(torch.randn(9, make().parameters_per_feature), Size())
    x = draw(9)

    torch.testing.assert_close(fn.log_prob(x.long()), fn.log_prob(x), rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    "logits", [-40.0, -3.0, -0.2501, -0.2499, -1e-5, 0.0, 1e-8, 0.3, 7.0, 99.0]
)
def test_continuous_bernoulli_by_quadrature(logits: float) -> None:
    fn = ContinuousBernoulli()(torch.tensor([logits]), Size())

    def density(x: float) -> float:
        return fn.log_prob(torch.tensor(x)).exp().item()

    mass = integrate.quad(density, 0, 1, epsabs=1e-12, epsrel=1e-12)[0]
    mean = integrate.quad(lambda x: x * density(x), 0, 1, epsabs=1e-12, epsrel=1e-12)[0]

    assert mass == pytest.approx(1, abs=1e-11)
    assert mean == pytest.approx(fn.mean.item(), abs=1e-11)


def test_continuous_bernoulli_in_a_hundred_digits() -> None:
    logits = torch.tensor([*EXTREMES, *(-o for o in EXTREMES)])
    fn = ContinuousBernoulli()(logits.unsqueeze(-1), Size())
    with mpmath.workdps(100):
        mean = [
            float(1 / (1 - mpmath.exp(-mpmath.mpf(b))) - 1 / mpmath.mpf(b)) if b else 0.5
            for b in logits.tolist()
        ]

    torch.testing.assert_close(fn.mean, torch.tensor(mean), rtol=1e-13, atol=1e-15)
    for x in (torch.zeros(()), torch.tensor(0.3), torch.ones(())):
        expected = truncated_exponential(x.expand_as(logits).numpy(), logits.numpy())
        torch.testing.assert_close(fn.log_prob(x), torch.tensor(expected), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name, x", [(n, x) for n in EXPONENTIAL for x in (0.0, 1.0)])
def test_score_is_the_data_less_its_mean(name: str, x: float, dtype: torch.dtype) -> None:
    outputs = torch.tensor([*EXTREMES, 100.0, 1e4], dtype=dtype)
    if name == "poisson":
        outputs = outputs[outputs <= 20]  # where the output is the natural parameter
    outputs.requires_grad_()
    fn = EXPONENTIAL[name](outputs.unsqueeze(-1), Size())

    log_prob = fn.log_prob(torch.tensor(x, dtype=dtype))
    (score,) = torch.autograd.grad(log_prob.sum(), outputs)

    assert log_prob.isfinite().all()
    rounding = 10 * torch.finfo(dtype).eps
    torch.testing.assert_close(score, x - fn.mean, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_poisson_rate_is_exponential_then_its_tangent(dtype: torch.dtype) -> None:
    outputs = torch.tensor([-1e4, -200, 3, 20, 21, 100, 1e4], dtype=dtype).requires_grad_()
    fn = Poisson()(outputs.unsqueeze(-1), Size())
    log_prob = fn.log_prob(torch.tensor(2, dtype=dtype))
    (score,) = torch.autograd.grad(log_prob.sum(), outputs)

    o = outputs.detach()
    slope = o.clamp(max=20).exp()
    rate = slope * (1 + (o - 20).clamp(min=0))
    expected = torch.where(o <= 20, 2, 2 / (o - 19)) - slope

    rounding = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(fn.mean, rate, rtol=rounding, atol=rounding)
    torch.testing.assert_close(score, expected, rtol=rounding, atol=rounding)
    assert log_prob[0] == -2e4 - math.log(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_predicted_scale_is_safe(dtype: torch.dtype) -> None:
    outputs = torch.tensor([[0.0, -1e4], [0.0, 1e4], [1.0, -100], [1.0, 100]], dtype=dtype)
    outputs.requires_grad_()
    fn = NormalPredictedScale()(outputs, Size())
    log_prob = fn.log_prob(torch.full((4,), 3.0, dtype=dtype))
    (gradient,) = torch.autograd.grad(log_prob.sum(), outputs)

    expected = torch.tensor([1e-3, 1e4 + 1e-3, 1e-3, 100 + 1e-3], dtype=dtype)
    torch.testing.assert_close(fn.stddev.detach(), expected)
    assert log_prob.isfinite().all()
    assert gradient.isfinite().all()


def test_learned_scale_has_its_gradient_and_moves() -> None:
    likelihood = NormalLearnedScale(init=2.0)
    x, loc = torch.randn(11, 3), torch.randn(11, 3)
    likelihood(loc, Size([3])).log_prob(x).sum().backward()

    assert likelihood.scale.item() == pytest.approx(2, rel=1e-15)
    expected = ((x - loc).square() / 4 - 1).sum()  # d log N(x; loc, e^2s) / ds
    torch.testing.assert_close(likelihood.log_scale.grad, expected)
    assert likelihood.float()(loc.float(), Size([3])).log_prob(x.float()).dtype == torch.float32


def test_device_and_dtype_follow_the_outputs_and_no_value_is_read(case: tuple) -> None:
    likelihood, _, _ = case
    P = likelihood.parameters_per_feature
    outputs = torch.zeros(7, 3 * P, device="meta", dtype=torch.float32)
    if isinstance(likelihood, nn.Module):
        likelihood.to("meta", torch.float32)

    with pyro.validation_enabled(False):  # which reads values
        fn = likelihood(outputs, Size([3]))
        x = fn.sample() if not isinstance(likelihood, Binomial) else outputs
        for tensor in (fn.log_prob(x), fn.mean, x):  # reading a value of a meta tensor raises
            assert tensor.device.type == "meta"
            assert tensor.dtype == torch.float32


def test_samples_have_the_mean(case: tuple) -> None:
    likelihood, _, _ = case
    fn = likelihood(torch.randn(likelihood.parameters_per_feature * 6), Size([6]))
    x = fn.sample(Size([20_000]))
    stderr = x.std(0) / math.sqrt(len(x))

    assert x.dtype == torch.float64
    assert ((x.mean(0) - fn.mean).abs() < 4.5 * stderr).all()  # fails for 4e-5 of the seeds
    check_support(fn, x)


@pytest.mark.parametrize("logits", [-100.0, -2.0, -1e-12, 0.0, 0.1, 30.0])
def test_continuous_bernoulli_samples(logits: float) -> None:
    fn = ContinuousBernoulli()(torch.tensor([logits]), Size())
    x = fn.sample(Size([5_000])).numpy()

    def cdf(x: np.ndarray) -> np.ndarray:
        return np.expm1(logits * x) / np.expm1(logits) if logits else x

    assert stats.kstest(x, cdf).pvalue > 1e-4  # the share of seeds that fail


@pytest.mark.parametrize("fn", [
    distributions.ContinuousBernoulli(torch.randn(3, 1)),
    distributions.Poisson(torch.randn(3, 1)),
    distributions.Categorical(logits=torch.randn(3, 1, 4)),
])  # fmt: skip
def test_own_distributions_expand(fn: dist.TorchDistribution) -> None:
    expanded = fn.expand(Size([5, 3, 2]))
    x = expanded.sample(Size([4]))

    assert type(expanded) is type(fn)
    assert expanded.batch_shape == (5, 3, 2)
    assert x.shape == (4, 5, 3, 2)
    torch.testing.assert_close(expanded.log_prob(x), fn.log_prob(x))
    torch.testing.assert_close(expanded.mean, fn.mean.expand(5, 3, 2))
    with pytest.raises(ValueError, match="within the support"):
        fn.log_prob(torch.full((3, 2), -1.0))


def test_poisson_variance_is_its_mean() -> None:
    fn = distributions.Poisson(torch.tensor(1.5))
    assert fn.variance.item() == pytest.approx(math.exp(1.5))


FACTS = {  # likelihood -> (parameters per feature, discrete, repr)
    Bernoulli(): (1, True, "Bernoulli()"),
    Binomial(16): (1, True, "Binomial(total_count=16)"),
    Poisson(): (1, True, "Poisson()"),
    Categorical(): (256, True, "Categorical(levels=256)"),
    ContinuousBernoulli(): (1, False, "ContinuousBernoulli()"),
    Normal(): (1, False, "Normal(scale=1.0)"),
    NormalLearnedScale(): (1, False, "NormalLearnedScale()"),
    NormalPredictedScale(): (2, False, "NormalPredictedScale(floor=0.001)"),
}


@pytest.mark.parametrize("likelihood", FACTS)
def test_facts(likelihood: Likelihood) -> None:
    parameters, discrete, name = FACTS[likelihood]

    assert likelihood.parameters_per_feature == parameters
    assert likelihood.discrete is discrete
    assert repr(likelihood) == name


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: Binomial(0), "total_count to be an integer of at least 1, got 0"),
        (lambda: Binomial(2.5), "total_count to be an integer of at least 1, got 2.5"),
        (lambda: Binomial(True), "total_count to be an integer"),
        (lambda: Categorical(1), "levels to be an integer of at least 2, got 1"),
        (lambda: Normal(0), "scale to be a positive finite number, got 0"),
        (lambda: Normal(-1.0), "scale to be a positive finite number, got -1.0"),
        (lambda: Normal(math.nan), "scale to be a positive finite number, got nan"),
        (lambda: Normal("1"), "scale to be a positive finite number, got '1'"),
        (lambda: NormalLearnedScale(math.inf), "init to be a positive finite number, got inf"),
        (lambda: NormalPredictedScale(0.0), "floor to be a positive finite number, got 0.0"),
        (
            lambda: Bernoulli()(torch.zeros(3, 63), Size([1, 8, 8])),
            r"1 x 64 outputs .* shape \(\*, 64\), got shape \(3, 63\)",
        ),
        (
            lambda: NormalPredictedScale()(torch.zeros(3, 64), Size([64])),
            r"2 x 64 outputs .* shape \(\*, 128\), got shape \(3, 64\)",
        ),
        (lambda: Poisson()(torch.zeros(()), Size()), r"shape \(\*, 1\), got shape \(\)"),
    ],
)
def test_errors(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


COUNTS = ["Poisson()", "Normal()"]


@pytest.mark.parametrize(
    "values, names",
    [
        (
            [0, 1],
            [
                "Bernoulli()",
                "Binomial(total_count=1)",
                "Categorical(levels=2)",
                "Poisson()",
                "ContinuousBernoulli()",
                "Normal()",
            ],
        ),
        ([0, 16], ["Binomial(total_count=16)", "Categorical(levels=17)", *COUNTS]),
        ([3, 255], ["Binomial(total_count=255)", "Categorical(levels=256)", *COUNTS]),
        ([0, 256], ["Binomial(total_count=256)", *COUNTS]),
        ([0, 1e30], COUNTS),
        ([0.0, 0.5, 1.0], ["ContinuousBernoulli()", "Normal()"]),
        ([0.0, 1.5], ["Normal()"]),
        ([-1, 1], ["Normal()"]),
        ([0.0, math.nan], []),
        ([0.0, math.inf], []),
        ([math.nan], []),
    ],
)
def test_fitting(values: list[float], names: list[str]) -> None:
    assert fitting(torch.tensor(values)) == names
    assert fitting(torch.tensor(values).reshape(-1, 1)) == names


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_fitting_of_any_dtype(dtype: torch.dtype) -> None:
    assert fitting(torch.tensor([0, 1], dtype=dtype))[0] == "Bernoulli()"


INSIDE = {
    "bernoulli": (Bernoulli(), [0.0, 1.0]),
    "binomial": (Binomial(4), [0.0, 4.0]),
    "categorical": (Categorical(4), [0.0, 3.0]),
    "poisson": (Poisson(), [0.0, 1e9]),
    "continuous bernoulli": (ContinuousBernoulli(), [0.0, 0.3, 1.0]),
    "normal": (Normal(), [-1e9, 1e9]),
    "learned": (NormalLearnedScale(), [-1.0]),
    "predicted": (NormalPredictedScale(), [-1.0]),
    "site": (dist.Gamma(torch.ones(3), torch.ones(3)).to_event(1), [0.1, 0.2, 0.3]),
    "vectors": (dist.Dirichlet(torch.ones(3)), [0.1, 0.2, 0.7]),
    "unknown": (dist.Delta(torch.zeros(3)).mask(False), [0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("name", INSIDE)
def test_inside_the_support(name: str) -> None:
    fn, values = INSIDE[name]
    check_support(fn, torch.tensor(values))


@pytest.mark.parametrize(
    "fn, values, match",
    [
        (
            Bernoulli(),
            [0.0, 255.0],
            r"^pixels: expected the numbers 0 and 1 \(Bernoulli\(\)\), got integers from 0 to 255; "
            r"likelihoods that fit: Binomial\(total_count=255\), Categorical\(levels=256\), "
            r"Poisson\(\), Normal\(\)$",
        ),
        (Bernoulli(), [0.0, 0.25], r"got real numbers from 0 to 0.25; .*fit: ContinuousBernoulli"),
        (Binomial(16), [0.0, 17.0], r"integers from 0 to 16 \(Binomial\(total_count=16\)\)"),
        (Binomial(16), [0.5], "got real numbers from 0.5 to 0.5"),
        (Categorical(16), [16.0], r"integers from 0 to 15 \(Categorical\(levels=16\)\), got"),
        (
            Poisson(),
            [-1.0, 2.0],
            r"integers of at least 0 \(Poisson\(\)\), got integers from -1 to",
        ),
        (ContinuousBernoulli(), [1.01], "real numbers from 0 to 1 .* got real numbers from 1.01"),
        (
            Normal(),
            [1.0, math.nan, math.inf, -math.inf],
            "from 1 to 1 and 1 NaN and 2 infinite; no",
        ),
        (Normal(), [math.nan], r"finite real numbers \(Normal\(scale=1.0\)\), got 1 NaN; no like"),
        (dist.Bernoulli(torch.ones(2, 2) / 2).to_event(1), [0.0, 2.0], r"0 and 1 \(Bernoulli\)"),
        (Categorical(3)(torch.zeros(6), Size([2])), [0.0, 3.0], r"from 0 to 2 \(Categorical\)"),
        (dist.Gamma(1.0, 1.0).expand([2]), [0.0, -1.0], r"numbers of at least 0 \(Gamma\), got"),
        (dist.Pareto(1.0, 2.0), [0.5], r"real numbers above|of at least 1 \(Pareto\)"),
        (dist.LogNormal(0.0, 1.0).mask(True), [-1.0], r"numbers above 0 \(LogNormal\)"),
        (dist.Uniform(torch.zeros(2), torch.tensor([1.0, 2.0])), [3.0, 1.0], "from 0 to 1…2"),
        (dist.Dirichlet(torch.ones(2)), [0.5, 0.6], r"sum to one \(Dirichlet\)"),
        (dist.OneHotCategorical(torch.ones(2)), [1.0, 1.0], "zeros with a single one"),
    ],
)
def test_outside_the_support(fn: object, values: list[float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        check_support(fn, torch.tensor(values), "pixels")


def test_a_distribution_without_a_support_is_not_judged() -> None:
    class Unknown(dist.TorchDistribution):
        arg_constraints = {}  # noqa: RUF012

    check_support(Unknown(validate_args=False), torch.tensor([math.nan]))
