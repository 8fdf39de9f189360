r"""Stick-breaking weights and the Chinese restaurant, against enumeration, scipy and quadrature."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from enumerated import partitions
from scipy import stats

from pyro_vae.distributions import ChineseRestaurant, StickBreaking, canonical

BELL = {1: 1, 2: 2, 3: 5, 4: 15, 5: 52, 6: 203, 7: 877}


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("size", BELL)
def test_probabilities_of_all_partitions_sum_to_one(size: int, alpha: float) -> None:
    every = partitions(size)
    seats = ChineseRestaurant(torch.tensor(alpha), size)
    p = seats.log_prob(every).exp()

    assert len(every) == BELL[size]
    assert p.sum().item() == pytest.approx(1, rel=1e-12)
    tables = every.max(-1).values + 1
    assert (p * tables).sum().item() == pytest.approx(seats.expected_tables.item(), rel=1e-12)


def test_a_partition_has_the_probability_of_guests_one_by_one() -> None:
    alpha, every = 0.7, partitions(6)
    expected = []
    for labels in every.tolist():
        p = 1.0
        for i, label in enumerate(labels):
            p *= (labels[:i].count(label) or alpha) / (alpha + i)
        expected.append(math.log(p))

    found = ChineseRestaurant(torch.tensor(alpha), 6).log_prob(every)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_order_of_guests_does_not_matter() -> None:
    every, seats = partitions(4), ChineseRestaurant(torch.tensor(1.3), 4)
    for order in itertools.permutations(range(4)):
        moved = canonical(every[:, order])
        torch.testing.assert_close(seats.log_prob(moved), seats.log_prob(every))


def test_canonical_labels_are_those_of_the_partition() -> None:
    every = partitions(6)
    names = torch.stack([torch.randperm(9) - 4 for _ in every]).gather(-1, every)

    assert (canonical(names) == every).all()
    assert (canonical(names.reshape(7, 29, 6).double()) == every.reshape(7, 29, 6)).all()


def test_draws_have_the_probabilities_of_partitions() -> None:
    r"""A chi-square test of 15 partitions, which fails once in 10^4 seeds."""
    alpha, every, count = torch.tensor([0.5, 2.0]), partitions(4), 20_000
    seats = ChineseRestaurant(alpha, 4)
    drawn = seats.sample((count,))

    assert drawn.shape == (count, 2, 4)
    assert seats.support.check(drawn).all()
    for j in range(2):
        counts = (drawn[:, j, None] == every).all(-1).sum(0)
        expected = count * ChineseRestaurant(alpha[j], 4).log_prob(every).exp()
        assert stats.chisquare(counts, expected).pvalue > 1e-4


def test_batches_of_restaurants() -> None:
    alpha = torch.tensor([[0.5], [2.0]])
    seats = ChineseRestaurant(alpha, 4).expand((3, 2, 5))
    labels = seats.sample((6,))

    assert labels.shape == (6, 3, 2, 5, 4)
    found = seats.log_prob(labels)
    assert found.shape == (6, 3, 2, 5)
    for j, each in enumerate(alpha.flatten()):
        torch.testing.assert_close(
            found[:, :, j], ChineseRestaurant(each, 4).log_prob(labels[:, :, j])
        )


def test_the_gradient_by_the_concentration_is_exact() -> None:
    alpha = torch.tensor(0.7, requires_grad=True)
    every = partitions(5)
    for labels in every[::7]:
        (slope,) = torch.autograd.grad(ChineseRestaurant(alpha, 5).log_prob(labels), alpha)
        tables = labels.max().item() + 1
        exact = tables / 0.7 - sum(1 / (0.7 + i) for i in range(5))
        assert slope.item() == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("make", [ChineseRestaurant, StickBreaking])
def test_a_concentration_may_be_a_number(make: Callable[..., Any]) -> None:
    of_number, of_tensor = make(1.5, 4), make(torch.tensor(1.5), 4)
    value = of_number.sample((3,))
    assert value.shape == (3, 4)
    assert of_number.log_prob(value).equal(of_tensor.log_prob(value))


@pytest.mark.parametrize("labels", [[1, 0, 0], [0, 2, 1], [0, -1, 0], [0, 0.5, 0]])
def test_labels_out_of_order_are_no_partition(labels: list[float]) -> None:
    seats = ChineseRestaurant(torch.tensor(1.0), 3, validate_args=True)
    with pytest.raises(ValueError, match="within the support"):
        seats.log_prob(torch.tensor(labels))


def by_breaks(w: np.ndarray, alpha: float) -> float:
    r"""The density by that of independent breaks, and a Jacobian by differences."""

    def breaks(x: np.ndarray) -> np.ndarray:
        return x / (1 - np.concatenate([[0], x.cumsum()[:-1]]))

    x, h = w[:-1], 1e-6
    slopes = [(breaks(x + h * e) - breaks(x - h * e)) / (2 * h) for e in np.eye(len(x))]
    return stats.beta(1, alpha).logpdf(breaks(x)).sum() + np.linalg.slogdet(np.array(slopes))[1]


@pytest.mark.parametrize("alpha", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("components", [2, 3, 6])
def test_the_density_of_weights_is_that_of_breaks(components: int, alpha: float) -> None:
    sticks = StickBreaking(torch.tensor(alpha), components)
    w = dist.Dirichlet(torch.ones(components)).sample((20,))

    expected = [by_breaks(row, alpha) for row in w.numpy()]
    np.testing.assert_allclose(sticks.log_prob(w), expected, rtol=1e-6, atol=1e-6)


def test_two_weights_are_a_dirichlet_and_one_is_certain() -> None:
    alpha, w = torch.tensor([0.4, 2.0]), dist.Dirichlet(torch.ones(2)).sample((9, 1))
    ones = torch.ones_like(alpha)

    theirs = dist.Dirichlet(torch.stack([ones, alpha], -1)).log_prob(w)
    torch.testing.assert_close(StickBreaking(alpha, 2).log_prob(w), theirs)
    single = StickBreaking(alpha, 1)
    assert (single.rsample((3,)) == 1).all()
    assert (single.log_prob(single.rsample((3,))) == 0).all()
    assert (single.mean == 1).all()


def test_the_density_of_three_weights_integrates_to_one() -> None:
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(300))
    nodes, weights = (nodes + 1) / 2, weights / 2
    left, share = nodes[:, None], nodes  # w = (1 - left, left * share, left * (1 - share))
    w = torch.stack(torch.broadcast_tensors(1 - left, left * share, left * (1 - share)), -1)
    density = StickBreaking(torch.tensor(1.7), 3).log_prob(w).exp()

    total = weights @ (left * density) @ weights
    assert total.item() == pytest.approx(1, abs=1e-5)


def test_moments_are_those_of_products_of_breaks() -> None:
    alpha, K = 1.7, 5
    v = stats.beta(1, alpha)
    first, second = v.mean(), v.moment(2)
    left, left_squared = 1 - first, 1 - 2 * first + second
    ends = [1.0 if k == K - 1 else None for k in range(K)]
    mean = [(end or first) * left**k for k, end in enumerate(ends)]
    square = [(end or second) * left_squared**k for k, end in enumerate(ends)]
    sticks = StickBreaking(torch.tensor(alpha), K)

    np.testing.assert_allclose(sticks.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(sticks.variance, np.array(square) - np.square(mean), rtol=1e-10)


def test_draws_have_the_breaks_they_should_have() -> None:
    r"""Kolmogorov-Smirnov tests of three independent breaks: one fails once in 3,000 seeds."""
    alpha, size = torch.tensor([[0.3], [2.5]]), 4_000
    w = StickBreaking(alpha, 4).rsample((size,)).squeeze(2)

    assert w.shape == (size, 2, 4)
    torch.testing.assert_close(w.sum(-1), torch.ones(size, 2))
    broken = (w / w.flip(-1).cumsum(-1).flip(-1))[..., :3]
    for j, a in enumerate(alpha.flatten().tolist()):
        for k in range(3):
            assert stats.kstest(broken[:, j, k], stats.beta(1, a).cdf).pvalue > 1e-4
        assert np.abs(np.corrcoef(broken[:, j].T) - np.eye(3)).max() < 4.5 / size**0.5


def test_the_mean_of_draws_has_the_gradient_of_the_mean() -> None:
    r"""Within 4.5 standard errors: one of four fails once in 35,000 seeds."""
    alpha = torch.tensor(1.4, requires_grad=True)
    sticks, size = StickBreaking(alpha, 4), 4_000
    exact = torch.autograd.functional.jacobian(lambda a: StickBreaking(a, 4).mean, alpha.detach())
    many = alpha.detach().expand(size).clone().requires_grad_()
    w = StickBreaking(many, 4).rsample()
    for k in range(4):
        (slope,) = torch.autograd.grad(w[:, k].sum(), many, retain_graph=True)
        assert abs(slope.mean() - exact[k]) < 4.5 * slope.std() / size**0.5
    assert sticks.rsample().requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [1e-3, 1e-1, 1e3])
def test_no_draw_has_an_infinite_density(alpha: float, dtype: torch.dtype) -> None:
    sticks = StickBreaking(torch.full((200,), alpha, dtype=dtype), 20, validate_args=True)
    w = sticks.rsample()

    assert w.dtype == dtype
    assert (w > 0).all()
    assert sticks.log_prob(w).isfinite().all()


def test_draws_of_weights_and_labels_agree() -> None:
    r"""Labels of two draws are equal with probability :math:`1 / (1 + \alpha)`, as at a restaurant.

    Of the truncated weights it is :math:`\sum_k E[w_k^2]`, which is the same up to what is left.
    """
    alpha = torch.tensor([0.5, 2.0])
    sticks = StickBreaking(alpha, 80)
    together = (sticks.variance + sticks.mean.square()).sum(-1)
    pair = torch.tensor([0, 0])
    expected = [ChineseRestaurant(a, 2).log_prob(pair).exp().item() for a in alpha]

    np.testing.assert_allclose(together, expected, rtol=1e-9)


ERRORS: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: StickBreaking(torch.tensor(1.0), 0), ValueError, "components of at least 1, got 0"),
    (lambda: StickBreaking(torch.tensor(1.0), 2.5), TypeError, "components to be an integer"),
    (lambda: StickBreaking(torch.tensor(-1.0), 2, True), ValueError, "concentration"),
    (lambda: ChineseRestaurant(torch.tensor(1.0), 0), ValueError, "size of at least 1, got 0"),
    (lambda: ChineseRestaurant(torch.tensor(0.0), 2, True), ValueError, "concentration"),
]


@pytest.mark.parametrize("call, error, match", ERRORS)
def test_errors(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
