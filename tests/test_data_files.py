r"""Data in files: idx, .npy, .npz and .csv, and what is said about those that are wrong."""

import gzip
import hashlib
import os
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from pyro_vae.data import Data, load
from pyro_vae.data.idx import read_idx

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 4)), np.arange(30) % 3


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def whole(path: Path, **options: Any) -> Data:
    r"""Everything in a file as training rows, in the file's own numbers."""
    return load(path, validation=0, test=0, standardize=False, **options)


# -- arrays ---------------------------------------------------------------------------------------


def test_npy_holds_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", X)
    data = whole(tmp_path / "rows.npy")

    assert data.name == "rows"
    torch.testing.assert_close(data.train, {"x": torch.from_numpy(X)})


@pytest.mark.parametrize("mmap", [False, True])
def test_a_damaged_bit_is_still_a_bit(mmap: bool, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[True], [False], [True]]))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:-1] + b"\7")
    data = whole(tmp_path / "a.npy", mmap=mmap)

    assert data.train["x"].tolist() == [[1], [0], [1]]
    assert data.value_range == (0, 1)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_holds_fields(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "fields.npz", x=X, y=Y)
    train = whole(tmp_path / "fields.npz").train

    torch.testing.assert_close(train, {"x": torch.from_numpy(X), "y": torch.from_numpy(Y)})


def test_npz_holds_a_single_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "single.npz", anything=X)

    torch.testing.assert_close(whole(tmp_path / "single.npz").train["x"], torch.from_numpy(X))


@pytest.mark.parametrize("validation", ["valid", "val", "validation"])
def test_npz_holds_splits(tmp_path: Path, validation: str) -> None:
    np.savez(tmp_path / "a.npz", **{"train": X[:20], validation: X[20:25], "test": X[25:]})
    data = load(tmp_path / "a.npz")

    for fields, x in zip(data.splits.values(), (X[:20], X[20:25], X[25:]), strict=True):
        torch.testing.assert_close(fields, {"x": torch.from_numpy(x)})


def test_npz_holds_labelled_splits_and_the_missing_one_is_drawn(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=X[:20], y_train=Y[:20], x_test=X[20:], y_test=Y[20:])
    data = load(tmp_path / "a.npz", validation=0.25)

    test = {"x": torch.from_numpy(X[20:]), "y": torch.from_numpy(Y[20:])}
    torch.testing.assert_close(data.test, test)
    assert [len(data.train["y"]), len(data.validation["y"])] == [15, 5]
    drawn = torch.cat([data.train["x"], data.validation["x"]])
    torch.testing.assert_close(drawn.unique(dim=0), torch.from_numpy(X[:20]).unique(dim=0))


def idx(array: np.ndarray, code: int = 8) -> bytes:
    shape = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return bytes([0, 0, code, array.ndim]) + shape + array.tobytes()


BYTES = RNG.integers(0, 256, (5, 3, 2), dtype=np.uint8)


@pytest.mark.parametrize("name", ["a-idx3-ubyte", "a-idx3-ubyte.gz"])
def test_idx_holds_an_array_and_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    packed = gzip.compress(idx(BYTES)) if name.endswith(".gz") else idx(BYTES)
    (tmp_path / name).write_bytes(packed)
    found = read_idx(tmp_path / name, hashlib.md5(packed).hexdigest())

    np.testing.assert_array_equal(found, BYTES)
    assert [path.name for path in tmp_path.iterdir()] == [name]


# -- tables ---------------------------------------------------------------------------------------

TABLE = """height,eyes,weight,sex
1.8,blue,80,m
1.7,"brown, dark",60.5,f
1.6,blue,70,f
1.75,green,90,m
"""
FEATURES = [  # height, three levels of eyes, weight
    [1.8, 1, 0, 0, 80],
    [1.7, 0, 1, 0, 60.5],
    [1.6, 1, 0, 0, 70],
    [1.75, 0, 0, 1, 90],
]


def test_csv_makes_features_labels_and_indicators(tmp_path: Path) -> None:
    data = whole(write(tmp_path / "a.csv", TABLE), label="sex")

    torch.testing.assert_close(data.train["x"], torch.tensor(FEATURES))
    assert data.train["y"].tolist() == [1, 0, 0, 1]
    assert data.classes == ("f", "m")
    assert data.columns is not None
    assert data.columns.names == ("height", "eyes", "weight")
    assert data.columns.levels == {"eyes": ("blue", "brown, dark", "green")}
    assert data.columns.features[:2] == ("height", "eyes=blue")


def test_csv_standardises_columns_of_numbers_and_restores_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", TABLE)
    data = load(path, label="sex", validation=0, test=0)
    x, raw = data.train["x"], torch.tensor(FEATURES)

    torch.testing.assert_close(x[:, 1:4], raw[:, 1:4])
    torch.testing.assert_close(x[:, [0, 4]].mean(0), torch.zeros(2))
    torch.testing.assert_close(x[:, [0, 4]].square().mean(0), torch.ones(2))
    expected = [[1.8, 0, 80], [1.7, 1, 60.5], [1.6, 0, 70], [1.75, 2, 90]]
    torch.testing.assert_close(data.restore(x), torch.tensor(expected))
    torch.testing.assert_close(data.restore(x.view(2, 2, 5)), torch.tensor(expected).view(2, 2, 3))


def test_csv_has_densities_in_the_units_of_the_file(tmp_path: Path) -> None:
    r"""Of a row with an indicator: the density of numbers changes, not that of the indicator."""
    data = load(write(tmp_path / "a.csv", TABLE), label="sex", validation=0, test=0)
    raw, x = torch.tensor(FEATURES), data.train["x"]
    loc, scale = raw.mean(0), raw.std(0, correction=0)
    loc[1:4], scale[1:4] = 0, 1

    expected = dist.Normal(loc, scale).log_prob(raw).sum(-1)
    found = dist.Normal(0, 1).log_prob(x).sum(-1) + data.log_jacobians(x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "text, names, rows",
    [
        ("a,b\n1,2\n3,5\n", ("a", "b"), 2),
        ("1,2\n3,5\n", ("1", "2"), 2),
        ("a;b\n1;2\n3;5\n", ("a", "b"), 2),
        ("a\tb\n1\t2\n3\t5\n\n", ("a", "b"), 2),
        ("\ufeffa,b\r\n1,2\r\n3,5\r\n", ("a", "b"), 2),
        ("a\n1\n2\n", ("a",), 2),
        ("1\n2\n", ("1",), 2),
        ("u,w\nyes,no\nno,yes\nyes,yes\n", ("u", "w"), 3),
        ("yes,no\nno,yes\nyes,yes\n", ("1", "2"), 3),
        ("yes,2\nno,3\nyes,4\n", ("1", "2"), 3),
        ('"a, b",c\n0.5,"2"\n 3 ,5\n', ("a, b", "c"), 2),
    ],
)
def test_csv_has_a_header_or_none(
    tmp_path: Path, text: str, names: tuple[str, ...], rows: int
) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode())
    data = whole(tmp_path / "a.csv")

    assert data.columns is not None
    assert data.columns.names == names
    assert len(data.train["x"]) == rows


def test_csv_of_words_or_bits_is_binary(tmp_path: Path) -> None:
    words = load(write(tmp_path / "a.csv", "yes,no\nno,yes\nyes,yes\n"), validation=0, test=0)
    bits = load(write(tmp_path / "b.csv", "a,b\n0,1\n1,0\n"), validation=0, test=0)

    for data in (words, bits):
        assert type(data.natural).__name__ == "Bernoulli"
        assert not data.log_jacobians(data.train["x"]).any()
    assert words.restore(words.train["x"]).tolist() == [[1, 0], [0, 1], [1, 1]]


def test_csv_levels_may_look_like_numbers_among_words(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'a\n"1,5"\ntwo\n"1,5"\n')

    assert whole(path).columns.levels == {"a": ("1,5", "two")}  # type: ignore[union-attr]


def test_csv_labels_are_sorted_as_numbers(tmp_path: Path) -> None:
    data = whole(write(tmp_path / "a.csv", "x,k\n.5,10\n.6,9\n.7,10\n.8,-2\n"), label="k")

    assert data.classes == ("-2", "9", "10")
    assert data.train["y"].tolist() == [2, 1, 2, 0]


def test_csv_is_binarised_without_being_standardised(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a,b\n0.1,0.9\n0.4,0.2\n")
    data = load(path, binarization="dynamic", validation=0, test=0)

    torch.testing.assert_close(data.train["x"], torch.tensor([[0.1, 0.9], [0.4, 0.2]]))


# -- where files are looked for -------------------------------------------------------------------


@pytest.mark.parametrize("source", ["mnist", "fashion-mnist", "static-mnist"])
def test_absent_files_name_the_folders_and_what_to_do(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))

    with pytest.raises(FileNotFoundError) as caught:
        load(source)
    text = str(caught.value)
    assert str(tmp_path / "a") in text
    assert str(tmp_path / "b" / "pyro_vae") in text
    assert "PYRO_VAE_DATA" in text
    assert ("download=True (--data.download)" in text) == (source != "static-mnist")
    assert "root= (--data.root)" in text

    with pytest.raises(FileNotFoundError, match="elsewhere"):
        load(source, root=tmp_path / "elsewhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("root", [None, "mine"])
def test_download_goes_to_the_cache_or_root(
    root: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    calls: list[tuple[Path, bool]] = []
    monkeypatch.setattr(datasets, "MNIST", lambda root, download: calls.append((root, download)))
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path / "never"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = tmp_path / (root or "pyro_vae")

    with pytest.raises(FileNotFoundError, match="not found in"):  # as nothing was downloaded
        load("mnist", download=True, root=None if root is None else tmp_path / root)
    assert calls == [(place, True)]


def test_a_failed_download_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    def fail(root: Path, download: bool) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(datasets, "FashionMNIST", fail)
    with pytest.raises(FileNotFoundError, match=r"the download into .* failed: no network"):
        load("fashion-mnist", download=True, root=tmp_path)


def test_md5_sums_are_those_of_torchvision() -> None:
    from torchvision import datasets

    from pyro_vae.data.named import CLASSES, MD5

    for name, sums in MD5.items():
        listed = getattr(datasets, name).resources
        assert sums == dict(listed)
    assert list(CLASSES["FashionMNIST"]) == datasets.FashionMNIST.classes


# -- errors ---------------------------------------------------------------------------------------


def npy(path: Path, array: np.ndarray, cut: int = 0, **options: Any) -> Path:
    np.save(path / "a.npy", array, **options)
    os.truncate(path / "a.npy", (path / "a.npy").stat().st_size - cut)
    return path / "a.npy"


def exabyte(content: bytes) -> bytes:
    r"""The same file, with a header of the same length that promises more."""
    text, more = b"(30, 4), }", b"(10%s,), }" % (b"0" * 17)
    assert text + b" " * (len(more) - len(text)) in content
    return content.replace(text + b" " * (len(more) - len(text)), more)


def bomb(content: bytes) -> bytes:
    r"""The same archive, of which the directory promises four gigabytes."""
    place = content.rindex(b"PK\x01\x02") + 24
    return content[:place] + b"\xfe\xff\xff\xff" + content[place + 4 :]


def lzma_packed() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", b"")
    return file.getvalue()


def npz(path: Path, cut: int = 0, **arrays: Any) -> Path:
    np.savez(path / "a.npz", **arrays)
    os.truncate(path / "a.npz", (path / "a.npz").stat().st_size - cut)
    return path / "a.npz"


def table(text: str) -> Callable[[Path], Path]:
    return lambda path: write(path / "a.csv", text)


def named(path: Path, name: str, content: bytes) -> Path:
    (path / name).write_bytes(content)
    return path / name


def mnist(path: Path, *, packed: bool) -> Path:
    r"""A folder in the layout of MNIST with images that are not MNIST's."""
    raw = path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        content = idx(BYTES)
        name = f"{file}-ubyte.gz" if packed else f"{file}-ubyte"
        (raw / name).write_bytes(gzip.compress(content) if packed else content)
    return path


def static(path: Path, **arrays: Any) -> Path:
    (path / "binarized_mnist").mkdir()
    np.savez(path / "binarized_mnist" / "binarized_mnist.npz", **arrays)
    return path


class Ragged(Dataset[Any]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.zeros(index + 1)


class Empty(Ragged):
    def __len__(self) -> int:
        return 0


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(X)


class Words(Ragged):
    def __getitem__(self, index: int) -> Any:
        return object()


NAN = np.where(np.arange(120).reshape(30, 4) == 9, np.nan, X)

# name: what makes the source, the options, and what is said
ERRORS: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "unknown": (
        lambda _: "mnits",
        {},
        r"static-mnist, .* got 'mnits' \(did you mean 'mnist'",
    ),
    "unknown suffix": (
        lambda _: "a.txt",
        {},
        r"path that ends in .npy, .npz or .csv, or one of .*, got 'a.txt'$",
    ),
    "no user": (lambda _: "~nobody-here/a.npy", {}, "~nobody-here/a.npy: expected a file, got"),
    "no file": (lambda path: path / "no.csv", {}, r"no.csv: expected a file, got nothing in"),
    "folder": (lambda path: path.with_suffix(".npy"), {}, "expected a file, got nothing"),
    "empty file": (
        lambda path: named(path, "a.npz", b""),
        {},
        "a.npz: expected data, got an empty",
    ),
    "cut npy": (lambda path: npy(path, X, cut=5), {}, "a.npy: expected a whole .npy file"),
    "cut npz": (lambda path: npz(path, cut=50, x=X), {}, "a.npz: expected a whole .npz file"),
    "no npy": (lambda path: named(path, "a.npy", b"hello"), {}, "a.npy: .* of another kind"),
    "npz as npy": (
        lambda path: npz(path, x=X).rename(path / "a.npy"),
        {},
        r"a.npy: .* \(it is an .npz file\)",
    ),
    "npy as npz": (
        lambda path: npy(path, X).rename(path / "a.npz"),
        {},
        r"a.npz: .* \(it is an .npy file\)",
    ),
    "objects": (
        lambda path: npy(path, np.array([[{}]]), allow_pickle=True),
        {},
        "a.npy: .* never unpickled",
    ),
    "objects in memory": (lambda _: np.array([[{}]]), {}, "ndarray: .* numbers, got dtype object"),
    "objects in npz": (
        lambda path: npz(path, x=np.array([[{}]])),
        {},
        "a.npz: .* never unpickled",
    ),
    "bomb": (
        lambda path: named(path, "a.npz", bomb(npz(path, x=X).read_bytes())),
        {},
        "a.npz: .*'x.npy' promises more than can be packed in its bytes",
    ),
    "packing": (
        lambda path: named(path, "a.npz", lzma_packed()),
        {},
        "a.npz: .*'x.npy' is packed in a way that NumPy never does",
    ),
    "words": (lambda path: npy(path, np.array([["a"]])), {}, "a.npy: .* numbers, got dtype <U1"),
    "complex": (
        lambda _: torch.ones(3, 2) * 1j,
        {},
        "tensor: expected real numbers, got torch.comp",
    ),
    "masked": (
        lambda _: np.ma.masked_greater(X, 1.0),
        {},
        r"maskedarray: .* without a mask, .* got \d+ masked; fill them in by .filled\(…\)",
    ),
    "sparse": (
        lambda _: torch.eye(30).to_sparse(),
        {},
        r"tensor: expected a dense tensor in memory, got layout torch.sparse_coo; .*\.to_dense\(\)",
    ),
    "meta": (lambda _: torch.empty(3, 2, device="meta"), {}, "in memory, got one without values"),
    "split twice": (
        lambda _: {"train": X, "val": X, "valid": X},
        {},
        "dict: expected each split once, got train, val, valid",
    ),
    "split of shapes": (
        lambda _: {"train": X, "test": X[:, :2]},
        {},
        r"dict: expected rows of shape \(4,\) in test, as in train, got \(2,\)",
    ),
    "address": (
        lambda _: "https://a.org/b.npy",
        {},
        "or a path, got the address https://a.org/b.npy; download it first",
    ),
    "no dimension": (lambda _: np.array(1.0), {}, r"event_shape\), got a single number"),
    "no rows": (lambda path: npy(path, X[:0]), {}, r"a.npy: train: .* got shape \(0, 4\), empty"),
    "no features": (lambda _: X[:, :0], {}, r"train: .* got shape \(30, 0\), empty"),
    "NaN": (
        lambda path: npy(path, NAN),
        {},
        r"a.npy: train 'x': .* got 1 that are not, the first, nan, at \(2, 1\); .*--data.missing",
    ),
    "infinite": (lambda _: (X, np.where(Y == 1, np.inf, 0.5)), {}, "train 'y': .* finite"),
    "constant": (
        lambda path: npy(path, np.full((9, 2), 3)),
        {},
        "a.npy: expected values that vary, got 3 everywhere",
    ),
    "constant feature": (
        lambda _: np.c_[X, np.full(30, 0.1)],
        {"standardize": True},
        r"ndarray: expected features that vary .* got 1 constant ones, the first at \(4,\)",
    ),
    "lengths": (
        lambda path: npz(path, x=X, y=Y[:7]),
        {},
        r"a.npz: expected fields of one length in train, got \{'x': \(30,\), 'y': \(7,\)\}",
    ),
    "shapes": (
        lambda path: npz(path, train=X, test=X[:, :3]),
        {},
        r"a.npz: expected rows of shape \(4,\) in test, as in train, got \(3,\)",
    ),
    "keys": (lambda path: npz(path, a=X, b=X), {}, "a.npz: expected arrays 'train', .* got a, b"),
    "no arrays": (lambda path: npz(path), {}, "a.npz: expected a field 'x' in train, got none"),
    "no training": (lambda path: npz(path, valid=X, test=X), {}, "expected a field 'x' in train"),
    "no x": (lambda _: {"y": Y}, {}, "dict: expected a field 'x' in train, got y"),
    "three items": (lambda _: (X, X, Y), {}, r"tuple: expected \(x,\) or \(x, y\), got 3 items"),
    "ragged dataset": (lambda _: Ragged(), {}, "ragged: expected items .* tensors of one shape"),
    "empty dataset": (lambda _: Empty(), {}, "empty: expected rows, got an empty Dataset"),
    "stream": (lambda _: Stream(), {}, "stream: expected a Dataset with a length"),
    "object items": (lambda _: Words(), {}, "words: expected items .* got object items"),
    "share": (
        lambda _: X,
        {"test": 1.5},
        r"ndarray: expected a share for test in \[0, 1\), got 1.5",
    ),
    "shares": (
        lambda _: X,
        {"test": 0.5, "validation": 0.5},
        "rows left for training, got none of 30",
    ),
    "share of a split": (
        lambda path: npz(path, train=X, test=X),
        {"test": 0.1},
        "a.npz: the data have a test split; give no share",
    ),
    "option": (
        lambda _: "digits",
        {"label": "y"},
        "digits: the option 'label' .* only to .csv; leave",
    ),
    "option 2": (
        lambda _: X,
        {"download": True},
        "'download' means nothing .* mnist, fashion-mnist, torchvision's image sets;",
    ),
    "option 3": (
        lambda _: "digits",
        {"standardize": True},
        "'standardize' .* only to .* .npy, .npz",
    ),
    "option 4": (lambda _: load("digits"), {"test": 0.2}, "Data: the option 'test' means nothing"),
    "data": (
        lambda _: load("digits"),
        {"binarization": "static"},
        "digits: give binarization where the data are first loaded",
    ),
    "option 5": (lambda _: X, {"mmap": True}, "'mmap' means nothing here, only to .npy;"),
    "option 6": (lambda _: "digits", {"size": 3}, "'size' .* only to torchvision's .* folders"),
    "huge squares": (
        lambda path: npy(path, X * 1e200),
        {"standardize": True},
        "a.npy: expected features whose squares are numbers of double precision",
    ),
    "tiny squares": (
        lambda path: npy(path, X * 1e-200),
        {"standardize": True},
        "a.npy: expected features whose squares are numbers of double precision",
    ),
    "huge integers": (
        lambda _: np.array([[2**64 - 1], [0]], np.uint64),
        {},
        "ndarray: expected integers below",
    ),
    "promise of an exabyte": (
        lambda path: named(path, "a.npy", exabyte(npy(path, X).read_bytes())),
        {},
        "it promises 8000000000000000000 bytes of numbers, and has 960",
    ),
    "binarization": (
        lambda _: "digits",
        {"binarization": "always"},
        "binarization of 'none', 'static' or 'dynamic', got 'always'",
    ),
    "binary already": (
        lambda path: npy(path, np.eye(3)),
        {"binarization": "dynamic"},
        "a.npy: the data are binary already",
    ),
    "no levels": (
        lambda _: X * 0 + np.arange(30)[:, None] - 2.5,
        {"binarization": "static"},
        r"ndarray: expected levels \(uint8\) or numbers in \[0, 1\] .* got .*\[-2.5, 26.5\]",
    ),
    "both": (
        lambda _: RNG.uniform(size=(9, 2)),
        {"binarization": "static", "standardize": True},
        "ndarray: expected either standardize or binarization, got both",
    ),
    "csv empty cell": (
        table("a,b\n1,2\n1,\n"),
        {},
        r"a.csv: expected a value in row 3, column 2 \(b\), got an empty cell.*--data.missing true",
    ),
    "csv blank cell": (
        table("a,b\nu,  \nv,w\nu,w\n"),
        {},
        r"row 2, column 2 \(b\), got an empty cell",
    ),
    "csv empty line": (table("a\n1\n\n2\n"), {}, r"row 3, column 1 \(a\), got an empty cell"),
    "csv index": (table(",b\n0,1\n1,2\n"), {}, r"row 1, column 1 \(without a name\), got an empty"),
    "csv ragged": (table("a,b\n1,2\n1,2,3\n"), {}, "a.csv: expected 2 cells in row 3, .* got 3"),
    "csv of blanks": (table("\n\n"), {}, "a.csv: expected rows, got an empty file"),
    "csv header only": (table("a,b\n"), {}, "a.csv: expected rows below the header, got none"),
    "csv names": (table("a,a\n1,2\n3,4\n"), {}, "a.csv: .* different names, got 'a' twice"),
    "csv mixture": (
        table("a,b\n1,2\n1,3\n2,NA\n"),
        {},
        r"a.csv: column 'b': expected either numbers or words, got '2' in row 2 and 'NA' in row 4",
    ),
    "csv NaN": (
        table("a,b\n1,2\n2,nan\n"),
        {},
        "a.csv: column 'b': .* finite .* got 'nan' in row 3",
    ),
    "csv constant": (table("a,b\n1,2\n2,2.0\n"), {}, "column 'b': .* vary, got '2' everywhere"),
    "csv identifier": (
        table("a,b\n1,Ann\n2,Bob\n3,Eve\n"),
        {},
        "a.csv: column 'b': .* a few levels, got 3 words in 3 rows, the first 'Ann'; write numbers",
    ),
    "csv words that mostly differ": (
        table("a\n" + "".join(f"w{row}\n" for row in (*range(11), *range(10)))),
        {},
        "a.csv: column 'a': .* got 11 words in 21 rows, the first 'w0'; .* decimal points",
    ),
    "csv decimal commas": (
        table("a;b\n" + "1;-0,132\n2;1.000,5e3\n1;7\n" * 10),
        {},
        "a.csv: column 'b': expected decimal points, got '-0,132' in row 2; write numbers such",
    ),
    "csv decimal commas, no header": (
        table("".join(f"{row % 2},{row};-0,{row}\n" for row in range(100, 130))),
        {},
        "a.csv: column '2': .* got 30 words in 30 rows, the first '100;-0'; .* decimal points",
    ),
    "csv thousands": (table('a\n"1,234"\n"7,001"\n'), {}, "got '1,234' .* of thousands"),
    "csv levels": (
        table("a\n" + "".join(f"w{row}\n" for row in range(1001)) * 2),
        {},
        "a.csv: column 'a': expected at most 1000 levels, each of which is a feature, got 1001",
    ),
    "csv label": (
        table("a,b\n1,2\n2,3\n"),
        {"label": "c"},
        "a.csv: expected a column 'c', got a, b",
    ),
    "csv only label": (
        table("a\n1\n2\n"),
        {"label": "a"},
        "expected a column besides the label 'a'",
    ),
    "csv label of fractions": (
        table("a,b\n1,2.5\n2,3\n"),
        {"label": "b"},
        "a.csv: column 'b': expected labels, words or integers, got fractions",
    ),
    "csv encoding": (lambda path: named(path, "a.csv", b"a\n\xff\n"), {}, "a.csv: .* in UTF-8"),
    "csv quotes": (table('a,b\n1,"2\n3,4\n'), {}, "a.csv: expected a table in UTF-8, got"),
    "csv rare constant": (
        table("a,b\n" + "1,2\n" * 9 + "1,3\n2,2\n"),
        {"test": 0.5, "validation": 0},
        r"a.csv: expected features that vary among the training rows, got 1 .* the first at",
    ),
    "md5": (
        lambda _: "mnist",
        {"root": lambda path: mnist(path, packed=True)},
        "train-images-idx3-ubyte.gz: expected a file of md5 f68b3c2d.*, got",
    ),
    "not MNIST": (
        lambda _: "mnist",
        {"root": lambda path: mnist(path, packed=False)},
        r"images-idx3-ubyte: expected an array of shape \(60000, 28, 28\), got \(5, 3, 2\)",
    ),
    "static shape": (
        lambda _: "static-mnist",
        {"root": lambda path: static(path, train=BYTES)},
        r"binarized_mnist.npz: .* shape \(50000, 784\) in train, got shape \(5, 3, 2\)",
    ),
    "static split": (
        lambda _: "static-mnist",
        {"root": lambda path: static(path, train=np.zeros((50_000, 784), np.uint8), test=BYTES)},
        r"shape \(10000, 784\) in validation, got shape \(0,\)",
    ),
    "static values": (
        lambda _: "static-mnist",
        {"root": lambda path: static(path, train=np.full((50_000, 784), 2, np.uint8))},
        r"expected binary values of shape \(50000, 784\) in train",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_wrong_data_are_explained(name: str, tmp_path: Path) -> None:
    make, options, match = ERRORS[name]
    options = {key: value(tmp_path) if callable(value) else value for key, value in options.items()}

    with pytest.raises((ValueError, FileNotFoundError), match=match):
        load(make(tmp_path), **options)


def test_numbers_that_the_default_type_does_not_hold_are_refused(tmp_path: Path) -> None:
    path = npy(tmp_path, X * 1e100)
    assert load(path, validation=0, test=0).train["x"].equal(torch.from_numpy(X * 1e100))

    torch.set_default_dtype(torch.float32)
    with pytest.raises(ValueError, match=r"a.npy: train 'x': expected .* torch.float32 holds, got"):
        load(path)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.csv", "images"])
def test_files_without_permission_are_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = npy(tmp_path, X) if name == "a.npy" else npz(tmp_path, x=X)
    path = named(tmp_path, name, b"1,2") if name == "a.csv" else path
    if name == "images":
        path = named(tmp_path, "a.png", b"1")
        (tmp_path / name).mkdir()
        path = path.rename(tmp_path / name / "a.png")

    def refuse(file: Any, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)

    with pytest.raises(PermissionError, match=f"Permission denied: '{path}'"):
        load(tmp_path / name)


@pytest.mark.parametrize("source", [3, None, [[1.0, 2.0]], object()])
def test_other_types_are_refused(source: Any) -> None:
    with pytest.raises(TypeError, match=f"expected the name .* got {type(source).__name__}"):
        load(source)


IDX: dict[str, tuple[str, bytes, str]] = {
    "magic": (
        "a",
        b"\x89PNG\r\n",
        "a: expected an idx file .* 000008, got one that starts with 89504e",
    ),
    "type": (
        "a",
        idx(BYTES, code=13),
        "expected an idx file of unsigned bytes.* starts with 00000d03",
    ),
    "empty": ("a", b"", "starts with nothing"),
    "cut": (
        "a",
        idx(BYTES)[:-1],
        r"a: expected 46 bytes for shape \(5, 3, 2\), got 45; .* truncated",
    ),
    "cut header": ("a", idx(BYTES)[:10], "got 10; the file is truncated"),
    "too long": ("a", idx(BYTES) + b"0", r"expected 46 bytes for shape \(5, 3, 2\), got 47"),
    "cut gz": (
        "a.gz",
        gzip.compress(idx(BYTES))[:-9],
        "a.gz: expected a whole gzip file, .* truncated",
    ),
    "no gz": ("a.gz", idx(BYTES), "a.gz: expected a whole gzip file"),
    "damaged gz": ("a.gz", gzip.compress(idx(BYTES))[:-5] + b"12345", "a.gz: .* damaged"),
    "other gz": ("a.gz", gzip.compress(idx(BYTES)), "a.gz: expected a file of md5 00ff, got"),
}


@pytest.mark.parametrize("name", IDX)
def test_wrong_idx_files_are_explained(name: str, tmp_path: Path) -> None:
    file, content, match = IDX[name]

    with pytest.raises(ValueError, match=match):
        read_idx(named(tmp_path, file, content), md5="00ff")
