r"""Estimates, and sums of importance weights, against scipy, Pyro and arithmetic by hand."""

import json
import math

import pytest
import torch
from pyro.ops.stats import fit_generalized_pareto
from scipy import stats
from torch import Tensor

from pyro_vae.evaluation import Estimate
from pyro_vae.evaluation.estimate import digits
from pyro_vae.evaluation.psis import pareto_shape, tail_size
from pyro_vae.evaluation.streaming import Moments, Weights

NAN = math.nan


@pytest.mark.parametrize(
    "estimate, expected",
    [
        (Estimate(-31.2417, 0.021, 0.312), "-31.24 ± 0.02 (Monte Carlo) ± 0.31 (data) nats"),
        (Estimate(-31.2417, NAN, 0.312), "-31.24 ± 0.31 (data) nats"),
        (Estimate(0.125, NAN, NAN, unit=""), "0.125"),
        (Estimate(2.0, 0.0, NAN, unit="bits/dim"), "2 ± 0 (Monte Carlo) bits/dim"),
        (Estimate(0.37281706, 6e-18, 2e-17), "0.3728 ± 0 (Monte Carlo) ± 0 (data) nats"),
    ],
)
def test_estimate_is_printed_with_the_digits_that_it_has(estimate: Estimate, expected: str) -> None:
    assert str(estimate) == f"{estimate}" == expected


@pytest.mark.parametrize("error", [NAN, math.inf, -math.inf])
def test_estimate_as_json_has_no_figure_that_is_not_finite(error: float) -> None:
    found = json.loads(json.dumps(Estimate(1.5, error, 0.25, torch.ones(2)).to_dict()))
    assert found == {
        **{"value": 1.5, "stderr": None, "data_stderr": 0.25},
        **{"unit": "nats", "seed": None},
    }


def test_estimate_stands_for_its_value() -> None:
    estimate = Estimate(-31.25, 0.02, 0.3, torch.ones(3), seed=4)

    assert float(estimate) == -31.25
    assert f"{estimate:.1f}" == "-31.2"
    assert estimate == -31.25
    assert estimate < -31
    assert -32 < estimate <= Estimate(-31.25, 1, 1)
    assert hash(estimate) == hash(-31.25)
    assert sorted([Estimate(2, 0, 0), Estimate(1, 0, 0)])[0] == 1
    with pytest.raises(AttributeError):
        estimate.value = 0.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        estimate < "many"  # noqa: B015


def test_other_sign() -> None:
    estimate = -Estimate(-31.25, 0.02, 0.3, torch.arange(3.0), seed=4)

    assert (estimate.value, estimate.stderr, estimate.data_stderr) == (31.25, 0.02, 0.3)
    assert estimate.per_datum is not None
    assert estimate.per_datum.tolist() == [0, -1, -2]
    assert estimate.seed == 4
    assert (-Estimate(1.0, 0.0, 0.0)).per_datum is None


def test_error_over_data_is_the_standard_error_of_the_mean() -> None:
    x = torch.randn(20)
    estimate = Estimate.of(x, 0.1)

    assert estimate.value == pytest.approx(x.mean().item(), rel=1e-14)
    assert estimate.data_stderr == pytest.approx(stats.sem(x.numpy()), rel=1e-12)
    assert math.isnan(Estimate.of(x[:1], 0.1).data_stderr)


@pytest.mark.parametrize(
    "numbers, expected",
    [
        ((1234.5678, 4.32, 0.1), ["1234.6", "4.3", "0.1"]),
        ((-25.24, 0.31, 0.002), ["-25.24", "0.31", "0.002"]),
        ((0.5, 0.0996), ["0.50", "0.10"]),
        ((0.125, None), ["0.125", ""]),
        ((5.0, math.inf), ["5", "inf"]),
    ],
)
def test_digits(numbers: tuple, expected: list[str]) -> None:
    assert digits(*numbers) == expected


@pytest.mark.parametrize("sizes", [[1, 1, 38], [40], [13, 27]])
def test_moments_do_not_depend_on_chunks(sizes: list[int]) -> None:
    values = 1e6 + torch.randn(40, 5)
    moments, joint = Moments(), Moments(joint=True)
    for chunk in values.split(sizes):
        moments.update(chunk)
        joint.update(chunk)

    torch.testing.assert_close(moments.mean, values.mean(0), rtol=1e-15, atol=0)
    assert moments.variance == pytest.approx(values.var(0).sum().item() / 40, rel=1e-8)
    assert joint.variance == pytest.approx(values.sum(1).var().item() / 40, rel=1e-8)


def weigh(log_weights: Tensor, size: int | None = None) -> Weights:
    weights = Weights(len(log_weights))
    for chunk in log_weights.split(size or len(log_weights)):
        weights.update(chunk)
    return weights


def test_weights_by_hand() -> None:
    w = torch.tensor([[1.0, 5.0, 1.0], [1.0, 5.0, 0.0], [2.0, 5.0, 0.0]])
    weights = weigh(w.log().clamp(min=-800) - 1e4)  # exp of which is 0

    torch.testing.assert_close(weights.ess, torch.tensor([16 / 6, 3.0, 1.0]))
    torch.testing.assert_close(weights.log_mean + 1e4, (w.mean(0)).log(), rtol=0, atol=1e-10)
    expected = (w.var(0) / 3 / w.mean(0).square()).sum()
    assert weights.variance == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("size", [3, 333, 4999])
def test_weights_do_not_depend_on_chunks(size: int) -> None:
    log_weights = 3 * torch.randn(5000, 2) - 500
    whole, chunked = weigh(log_weights), weigh(log_weights, size)

    for name in ("log_mean", "ess", "shape"):
        torch.testing.assert_close(
            getattr(chunked, name), getattr(whole, name), rtol=1e-10, atol=1e-10
        )
    assert chunked.variance == pytest.approx(whole.variance, rel=1e-10)


def test_shape_is_that_of_the_largest_weights() -> None:
    w = torch.rand(400, 1).pow(-0.8)
    tail = w[:, 0].sort().values[-61:]

    expected, _ = fit_generalized_pareto(tail[1:] - tail[0])
    assert weigh(w.log()).shape.item() == pytest.approx(expected, abs=1e-9)


def test_one_particle_has_no_error() -> None:
    weights = weigh(torch.randn(1, 3))

    assert math.isnan(weights.variance)
    assert weights.shape.isnan().all()
    torch.testing.assert_close(weights.ess, torch.ones(3))


@pytest.mark.parametrize(
    "particles, expected", [(1, 1), (20, 4), (21, 5), (225, 45), (400, 60), (5000, 213)]
)
def test_tail_is_that_of_the_literature(particles: int, expected: int) -> None:
    assert tail_size(particles) == expected


@pytest.mark.parametrize("size", [5, 6, 45, 213])
@pytest.mark.parametrize("spread", [1e-2, 1.0, 8.0])
def test_shape_is_that_of_pyro(size: int, spread: float) -> None:
    log_tail = spread * torch.randn(size + 1, 4) - 1000
    weights = (log_tail - log_tail.amax(0)).exp()
    exceedances = (weights - weights.amin(0)).sort(0).values[1:]
    expected = [fit_generalized_pareto(x)[0] for x in exceedances.T]

    torch.testing.assert_close(pareto_shape(log_tail), torch.tensor(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [-0.3, 0.2, 0.7, 1.5])
def test_shape_of_a_generalised_pareto_is_found(shape: float) -> None:
    r"""The estimate's standard error is (1 + k) / sqrt(M) (Zhang & Stephens, 2009)."""
    size = 4000
    x = stats.genpareto(shape).rvs((size + 1, 5), random_state=0)
    found = pareto_shape(torch.tensor(1 + x).log())

    error = (1 + max(shape, 0)) / math.sqrt(size)
    assert ((found - shape).abs() < 4 * error).all(), found


def test_shape_where_there_is_no_tail() -> None:
    equal = torch.full((46,), -3.0)
    ties = torch.cat([torch.zeros(40), torch.arange(6.0)])

    assert pareto_shape(equal[:, None]) == -math.inf
    assert pareto_shape(ties[:, None]).isfinite()
    assert pareto_shape(equal[:5, None]).isnan()


def test_rounding_to_single_precision_is_no_tail() -> None:
    r"""An exact guide's logarithms of weights, each of sums that may be a few units off."""
    units = torch.randint(-8, 9, (46, 200)).double()
    rounded = -500 * (1 + units * torch.finfo(torch.float32).eps)
    assert (pareto_shape(rounded) == -math.inf).all()
