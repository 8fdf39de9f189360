r"""Shards and tables of columns, and what is noted of data."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_vae.data import load

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 4)), np.arange(30) % 3
ALL = {"validation": 0, "test": 0}


# -- shards ---------------------------------------------------------------------------------------


def shards(path: Path, **kinds: Any) -> Path:
    r"""Three files of ten rows each, or others by name."""
    path.mkdir(exist_ok=True, parents=True)
    for part in range(3):
        rows = slice(10 * part, 10 * part + 10)
        np.savez(path / f"part-{part}.npz", x=X[rows], y=Y[rows])
    for name, arrays in kinds.items():
        np.savez(path / f"{name}.npz", **arrays)
    return path


@pytest.mark.parametrize("pattern", ["", "part-*.npz", "part-[0-2].npz", "*.npz"])
def test_shards_follow_one_another(pattern: str, tmp_path: Path) -> None:
    path = shards(tmp_path / "rows")
    data = load(f"{path}/{pattern}" if pattern else path, **ALL)

    assert data.name == "rows"
    torch.testing.assert_close(data.train, {"x": torch.from_numpy(X), "y": torch.from_numpy(Y)})
    assert data.record["shards"] == {"train": 3}


def test_a_pattern_leaves_out_what_does_not_match(tmp_path: Path) -> None:
    path = shards(tmp_path, other={"x": X[:, :2]})

    assert len(load(f"{path}/part-[01].npz", **ALL).train["x"]) == 20


def test_shards_in_folders_of_splits(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        shards(tmp_path / split)
    data = load(tmp_path)

    for fields in data.splits.values():
        torch.testing.assert_close(fields["x"], torch.from_numpy(X))


def test_shards_hold_splits_themselves(tmp_path: Path) -> None:
    for part in range(2):
        arrays = {"train": X[part::2][:5], "valid": X[part::2][5:8], "test": X[part::2][8:]}
        np.savez(tmp_path / f"{part}.npz", **arrays)
    data = load(tmp_path)

    expected = torch.from_numpy(np.concatenate([X[0::2][5:8], X[1::2][5:8]]))
    torch.testing.assert_close(data.validation["x"], expected)


SHARDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "fields": (
        {"part-3": {"x": X, "u": Y}},
        "",
        r"part-3.npz: expected the fields of part-0.npz, \{'train x': .* got \{'train u'",
    ),
    "shapes": ({"part-3": {"x": X[:, :3], "y": Y}}, "", r"part-3.npz: .* got .*float64 \(3,\)"),
    "types": ({"part-3": {"x": X.astype(int), "y": Y}}, "", r"part-3.npz: .* got .*int64 \(4,\)"),
    "scalar": ({"part-3": {"x": X, "y": np.array(1)}}, "", r"part-3.npz: .*int64 scalar"),
    "single": ({"part-3": {"x": X}}, "", "part-3.npz: expected the fields of part-0.npz"),
    "damaged": ({}, "part-1", "part-1.npz: expected a whole .npz file"),
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_that_does_not_fit_is_named(name: str, tmp_path: Path) -> None:
    others, damaged, match = SHARDS[name]
    shards(tmp_path, **others)
    if damaged:
        (tmp_path / f"{damaged}.npz").write_bytes(b"hello")

    for source in (tmp_path, f"{tmp_path}/*.npz"):
        with pytest.raises(ValueError, match=match):
            load(source)


def test_a_pattern_without_files_and_a_split_without_shards_are_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a-\*.npz: expected .npz files, got no path"):
        load(f"{tmp_path}/a-*.npz")
    shards(tmp_path / "train")
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match=r"test: expected .npz files, got none"):
        load(tmp_path)
    np.savez(tmp_path / "test" / "a.npz", train=X, test=X)
    with pytest.raises(ValueError, match="test: expected fields, got the splits train, test"):
        load(tmp_path)


# -- tables of columns, in the manner of the package datasets -------------------------------------


class Label:
    names = ("cat", "dog", "emu")


class Table:
    r"""What ``datasets.Dataset`` is to us."""

    def __init__(self, columns: dict[str, Any], features: Any = None, torch: bool = False) -> None:
        self.columns, self.features, self.torch = columns, features, torch

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    def with_format(self, kind: str) -> "Table":
        return Table(self.columns, self.features, kind == "torch")

    def __getitem__(self, column: str) -> Any:
        values = self.columns[column]
        if not self.torch:
            return values
        rows = [torch.as_tensor(value) for value in values]
        return torch.stack(rows) if len({row.shape for row in rows}) == 1 else rows


class Tables(dict[str, Table]):
    r"""What ``datasets.DatasetDict`` is to us."""

    @property
    def column_names(self) -> dict[str, list[str]]:
        return {split: table.column_names for split, table in self.items()}

    def with_format(self, kind: str) -> "Tables":
        return Tables({split: table.with_format(kind) for split, table in self.items()})


@pytest.mark.parametrize("x", ["x", "image", "img"])
@pytest.mark.parametrize("y", ["y", "label", "labels"])
def test_a_table_has_fields(x: str, y: str) -> None:
    table = Table({x: X.tolist(), y: Y.tolist(), "weight": X[:, 0].tolist()}, {y: Label()})
    data = load(table, **ALL)

    expected = {"x": X, "y": Y, "weight": X[:, 0]}
    torch.testing.assert_close(data.train, {k: torch.from_numpy(v) for k, v in expected.items()})
    assert data.classes == ("cat", "dog", "emu")


@pytest.mark.parametrize("validation", ["validation", "valid", "val"])
def test_tables_are_splits(validation: str) -> None:
    parts = {"train": X[:20], validation: X[20:25], "test": X[25:]}
    data = load(Tables({split: Table({"x": x.tolist()}) for split, x in parts.items()}))

    for fields, x in zip(data.splits.values(), parts.values(), strict=True):
        torch.testing.assert_close(fields, {"x": torch.from_numpy(x)})
    assert data.classes is None


TABLES: dict[str, tuple[Any, str]] = {
    "words": (
        Table({"x": X.tolist(), "text": ["a"] * 30}),
        "table: train: column 'text': expected numbers of one shape",
    ),
    "ragged": (Table({"x": [[1.0], [2.0, 3.0]]}), "table: train: column 'x': expected numbers"),
    "twice": (
        Table({"x": X.tolist(), "image": X.tolist()}),
        "one column for 'x', got also 'image'",
    ),
    "splits": (
        Tables({"unsupervised": Table({"x": X.tolist()})}),
        "tables: expected the splits train, validation and test, got unsupervised; select",
    ),
    "no x": (Table({"y": Y.tolist()}), "table: expected a field 'x' in train, got y"),
    "none": (Table({}), "table: expected a field 'x' in train, got none"),
}


@pytest.mark.parametrize("name", TABLES)
def test_wrong_tables_are_explained(name: str) -> None:
    source, match = TABLES[name]

    with pytest.raises(ValueError, match=match):
        load(source)


# -- what is noted --------------------------------------------------------------------------------


def test_a_record_holds_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b,sex\n1,2,m\n3,7,f\n2,3,m\n5,8,f\n")
    data = load(path, label="sex", validation=0, test=0.25, seed=3)
    record = json.loads(json.dumps(data.record))  # plain all the way down

    assert record["name"] == "a"
    assert record["origin"] == str(path)
    assert record["seed"] == 3
    assert record["splits"]["validation"] == {}
    assert record["splits"]["train"] == {
        "x": {"shape": [3, 2], "dtype": "float64"},
        "y": {"shape": [3], "dtype": "int64"},
    }
    assert record["likelihood"] == "NormalLearnedScale"
    assert record["classes"] == ["f", "m"]
    assert data.standardization is not None
    assert record["standardization"]["scale"] == data.standardization.scale.tolist()
    assert record["value_range"] == list(data.value_range)


def test_a_record_of_images_holds_their_size_and_binarisation() -> None:
    record = load("digits", binarization="static", seed=5).record

    assert (record["binarization"], record["seed"]) == ("static", 5)
    assert record["standardization"] is None
    assert record["origin"] == "digits"


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "a value": lambda x: x.index_put((torch.tensor(0), torch.tensor(0)), x[0, 0] + 1),
    "the last row": lambda x: x.index_put((torch.tensor(-1), torch.tensor(1)), x[0, 0] + 1),
    "the order": lambda x: x.flip(0),
    "fewer rows": lambda x: x[:-1],
    "the shape": lambda x: x[:, :, None],
    "the type": lambda x: x.float(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_fingerprint_tells_data_apart(name: str) -> None:
    x = torch.from_numpy(X)
    data = load(x, **ALL)
    other = replace(data, train={"x": CHANGES[name](x)})

    assert load(x.clone(), **ALL).fingerprint == data.fingerprint
    assert other.fingerprint != data.fingerprint


def test_a_fingerprint_names_splits_and_fields() -> None:
    data = load((X, X[:, 0]), **ALL)
    moved = replace(data, test=data.train)
    renamed = replace(data, train={"x": data.train["x"], "u": data.train["y"]})

    assert len({data.fingerprint, moved.fingerprint, renamed.fingerprint}) == 3


def test_a_fingerprint_looks_at_few_rows_of_many() -> None:
    x = torch.arange(3000.0)[:, None]
    data = load(x, **ALL)
    prints = set()
    for row in range(3000):
        other = x.clone()
        other[row] += 1
        prints.add(replace(data, train={"x": other}).fingerprint)

    assert len(prints) == 256 + 1
