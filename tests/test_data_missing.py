r"""Data with missing values: what is observed is surveyed, standardised and given a likelihood."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import complaint, document

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.data import Data, load
from pyro_vae.evaluation import nearest_neighbours
from pyro_vae.evaluation.metrics import evaluate
from pyro_vae.guides import AmortizedNormal
from pyro_vae.likelihoods import Masked
from pyro_vae.models import VAE
from pyro_vae.nn import masked_mlp
from pyro_vae.runs import Run

RNG = np.random.default_rng(0)
HOLES = RNG.random((40, 3)) < 0.3
HOLES[:9, 1] = True  # a feature that begins late
REAL = np.where(HOLES, np.nan, RNG.normal(size=(40, 3)) * [1.0, 20.0, 3.0] + [0.0, 5.0, -9.0])
KINDS = {
    "Bernoulli": (np.where(HOLES, np.nan, RNG.integers(0, 2, (40, 3))), (0.0, 1.0)),
    "Poisson": (np.where(HOLES, np.nan, RNG.integers(0, 9, (40, 3))), (0.0, 8.0)),
    "ContinuousBernoulli": (np.where(HOLES, np.nan, RNG.random((40, 3))), (0.0, 1.0)),
    "NormalLearnedScale": (REAL, (float(np.nanmin(REAL)), float(np.nanmax(REAL)))),
}


def whole(data: Data) -> np.ndarray:
    r"""The rows of all splits, in an order of their own."""
    rows = torch.cat([data.restore(fields["x"][:]) for fields in data.splits.values()]).numpy()
    return rows[np.lexsort(np.nan_to_num(rows, nan=99).T)]


def same(data: Data, rows: np.ndarray) -> None:
    np.testing.assert_allclose(whole(data), rows[np.lexsort(np.nan_to_num(rows, nan=99).T)])


@pytest.mark.parametrize("family", KINDS)
def test_the_likelihood_is_that_of_what_is_observed(family: str) -> None:
    x, extent = KINDS[family]
    data = load(x, missing=True)
    assert isinstance(data.natural, Masked)
    assert type(data.natural.likelihood).__name__ == family
    assert data.value_range == extent
    assert data.record["missing"] is True
    same(data, x)


def test_bytes_may_have_nothing_missing() -> None:
    x = RNG.integers(0, 256, (20, 3)).astype(np.uint8)
    data = load(x, missing=True)
    assert isinstance(data.natural, Masked)
    assert data.natural.likelihood.total_count == 255  # type: ignore[attr-defined]
    same(data, x.astype(float))


@pytest.mark.parametrize("family", KINDS)
def test_a_feature_may_be_missing_from_a_whole_split(family: str) -> None:
    x, extent = KINDS[family]
    data = load({"train": x, "test": x[:9]}, missing=True)
    assert data.test["x"][:, 1].isnan().all()
    assert data.value_range == extent
    assert type(data.natural.likelihood).__name__ == family  # type: ignore[attr-defined]


@pytest.mark.parametrize("chunk", [2**22, 7])
@pytest.mark.parametrize("mmap", [None, True])
def test_observed_values_are_standardised(
    chunk: int, mmap: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyro_vae.data.lazy.CHUNK", chunk)
    np.save(tmp_path / "x.npy", REAL)
    data = load(tmp_path / "x.npy", missing=True, standardize=True, mmap=mmap)
    train = data.train["x"][:].numpy()
    np.testing.assert_allclose(np.nanmean(train, 0), 0, atol=1e-12)
    np.testing.assert_allclose(np.nanstd(train, 0), 1)
    assert isinstance(data.natural, Masked)
    # nats in the user's units
    scale = np.nanstd(data.restore(data.train["x"][:]).numpy(), 0)
    x = data.train["x"][:]
    expected = -(~x.isnan() * torch.as_tensor(scale).log()).sum(1)
    torch.testing.assert_close(data.log_jacobians(data.train["x"]), expected, check_dtype=False)
    assert data.log_jacobians(x[:0]).shape == (0,)
    same(data, REAL)


def test_tables_have_empty_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "height,eyes,kind\n1.5,blue,u\n,green,v\nnan,blue,u\n2.5,,v\n1,green,u\n3,blue,v"
    )
    with pytest.raises(ValueError, match=r"row 3, column 1 .* empty cell.*missing=True"):
        load(path)
    data = load(path, missing=True, label="kind", validation=0, test=0, standardize=False)
    assert data.columns is not None
    assert data.columns.features == ("height", "eyes=blue", "eyes=green")
    nan = np.nan
    expected = [[1.5, 1, 0], [nan, 0, 1], [nan, 1, 0], [2.5, nan, nan], [1, 0, 1], [3, 1, 0]]
    np.testing.assert_array_equal(data.train["x"].numpy(), expected)
    levels = data.restore(data.train["x"])[:, 1]
    np.testing.assert_array_equal(levels.numpy(), [0, 1, 0, nan, 1, 0])
    assert data.train["y"].tolist() == [0, 1, 0, 1, 0, 1]

    numbers = load(path, missing=True, label="kind", validation=0, test=0).train["x"][:, 0]
    np.testing.assert_allclose(np.nanmean(numbers.numpy()), 0, atol=1e-12)


def table(text: str) -> Any:
    def write(path: Path) -> Path:
        (path / "a.csv").write_text(text)
        return path / "a.csv"

    return write


NEVER = np.where(np.arange(3) == 1, np.nan, RNG.normal(size=(20, 3)))
ONCE = np.where((np.arange(3) == 1) & (np.arange(20) > 0)[:, None], np.nan, NEVER[:, :1])


@pytest.mark.parametrize(
    "make, options, match",
    [
        (lambda _: REAL, {}, "at .*; remove or replace them, or give missing=True"),
        (
            lambda _: np.where(HOLES, np.inf, 1.5),
            {"missing": True},
            "finite .* first, inf",
        ),
        (lambda _: (REAL, REAL[:, 0]), {"missing": True}, "'y': expected finite numbers"),
        (lambda _: NEVER, {"missing": True}, r"observed in some row, got 1 .* first at \(1,\)"),
        (lambda _: np.where(HOLES, np.nan, 3), {"missing": True}, "that vary, got 3 everywhere"),
        (
            lambda _: KINDS["ContinuousBernoulli"][0],
            {"missing": True, "binarization": "dynamic"},
            "either missing or binarization, got both",
        ),
        (lambda _: ONCE, {"missing": True, "standardize": True}, r"that vary .* first at \(1,\)"),
        (lambda _: "digits", {"missing": True}, "digits: the option 'missing' means nothing here"),
        (table("a,b\n1,\n2,\n"), {"missing": True}, "column 'b': expected values in some rows"),
        (table("a,\n1,2\n2,3\n"), {"missing": True}, "a name of each column"),
        (
            table("a,b\n1,\n2,u\n"),
            {"missing": True, "label": "b"},
            "a label in row 2",
        ),
    ],
)
def test_errors(make: Any, options: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=match):
        load(make(tmp_path), **options)


def test_rows_with_holes_have_no_distances() -> None:
    model, guide = VAE((3,), 2), AmortizedNormal((3,), {"z": 2}, masked_mlp)
    x = torch.tensor(REAL)
    with pytest.raises(ValueError, match=r"finite rows, .* impute what is missing"):
        nearest_neighbours(model, guide, torch.zeros(5, 3), x, n=4)


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    np.savez("holes.npz", x=REAL)
    fit = ["fit", "--data", "holes.npz", "--epochs", "2", "--model.latents", "2", "--out", "run"]
    fit += ["--particles", "20"]
    assert "--data.missing true" in complaint(capsys, *fit)
    fit += ["--data.missing", "true"]
    assert "masked_mlp" in complaint(capsys, *fit)
    assert main([*fit, "--guide.encoder", "masked_mlp", "--quiet"]) == 0
    found = document(capsys, "evaluate", "run", "--particles", "20", "--metrics", "elbo", "nll")

    run, data = Run.load("run"), load("holes.npz", missing=True)
    assert isinstance(run.model.likelihood, Masked)  # type: ignore[union-attr]
    assert data.test["x"].isnan().any()
    expected = evaluate(run.model, run.guide, data, ("elbo", "nll"), particles=20)
    assert found["estimates"] == {name: each.to_dict() for name, each in expected.items()}
    assert pyro_vae.evaluation.impute(run.model, run.guide, data.test["x"]).isfinite().all()
