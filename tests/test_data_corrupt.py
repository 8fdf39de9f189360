r"""More than ten thousand malformed sources: a right result or an error of ours; nothing is run."""

import gzip
import io
import os
import pickle
import struct
import sys
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import Dataset

from pyro_vae.data import Data, load
from pyro_vae.data.idx import read_idx

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)), np.arange(12) % 3
LEVELS = RNG.integers(0, 256, (12, 2, 3), dtype=np.uint8)

# per kind; the sum is what the test is worth
EXAMPLES = {
    "npy": 2000,
    "mapped npy": 1500,
    "npz": 1800,
    "csv": 1500,
    "idx": 1200,
    "idx.gz": 800,
    "images": 600,
    "shards": 500,
    "arrays": 1200,
    "datasets": 400,
}


def many(kind: str) -> Any:
    r"""The same examples in each run, none of them made smaller, which takes long."""
    return settings(
        max_examples=EXAMPLES[kind],
        derandomize=True,
        database=None,
        deadline=10_000,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module", autouse=True)
def nothing_is_run_and_little_is_needed(marker: Path) -> Iterator[None]:
    import resource

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10

    before = peak()
    yield
    assert not marker.exists()
    assert peak() - before < 300  # MiB


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    r"""In memory where the system has such a place."""
    return tmp_path_factory.mktemp("corrupt")


@pytest.fixture(scope="module")
def marker() -> Path:
    return MARKER


MARKER = Path(f"/tmp/pyro-vae-executed-{os.getpid()}")


class Payload:
    r"""What makes a folder where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, (str(MARKER),)


def test_there_are_ten_thousand() -> None:
    assert sum(EXAMPLES.values()) >= 10_000


def test_the_payload_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "MARKER", tmp_path / "executed")
    pickle.loads(pickle.dumps(Payload()))

    assert (tmp_path / "executed").exists()


WORDS = ("expected ", "means nothing here", "are binary already", "give no share")


def outcome(call: Callable[[], Any]) -> Any:
    r"""What a call gives, or None and an error that is ours: raised by us, and in our words."""
    try:
        return call()
    except (ValueError, TypeError, FileNotFoundError) as caught:
        error = caught
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    assert str(frame.f_globals["__name__"]).startswith("pyro_vae.data"), repr(error)
    assert any(word in str(error) for word in WORDS), repr(error)
    return None


def check(data: Data | None) -> Data | None:
    r"""What was loaded can be trained on."""
    if data is None:
        return None
    for fields in data.splits.values():
        for field in fields.values():
            assert field.dtype in (torch.get_default_dtype(), torch.int64)
        if fields:
            assert bool(fields["x"][:].isfinite().all())
            low, high = data.value_range
            assert low <= float(fields["x"].min()) <= float(fields["x"].max()) <= high
    assert len(data.fingerprint) == 64
    assert data.log_jacobians(data.train["x"]).isfinite().all()
    return data


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "binarization": st.sampled_from(["none", "static", "dynamic"]),
        "standardize": st.booleans(),
        "validation": st.sampled_from([0, 0.1, 0.5]),
        "test": st.sampled_from([0, 0.3]),
    },
)


# -- bytes ----------------------------------------------------------------------------------------


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    r"""A file that was cut, overwritten, shifted or continued."""
    place = st.integers(0, len(content))
    junk = st.binary(min_size=1, max_size=9) | st.sampled_from(
        [b"\0" * 8, b"\xff" * 8, b"\x80\x04", b"PK\x03\x04", b"\x93NUMPY", b"\n", b"-1", b"9" * 12]
    )

    def overwritten(at: int, what: bytes) -> bytes:
        return content[:at] + what + content[at + len(what) :]

    return st.one_of(
        place.map(lambda at: content[:at]),
        st.builds(overwritten, place, junk),
        st.builds(overwritten, st.integers(0, min(140, len(content))), junk),
        st.builds(lambda at, what: content[:at] + what + content[at:], place, junk),
        st.builds(lambda at, to: content[: min(at, to)] + content[max(at, to) :], place, place),
        junk.map(lambda what: content + what),
        st.binary(max_size=60),
        st.sampled_from([pickle.dumps(Payload()), b"", content * 2, content[::-1]]),
    )


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(descr: str, fortran: str, shape: str, version: int, length: int | None) -> bytes:
    r"""A .npy file of twelve rows of three, whatever its header says."""
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    size = len(text) if length is None else length
    packed = struct.pack("<H", size % 2**16) if version == 1 else struct.pack("<I", size % 2**32)
    return b"\x93NUMPY" + bytes([version, 0]) + packed + text + X.tobytes()


TYPES = (
    "<f8 >f8 <f4 <f2 <i8 <u8 <u2 |u1 |b1 |O <U3 <c16 <M8[ns] |S1 |V8 <f16 os f8 <f8x " + "a" * 9999
)
DESCR = st.sampled_from([f"'{name}'" for name in TYPES.split(" ")]) | st.sampled_from(
    ["[('a', '<f8')]", "('<f8', (3,))", "None", "3", "__import__('os')", "[" * 90]
)
LENGTH = st.integers(-2, 40) | st.sampled_from([2**31, 2**40, 2**62, 2**63, 2**64, 10**30])
SHAPE = (
    st.lists(LENGTH, max_size=4).map(lambda lengths: str(tuple(lengths)))
    | st.integers(0, 80).map(lambda dims: str((1,) * dims))
    | st.sampled_from(["(12, 3)", "(36,)", "()", "[12, 3]", "12", "(True, 36)", "(3.0,)", "None"])
)
FORTRAN = st.sampled_from(["False", "True", "0", "'no'"])
NPY = st.one_of(
    damaged(npy(X)),
    damaged(npy(LEVELS)),
    st.builds(header, DESCR, FORTRAN, SHAPE, st.integers(0, 4), st.none() | st.integers(0, 2**33)),
    st.builds(header, st.just("'<f8'"), st.just("False"), SHAPE, st.just(1), st.none()),
    st.sampled_from(
        [
            npy(np.array([[Payload()]])),
            npy(np.full((3, 2), np.nan)),
            npy(np.array([[1.0, np.inf]])),
            npy(np.array([["a"]])),
            npy(X[:0]),
            npy(np.array(1.0)),
            npy(X * 1e300),
            npy(X.astype(np.longdouble)),
        ]
    ),
)


def rows_of(path: Path) -> np.ndarray:
    r"""What NumPy itself reads."""
    return np.asarray(np.load(path, allow_pickle=False))


@pytest.mark.filterwarnings("default::UserWarning:numpy")
@pytest.mark.parametrize("dtype", [torch.float32])
def test_npy(folder: Path, dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    path = folder / "a.npy"

    @many("npy")
    @given(NPY, OPTIONS)
    def run(content: bytes, options: dict[str, Any]) -> None:
        path.write_bytes(content)
        check(outcome(lambda: load(path, **options)))
        plain = check(outcome(lambda: load(path, validation=0, test=0)))
        if plain is not None:
            expected = torch.from_numpy(rows_of(path).astype(np.float64)).to(dtype)
            torch.testing.assert_close(plain.train["x"], expected, rtol=0, atol=0)

    run()


def test_mapped_npy(folder: Path) -> None:
    r"""The same is said, or read, as of a file that is read whole."""
    path = folder / "mapped.npy"

    @many("mapped npy")
    @given(NPY, OPTIONS)
    def run(content: bytes, options: dict[str, Any]) -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        mapped = check(outcome(lambda: load(path, mmap=True, **options)))
        known = outcome(lambda: load(path, mmap=False, **options))
        assert (mapped is None) == (known is None)
        if mapped is not None and known is not None:
            assert mapped.fingerprint == known.fingerprint

    run()


def npz(members: dict[str, bytes], compression: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def bomb(promised: int) -> bytes:
    r"""An archive whose directory promises more than there is."""
    content = bytearray(npz({"x.npy": header("'<f8'", "False", f"({promised // 8},)", 1, None)}, 8))
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = content.rindex(mark) + at
        content[place : place + 4] = struct.pack("<I", promised)
    return bytes(content)


NAMES = ("x.npy", "y.npy", "train.npy", "valid.npy", "test.npy", "x_train.npy", "y_test.npy", "u")
MEMBERS = st.dictionaries(st.sampled_from(NAMES), NPY | st.just(npy(X)), max_size=3)
NPZ = st.one_of(
    damaged(npz({"x.npy": npy(X), "y.npy": npy(Y)}, zipfile.ZIP_STORED)),
    damaged(npz({"train.npy": npy(X), "test.npy": npy(X)}, zipfile.ZIP_DEFLATED)),
    st.builds(npz, MEMBERS, st.sampled_from([0, 8, 8, 12, 14])),
    st.integers(1000, 2**32 - 1).map(bomb),
    st.sampled_from([npz({"x.npy": npy(np.zeros((2**18, 8)))}, 8), npy(X)]),
)


def test_npz(folder: Path) -> None:
    path = folder / "a.npz"

    @many("npz")
    @given(NPZ, OPTIONS)
    def run(content: bytes, options: dict[str, Any]) -> None:
        path.write_bytes(content)
        check(outcome(lambda: load(path, **options)))

    run()


CELL = st.sampled_from(
    ["1", "2.5", "-3e2", "nan", "inf", "1e999", "", " ", "a", "b", "yes", '"', "1_0"]
)
TABLE = st.one_of(
    damaged(b"a,b,c\n1,2,u\n3,5,v\n2,2,u\n7,1,v\n"),
    damaged(b"1;2\n3;4\n5;7\n"),
    st.builds(
        lambda rows, mark, end: end.join(mark.join(row) for row in rows).encode(),
        st.lists(st.lists(CELL, min_size=1, max_size=4), max_size=6),
        st.sampled_from([",", ";", "\t", " "]),
        st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
    ),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text(max_size=40).map(lambda text: text.encode("utf-16", "surrogatepass")),
)


def test_csv(folder: Path) -> None:
    path = folder / "a.csv"

    @many("csv")
    @given(TABLE, OPTIONS, st.sampled_from([None, "a", "1", ""]))
    def run(content: bytes, options: dict[str, Any], label: str | None) -> None:
        path.write_bytes(content)
        check(outcome(lambda: load(path, label=label, **options)))

    run()


def idx(code: int, lengths: list[int], items: bytes) -> bytes:
    packed = b"".join(struct.pack(">I", length) for length in lengths)
    return bytes([0, 0, code, len(lengths)]) + packed + items


IDX = st.one_of(
    damaged(idx(8, [12, 2, 3], LEVELS.tobytes())),
    st.builds(
        idx,
        st.sampled_from([8, 8, 8, 9, 13, 14]),
        st.lists(st.integers(0, 20) | st.integers(0, 2**32 - 1), max_size=200),
        st.binary(max_size=72),
    ),
)


def right(array: np.ndarray | None, content: bytes) -> None:
    if array is not None:
        assert content.endswith(array.tobytes())
        assert len(content) == 4 + 4 * content[3] + array.size


def test_idx(folder: Path) -> None:
    path = folder / "a-idx3-ubyte"

    @many("idx")
    @given(IDX)
    def run(content: bytes) -> None:
        path.write_bytes(content)
        right(outcome(lambda: read_idx(path)), content)

    run()


def test_idx_gz(folder: Path) -> None:
    path = folder / "a-idx3-ubyte.gz"
    zeros = gzip.compress(idx(8, [2**20], bytes(2**26)), mtime=0)  # of which a megabyte is promised

    packed = IDX.map(lambda content: gzip.compress(content, mtime=0))
    broken = damaged(gzip.compress(idx(8, [72], LEVELS.tobytes()), mtime=0))

    @many("idx.gz")
    @given(packed | broken | st.just(zeros))
    def run(content: bytes) -> None:
        path.write_bytes(content)
        found = outcome(lambda: read_idx(path))
        if found is not None:
            right(found, gzip.decompress(content))

    run()


def image(kind: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)).convert(mode)
    picture.save(file, format=kind)
    return file.getvalue()


PICTURES = [
    image(kind, mode)
    for kind, modes in {
        **{"png": ("RGB", "L", "P", "1", "RGBA"), "gif": ("P",)},
        **dict.fromkeys(("jpeg", "bmp", "tiff", "webp", "ppm"), ("RGB", "L")),
    }.items()
    for mode in modes
]
PICTURE = st.sampled_from(PICTURES).flatmap(damaged)


def test_images(folder: Path) -> None:
    place = folder / "images"
    place.mkdir()
    (place / "a.png").write_bytes(image("png"))

    @many("images")
    @given(
        PICTURE,
        st.sampled_from([".png", ".jpg", ".bmp", ".tiff", ".webp"]),
        st.none() | st.integers(1, 9),
    )
    def run(content: bytes, suffix: str, size: int | None) -> None:
        file = place / f"b{suffix}"
        file.write_bytes(content)
        data = check(outcome(lambda: load(place, size=size, validation=0, test=0)))
        assert data is None or len(data.train["x"]) == 2
        file.unlink()

    run()


def test_shards(folder: Path) -> None:
    place = folder / "shards"
    place.mkdir()
    (place / "a.npz").write_bytes(npz({"x.npy": npy(X), "y.npy": npy(Y)}, 8))

    @many("shards")
    @given(NPZ, st.booleans())
    def run(content: bytes, pattern: bool) -> None:
        (place / "b.npz").write_bytes(content)
        source = f"{place}/*.npz" if pattern else place
        data = check(outcome(lambda: load(source, validation=0, test=0)))
        assert data is None or torch.equal(data.train["x"][:12], torch.from_numpy(X))

    run()


# -- memory ---------------------------------------------------------------------------------------

DTYPES = st.one_of(
    arrays.scalar_dtypes(),
    arrays.floating_dtypes(),
    arrays.integer_dtypes(),
    arrays.unsigned_integer_dtypes(),
    arrays.boolean_dtypes(),
    arrays.complex_number_dtypes(),
    st.sampled_from([np.dtype(object), np.dtype(np.longdouble), np.dtype([("a", "f8")])]),
)
ARRAY = DTYPES.flatmap(
    lambda dtype: (
        st.just(np.array([[Payload(), 1]], dtype=object))
        if dtype.hasobject
        else arrays.arrays(
            dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
        )
    )
)


class Items(Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def test_arrays() -> None:
    as_tensor = st.builds(_tensor, ARRAY)

    @many("arrays")
    @given(
        st.one_of(
            ARRAY,
            as_tensor,
            st.tuples(ARRAY, ARRAY),
            st.lists(ARRAY, max_size=3),
            st.dictionaries(st.sampled_from(["x", "y", "u"]), ARRAY | as_tensor, max_size=3),
            st.recursive(
                st.none() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4
            ),
        ),
        OPTIONS,
    )
    def run(source: Any, options: dict[str, Any]) -> None:
        if isinstance(source, str):
            source = f"{source}.txt"
        check(outcome(lambda: load(source, **options)))

    run()


def _tensor(array: np.ndarray) -> Any:
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError):
        return torch.arange(6.0).reshape(3, 2)


class Table:
    r"""What ``datasets.Dataset`` is to us."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.columns, self.column_names = columns, list(columns)

    def with_format(self, kind: str) -> "Table":
        return self

    def __getitem__(self, column: str) -> Any:
        return self.columns[column]


def test_datasets() -> None:
    plain = st.sampled_from([torch.ones(3), torch.arange(3.0), None, "a", 3])
    item = ARRAY | plain | st.tuples(ARRAY, st.integers(0, 3)) | st.dictionaries(st.text(), plain)
    column = st.lists(item, max_size=4) | ARRAY

    @many("datasets")
    @given(
        st.lists(item, max_size=4).map(Items)
        | st.dictionaries(st.sampled_from(["x", "image", "label", "u"]), column, max_size=3).map(
            Table
        ),
        OPTIONS,
    )
    def run(source: Any, options: dict[str, Any]) -> None:
        check(outcome(lambda: load(source, **options)))

    run()
