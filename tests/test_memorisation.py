r"""Distances from training data: of a model that repeats them, and of one that does not."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from measured import check_errors
from scipy import stats
from torch import Tensor
from zoo import ZOO

from pyro_vae.evaluation import memorisation
from pyro_vae.evaluation.memorisation import nearest, nearest_neighbours

F = 6


def kernels(centres: Tensor, scale: float) -> Callable[..., Any]:
    r"""Draws one of the centres, and noise."""

    def model(x: Tensor | None = None, n: int = 1) -> Tensor:
        with pyro.plate("data", n if x is None else x.shape[0], dim=-1):
            which = pyro.sample("which", dist.Categorical(torch.ones(len(centres))))
            return pyro.sample("x", dist.Normal(centres[which], scale).to_event(1), obs=x)

    return model


def guide(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("which", dist.Categorical(torch.ones(2)))


def honest(x: Tensor | None = None, n: int = 1) -> Tensor:
    with pyro.plate("data", n if x is None else x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(F), 0.5).to_event(1))
        return pyro.sample("x", dist.Normal(z, math.sqrt(0.75)).to_event(1), obs=x)


def test_model_that_memorises() -> None:
    train, test = torch.randn(100, F), torch.randn(50, F)
    found = nearest_neighbours(kernels(train, 1e-9), guide, train, test, n=200, neighbours=2)
    assert (found.samples - train[found.indices[:, 0]]).abs().max() < 1e-7
    assert (found.distances[:, 0] < 1e-7).all()
    assert len(found.indices[:, 0].unique()) > 60  # not always the same
    assert found.ratio < 1e-7
    assert (found.closer.value, found.closer.stderr) == (1, 0)
    exact = torch.cdist(test, train, compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    torch.testing.assert_close(found.test_distances, exact)


def test_model_that_draws_what_test_data_are() -> None:
    r"""Each check fails for 6e-5 of the seeds."""
    train, test = torch.randn(300, F), torch.randn(2000, F)
    found = nearest_neighbours(honest, guide, train, test, n=2000, seed=1)
    for each, expected in ((found.closer, 0.5), (found.ratio, 1.0)):
        error = math.hypot(each.stderr, each.data_stderr)
        assert abs(each.value - expected) < 4 * error < 0.05


def test_pairs_are_the_nearest_by_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    train = torch.randn(60, 2, 3)
    model = kernels(torch.randn(9, F), 1.0)
    monkeypatch.setattr(memorisation, "_ELEMENTS", 7 * 60)  # seven samples at a time
    found = nearest_neighbours(
        model, guide, train.flatten(1), torch.randn(5, F), n=40, neighbours=3
    )
    distances = (found.samples[:, None] - train.flatten(1)).norm(dim=-1).sort(-1)
    torch.testing.assert_close(found.distances, distances.values[:, :3])
    assert found.indices.equal(distances.indices[:, :3])
    assert nearest(found.samples.reshape(40, 2, 3), train, 3)[1].equal(found.indices)


def test_copies_far_from_zero_are_at_distance_zero() -> None:
    r"""Products of single-precision rows would put them at about 1."""
    rows = 1e4 + torch.randn(500, 300, dtype=torch.float32)
    distances, indices = nearest(rows[:100], rows, 2)
    assert indices[:, 0].equal(torch.arange(100))
    assert (distances[:, 0] == 0).all()
    assert (distances[:, 1] > 10).all()


def test_near_ties_are_in_order() -> None:
    r"""Products of single-precision rows tell no distances below about 0.03 apart here."""
    x = torch.full((1, 100), 10.0, dtype=torch.float32)
    steps = torch.tensor([3.0, 5.0, 1.0, 4.0, 2.0], dtype=torch.float32)
    near = x + 2e-3 * steps[:, None] * torch.eye(100, dtype=torch.float32)[0]
    others = torch.randn(200, 100, dtype=torch.float32) - x
    found = nearest(x, torch.cat([near, others, others + x]), 2)[1]
    assert found.tolist() == [[2, 4]]


def test_share_is_that_of_mann_and_whitney() -> None:
    a, b = torch.randint(5, (30,)).double(), torch.randint(7, (20,)).double()
    expected = stats.mannwhitneyu(b.numpy(), a.numpy()).statistic / 600
    assert memorisation._closer(a, b, 0).value == pytest.approx(expected)


def test_errors_of_share_and_ratio() -> None:
    r"""Exponential distances with means 1 and 2: P(a < b) = 2/3.

    300 runs: 1 in 500 of the first checks fails, the others are 4 standard errors wide.
    """

    class Both:
        def __init__(self, each: Any) -> None:
            self.value, self.stderr = each.value, math.hypot(each.stderr, each.data_stderr)

    runs = [(dist.Exponential(1.0).sample((300,)), 2 * dist.Exponential(1.0).sample((200,)))
            for _ in range(300)]  # fmt: skip
    check_errors([Both(memorisation._closer(a, b, 0)) for a, b in runs], 2 / 3)
    few = memorisation._closer(runs[0][0], runs[0][1][:10], 0)
    assert few.stderr < few.data_stderr / 2  # the one of 300 samples, the other of 10 test rows
    ratios = torch.tensor([memorisation._ratio(a, b, 0).value for a, b in runs])
    error = 0.5 * math.sqrt(1 / 300 + 1 / 200)
    assert ratios.std().item() == pytest.approx(error, rel=0.2)
    both = Both(memorisation._ratio(*runs[0], 0))
    assert both.stderr == pytest.approx(error, rel=0.3)


@pytest.mark.parametrize(
    "train, test, neighbours",
    [((3, F), (2, F), 4), ((3, F), (0, F), 1), ((3, F + 1), (2, F), 1), ((3, F), (2, F, 1), 1)],
)
def test_rows_that_do_not_fit_are_refused(train: tuple, test: tuple, neighbours: int) -> None:
    with pytest.raises(ValueError, match=r"of the shape that the model generates, \(6,\), got"):
        nearest_neighbours(
            honest, guide, torch.zeros(train), torch.zeros(test), n=2, neighbours=neighbours
        )


def test_other_misuse() -> None:
    rows = torch.zeros(2, F)
    with pytest.raises(ValueError, match="expected neighbours of at least 1, got 0"):
        nearest_neighbours(honest, guide, rows, rows, neighbours=0)
    with pytest.raises(TypeError, match="got train of type list"):
        nearest_neighbours(honest, guide, rows.tolist(), rows, n=2)  # type: ignore[arg-type]
    model, encoder, batch = ZOO["partly_observed"]()
    with pytest.raises(ValueError, match=r"expected a model that generates one site.*'x'"):
        nearest_neighbours(model, encoder, rows, rows, n=2, batch=batch)
