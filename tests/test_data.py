r"""Data in memory: splits, natural likelihoods, binarisation, standardisation, batches."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Generator, Tensor
from torch.utils.data import Dataset, TensorDataset

from pyro_vae.data import Data, batches, load

DEVICES = ["cpu", "meta", *(["cuda"] if torch.cuda.is_available() else [])]


class Pairs(Dataset[Any]):
    r"""Items (x, y) that are made one by one."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], int(self.y[index])


# -- digits ---------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn() -> None:
    data, images = load("digits"), load_digits().images

    assert [len(fields["x"]) for fields in data.splits.values()] == [1297, 250, 250]
    together = torch.cat([fields["x"].flatten(1) for fields in data.splits.values()])
    expected = torch.from_numpy(images).flatten(1)
    torch.testing.assert_close(together.unique(dim=0), expected.unique(dim=0))
    assert data.value_range == (0, 16)
    assert data.natural.total_count == 16
    assert data.classes == tuple("0123456789")


def test_digits_are_labelled_and_stratified() -> None:
    data = load("digits")
    known = {tuple(x.ravel()): y for x, y in zip(*load_digits(return_X_y=True), strict=True)}

    for fields in data.splits.values():
        for x, y in zip(fields["x"].flatten(1).tolist(), fields["y"].tolist(), strict=True):
            assert known[tuple(x)] == y
    assert data.validation["y"].bincount().tolist() == [25, 25, 25, 26, 25, 25, 25, 25, 24, 25]
    assert data.test["y"].bincount().tolist() == [25, 25, 25, 26, 25, 25, 25, 25, 24, 25]


def test_digits_are_split_the_same_whatever_the_seed() -> None:
    torch.testing.assert_close(load("digits").test, load("digits", seed=1).test)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fields_have_the_default_dtype_and_are_contiguous(dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    x, u = np.arange(24).reshape(2, 3, 4).T, torch.rand(4, dtype=torch.float32)

    data = load({"x": x, "y": np.array([0, 1, 2, 3], np.uint8), "u": u})

    assert {name: f.dtype for name, f in data.train.items()} == {
        "x": dtype,
        "y": torch.int64,
        "u": dtype,
    }
    assert all(field.is_contiguous() for field in data.train.values())


# -- sources in memory ----------------------------------------------------------------------------

X = torch.arange(24).reshape(8, 3).double() / 7
Y = torch.tensor([0, 1] * 4)

MEMORY: dict[str, Any] = {
    "tensors": (X, Y),
    "arrays": (X.numpy(), Y.numpy().astype(np.uint8)),
    "foreign byte order": (X.numpy().astype(">f8"), Y.numpy().astype(">i4")),
    "mapping": {"x": X, "y": Y},
    "tensor dataset": TensorDataset(X, Y),
    "dataset": Pairs(X, Y),
    "needs a gradient": (X.clone().requires_grad_(), Y),
}


@pytest.mark.parametrize("name", MEMORY)
def test_sources_in_memory_give_the_same_rows(name: str) -> None:
    data = load(MEMORY[name], validation=0, test=0)

    assert data.validation == data.test == {}
    assert not data.train["x"].requires_grad
    torch.testing.assert_close(data.train, {"x": X, "y": Y})


def test_a_mapping_of_splits_is_taken_as_such() -> None:
    data = load({"train": (X, Y), "val": {"x": X[:2], "y": Y[:2]}, "test": Pairs(X[:3], Y[:3])})

    for fields, rows in ((data.train, 8), (data.validation, 2), (data.test, 3)):
        torch.testing.assert_close(fields, {"x": X[:rows], "y": Y[:rows]})


def test_a_single_tensor_has_no_labels() -> None:
    assert list(load(X).train) == ["x"]
    assert list(load(TensorDataset(X)).train) == ["x"]


def test_data_are_returned_as_they_are() -> None:
    data = load("digits")

    assert load(data) is data


# -- splits ---------------------------------------------------------------------------------------


def test_missing_splits_are_drawn_without_replacement() -> None:
    x = torch.randn(100, 3)
    data = load((x, torch.arange(100)), validation=0.2, test=0.3)

    assert [len(fields["x"]) for fields in data.splits.values()] == [50, 20, 30]
    assert sorted(torch.cat([f["y"] for f in data.splits.values()]).tolist()) == list(range(100))
    for fields in data.splits.values():  # fields are still those of the same rows
        torch.testing.assert_close(fields["x"], x[fields["y"]])


def test_splits_depend_on_the_seed_only() -> None:
    x = torch.randn(100, 3)
    first = load(x)
    torch.manual_seed(5)

    torch.testing.assert_close(load(x).test, first.test)
    assert (load(x, seed=1).test["x"] != first.test["x"]).any()


# -- natural likelihoods --------------------------------------------------------------------------

NATURAL: dict[str, tuple[Any, str, tuple[float, float]]] = {
    "binary": (np.eye(4), "Bernoulli", (0, 1)),
    "booleans": (np.eye(4, dtype=bool), "Bernoulli", (0, 1)),
    "binary bytes": (np.eye(4, dtype=np.uint8), "Bernoulli", (0, 1)),
    "bytes": (np.eye(4, dtype=np.uint8) * 7, "Binomial", (0, 255)),
    "counts": (np.eye(4, dtype=np.int32) * 7, "Poisson", (0, 7)),
    "counts as floats": (np.eye(4) * 7, "Poisson", (0, 7)),
    "shares": (np.eye(4) / 2, "ContinuousBernoulli", (0, 1)),
    "integers": (-3 * np.eye(4, dtype=int), "NormalLearnedScale", (-3, 0)),
    "reals": (np.eye(4) * 1.5, "NormalLearnedScale", (0, 1.5)),
}


@pytest.mark.parametrize("name", NATURAL)
def test_natural_likelihood(name: str) -> None:
    x, likelihood, bounds = NATURAL[name]
    data = load(x, validation=0, test=0)

    assert type(data.natural).__name__ == likelihood
    assert data.value_range == bounds


def test_natural_likelihood_covers_all_splits(tmp_path: Any) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, train=np.eye(4), valid=np.eye(4), test=np.eye(4) * -2.5)

    assert type(load(path).natural).__name__ == "NormalLearnedScale"
    assert load(path).value_range == (-2.5, 1)


def test_two_models_do_not_share_a_learned_scale() -> None:
    data = load(torch.randn(20, 3))
    first, second = data.likelihood, data.likelihood

    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}


# -- binarisation ---------------------------------------------------------------------------------

LEVELS: dict[str, tuple[Any, int]] = {
    "counts out of 16": ("digits", 16),
    "bytes": (np.arange(256, dtype=np.uint8).reshape(64, 4), 255),
    "shares": (torch.linspace(0, 1, 256).reshape(64, 4), 1),
}


@pytest.mark.parametrize("name", LEVELS)
def test_dynamic_binarisation_draws_each_epoch(name: str) -> None:
    source, levels = LEVELS[name]
    data = load(source, binarization="dynamic")
    p = load(source).train["x"] / levels
    torch.testing.assert_close(data.train["x"], p)

    draws = torch.stack([data.epoch("train")["x"] for _ in range(64)])
    sure = (p == 0) | (p == 1)
    torch.testing.assert_close(draws[:, sure], p[sure].expand(len(draws), -1))
    assert draws.unique().tolist() == [0, 1]
    assert (draws[0] != draws[1]).any()

    # a seeded mean over all features, with 4 standard errors: fails once in 16,000 seeds
    variance = p * (1 - p)
    error = variance.sum().sqrt() / (math.sqrt(len(draws)) * p.numel())
    assert abs(draws.mean() - p.mean()) < 4 * error
    # the same for each feature: a squared binomial z has mean 1 and variance 2 + excess kurtosis
    v, n = variance[~sure], len(draws)
    squares = (draws.mean(0) - p)[~sure] ** 2 / v * n
    error = (2 + (1 - 6 * v) / (v * n)).sum().sqrt() / len(v)
    assert abs(squares.mean() - 1) < 4 * error


def test_dynamic_binarisation_repeats_with_the_generator() -> None:
    data = load("digits", binarization="dynamic")
    first, second, other = (data.epoch("test", Generator().manual_seed(seed)) for seed in (3, 3, 4))

    torch.testing.assert_close(first, second)
    assert (first["x"] != other["x"]).any()
    torch.testing.assert_close(first["y"], data.test["y"])


def test_static_binarisation_is_drawn_once() -> None:
    data, p = load("digits", binarization="static"), load("digits").train["x"] / 16
    x = data.train["x"]

    assert data.epoch("train")["x"] is x
    assert x.unique().tolist() == [0, 1]
    error = (p * (1 - p)).sum().sqrt() / p.numel()
    assert abs(x.mean() - p.mean()) < 4 * error  # fails once in 16,000 seeds
    assert not ((p == 0) & (x == 1) | (p == 1) & (x == 0)).any()


def test_static_binarisation_depends_on_the_seed_only() -> None:
    first = load("digits", binarization="static").test["x"]
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(5)

    again = load("digits", binarization="static").test["x"]
    torch.testing.assert_close(again.double(), first)
    assert (load("digits", binarization="static", seed=1).test["x"] != again).any()


@pytest.mark.parametrize("binarization", ["static", "dynamic"])
def test_binarised_data_are_bernoulli(binarization: Any) -> None:
    data = load("digits", binarization=binarization)

    assert type(data.likelihood).__name__ == "Bernoulli"
    assert data.value_range == (0, 1)
    assert data.binarization == binarization


# -- standardisation ------------------------------------------------------------------------------


def test_standardised_features_have_mean_zero_and_deviation_one() -> None:
    x = torch.randn(200, 2, 3) * 5 + 40
    data = load(x, standardize=True)

    train = data.train["x"]
    torch.testing.assert_close(train.mean(0), torch.zeros(2, 3))
    torch.testing.assert_close(train.square().mean(0), torch.ones(2, 3))
    assert type(data.likelihood).__name__ == "NormalLearnedScale"


def test_restore_undoes_the_standardisation_of_all_splits() -> None:
    x = torch.randn(50, 3) * 5 + 40
    plain, data = load(x), load(x, standardize=True)

    for split, fields in data.splits.items():
        torch.testing.assert_close(data.restore(fields["x"]), plain.splits[split]["x"])
    torch.testing.assert_close(data.restore(torch.zeros(4, 2, 3))[1, 1], plain.train["x"].mean(0))


def test_log_jacobian_gives_densities_in_the_original_units() -> None:
    x = torch.randn(50, 3) * torch.tensor([5.0, 0.1, 2.0]) + 40
    data, train = load(x, standardize=True), load(x).train["x"]

    standard = dist.Normal(0.3, 0.9).expand((3,)).to_event(1)
    mean, scale = train.mean(0), train.std(0, correction=0)
    original = dist.Normal(mean + 0.3 * scale, 0.9 * scale).to_event(1)

    expected = original.log_prob(train)
    found = standard.log_prob(data.train["x"]) + data.log_jacobians(data.train["x"])
    torch.testing.assert_close(found, expected, check_dtype=False)


def test_nothing_is_restored_where_nothing_was_changed() -> None:
    data = load("digits")

    assert not data.log_jacobians(data.test["x"]).any()
    with torch.device("meta"):  # as a default
        assert data.log_jacobians(data.test["x"]).device.type == "cpu"
    assert data.restore(data.test["x"]) is data.test["x"]


# -- batches and devices --------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last, sizes", [(False, [4, 4, 2]), (True, [4, 4])])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_partition_the_rows(shuffle: bool, drop_last: bool, sizes: list[int]) -> None:
    fields = {"x": torch.arange(20).view(10, 2), "y": torch.arange(10)}
    found = list(batches(fields, 4, shuffle=shuffle, drop_last=drop_last))

    assert [len(batch["x"]) for batch in found] == sizes
    y = torch.cat([batch["y"] for batch in found])
    assert len(y.unique()) == sum(sizes)
    assert (y == torch.arange(sum(sizes))).all() != shuffle
    torch.testing.assert_close(torch.cat([batch["x"] for batch in found]), fields["x"][y])


def test_batches_repeat_with_the_generator() -> None:
    fields = {"x": torch.arange(100)}
    first, second, other = (
        torch.cat([b["x"] for b in batches(fields, 7, generator=Generator().manual_seed(seed))])
        for seed in (3, 3, 4)
    )

    assert (first == second).all()
    assert (first != other).any()


def test_batches_are_in_random_order() -> None:
    r"""Each of 5 rows is first as often as the others: chi-square(4) < 23.5, 1 in 10,000 seeds."""
    fields = {"x": torch.arange(5)}
    first = torch.cat([next(batches(fields, 1))["x"] for _ in range(1000)])

    assert ((first.bincount() - 200) ** 2 / 200).sum() < 23.5


@pytest.mark.parametrize("device", DEVICES)
def test_epochs_and_batches_stay_on_the_device(device: str) -> None:
    data = load("digits", binarization="dynamic").to(device)
    generator = None if device == "meta" else Generator(device)
    batch = next(batches(data.epoch("train", generator), 32, generator=generator))

    assert {field.device.type for field in batch.values()} == {device}
    assert data.restore(batch["x"]).device.type == device
    assert batch["x"].shape == (32, 1, 8, 8)


@pytest.mark.parametrize("binarization", ["none", "dynamic"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("start", [0, 1, 7, 20, 21, 30])
def test_an_epoch_goes_on_where_it_was_left(binarization: Any, shuffle: bool, start: int) -> None:
    data = load("digits", binarization=binarization)
    first, second = Generator().manual_seed(3), Generator().manual_seed(3)
    fields = data.epoch("train", first)
    expected = list(batches(fields, 64, shuffle=shuffle, generator=first))
    found = list(data.batches("train", 64, shuffle=shuffle, start=start, generator=second))

    assert len(found) == max(0, 21 - start)
    for batch, other in zip(found, expected[start:], strict=True):
        torch.testing.assert_close(batch, other, rtol=0, atol=0)
    assert (first.get_state() == second.get_state()).all()


# -- errors ---------------------------------------------------------------------------------------

CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "no such split": (lambda: load("digits").epoch("valid"), "split of train, validation, test"),
    "no rows in split": (lambda: load(X, test=0).epoch("test"), "expected a test split, got none"),
    "batch size": (lambda: batches({"x": X}, 0), "expected a positive batch_size, got 0"),
    "start": (lambda: load("digits").batches(start=-1), "expected start to be at least 0, got -1"),
    "no batch": (lambda: batches({"x": X}, 9, drop_last=True), "one batch of 9 rows, got 8"),
    "no rows": (lambda: batches({"x": X[:0]}, 9), "one batch of 9 rows, got 0"),
    "no fields": (lambda: batches({}, 9), "one batch of 9 rows, got 0"),
    "generator of batches": (
        lambda: batches({"x": X.to("meta")}, 2, generator=Generator()),
        "expected a generator on the device of the data, meta, got one on cpu",
    ),
    "generator of epoch": (
        lambda: load("digits", binarization="dynamic").to("meta").epoch("test", Generator()),
        "expected a generator on the device of the data, meta, got one on cpu",
    ),
    "splits differ": (
        lambda: Data("a", {"x": X}, {"x": X[:, :2]}, {}, None, (0, 1)),  # type: ignore[arg-type]
        r"a: expected rows of shape \(3,\) in validation, as in train, got \(2,\)",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_wrong_calls_are_explained(name: str) -> None:
    call, match = CALLS[name]

    with pytest.raises(ValueError, match=match):
        call()


def test_single_numbers_are_data_without_a_dimension() -> None:
    x = torch.tensor([9.0, 3.0, 5.0, 1.0, 7.5])
    data = load(x, validation=0.0, test=0.0)

    assert data.event_shape == torch.Size([])
    assert data.train["x"].sort().values.tolist() == [1.0, 3.0, 5.0, 7.5, 9.0]
