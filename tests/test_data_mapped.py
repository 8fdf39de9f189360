r"""Rows that stay on disk: the same as those in memory, bit for bit, whoever reads them."""

import copy
import gc
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from pyro_vae import evaluate, fit
from pyro_vae.checks import check_rows
from pyro_vae.data import Data, batches, lazy, load
from pyro_vae.data.lazy import Lazy
from pyro_vae.evaluation import encode, independent_evidence
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 256, (211, 3, 5), dtype=np.uint8)
REALS = RNG.normal(size=(211, 3, 5)) * 40 + 7

ARRAYS: dict[str, np.ndarray] = {
    "levels": LEVELS,
    "bits": LEVELS < 80,
    "doubles": REALS,
    "singles": REALS.astype(np.float32),
    "halves": REALS.astype(np.float16),
    "counts": LEVELS.astype(np.int32),
    "foreign byte order": REALS.astype(">f8"),
    "columns first": np.asfortranarray(REALS),
    "numbers": REALS[:, 0, 0],
    "shares": LEVELS / 255,
}


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    r"""So that a small file is read in many pieces."""
    monkeypatch.setattr(lazy, "CHUNK", 300)


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def both(path: Path, array: np.ndarray, **options: Any) -> tuple[Data, Data]:
    r"""The same file, in memory and mapped."""
    np.save(path / "a.npy", array)
    return (load(path / "a.npy", mmap=False, **options), load(path / "a.npy", mmap=True, **options))


def assert_same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


KINDS = [
    *((name, {}) for name in ARRAYS),
    *((name, {"standardize": True}) for name in ("levels", "doubles", "halves", "numbers")),
    *((name, {"binarization": "static", "seed": 3}) for name in ("levels", "shares")),
    *((name, {"binarization": "dynamic"}) for name in ("levels", "shares")),
    ("levels", {"validation": 0.3, "test": 0.0, "seed": 5}),
]


@pytest.mark.parametrize("name, options", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mapped_rows_are_those_in_memory(
    name: str, options: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    torch.set_default_dtype(dtype)
    known, data = both(tmp_path, ARRAYS[name], **options)

    for split, fields in data.splits.items():
        if fields:
            assert isinstance(fields["x"], Lazy)
            assert fields["x"].dtype == dtype
            assert_same(fields["x"].read(), known.splits[split]["x"])
            one, other = (d.epoch(split, Generator().manual_seed(4)) for d in (data, known))
            assert_same(one["x"][:], other["x"])
    assert type(data.natural) is type(known.natural)
    assert data.value_range == known.value_range
    x = data.train["x"][:3]
    assert torch.equal(data.log_jacobians(x), known.log_jacobians(x))
    assert data.event_shape == known.event_shape
    assert data.fingerprint == known.fingerprint
    x = known.train["x"][:3]
    assert_same(data.restore(x), known.restore(x))


@pytest.mark.parametrize("name", ["levels", "doubles", "columns first", "numbers"])
def test_features_are_standardised_piece_by_piece(name: str, tmp_path: Path) -> None:
    plain, _ = both(tmp_path, ARRAYS[name].astype(float))
    _, data = both(tmp_path, ARRAYS[name], standardize=True)
    train = plain.train["x"]

    assert data.standardization is not None
    torch.testing.assert_close(data.standardization.loc, train.mean(0))
    torch.testing.assert_close(data.standardization.scale, train.std(0, correction=0))


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("options", [{}, {"binarization": "dynamic"}, {"standardize": True}])
def test_batches_are_the_same_whoever_reads_them(
    workers: int, start: int, options: dict[str, Any], tmp_path: Path
) -> None:
    known, data = both(tmp_path, LEVELS, **options)
    first, second = Generator().manual_seed(3), Generator().manual_seed(3)
    state = torch.get_rng_state()
    expected = list(batches(known.epoch("train", first), 32, generator=first))
    found = list(data.batches("train", 32, generator=second, start=start, workers=workers))

    assert len(found) == len(expected) - start
    assert_same(found, expected[start:])
    assert_same(first.get_state(), second.get_state())
    assert_same(torch.get_rng_state(), state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"binarization": "dynamic"}, {"standardize": True}])
def test_batches_are_the_same_on_an_accelerator(
    workers: int, options: dict[str, Any], tmp_path: Path
) -> None:
    for data in both(tmp_path, LEVELS, **options):
        first, second = Generator().manual_seed(3), Generator().manual_seed(3)
        expected = list(data.batches("train", 32, generator=first))
        found = list(data.batches("train", 32, generator=second, workers=workers, device="cuda"))
        assert {batch["x"].device.type for batch in found} == {"cuda"}
        assert_same([{k: v.cpu() for k, v in batch.items()} for batch in found], expected)


def test_an_epoch_may_be_left_early(tmp_path: Path) -> None:
    _, data = both(tmp_path, LEVELS)
    found = data.batches("train", 8, workers=2)

    assert next(found)["x"].shape == (8, 3, 5)
    del found


def test_rows_that_are_sent_to_a_process_are_read_anew(tmp_path: Path) -> None:
    r"""What is sent to them holds no rows, and knows the default type of the parent."""
    known, data = both(tmp_path, LEVELS, binarization="dynamic")
    x = data.epoch("train", Generator().manual_seed(1))["x"]
    assert isinstance(x, Lazy)
    sent = [pickle.dumps(rows) for rows in (x.rows, data.train["x"].rows)]  # type: ignore[attr-defined]
    torch.set_default_dtype(torch.float32)

    for content, expected in zip(sent, (x, known.train["x"]), strict=True):
        assert len(content) < 5000
        assert_same(pickle.loads(content).take(slice(0, 50)), expected[:50])


def test_drawn_bits_go_when_they_are_done_with(tmp_path: Path, own_temporary_folder: Path) -> None:
    _, data = both(tmp_path, LEVELS, binarization="dynamic")
    size = [sum(f.stat().st_size for f in own_temporary_folder.iterdir())]
    fields = data.epoch("train", Generator().manual_seed(1))
    size.append(sum(f.stat().st_size for f in own_temporary_folder.iterdir()))
    del fields
    gc.collect()

    rows = len(data.train["x"])
    assert size == [0, rows * 2]  # 15 features of a bit each
    assert list(own_temporary_folder.iterdir()) == []


def test_only_large_files_are_mapped_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", LEVELS)
    assert type(load(tmp_path / "a.npy").train["x"]) is Tensor
    assert load(tmp_path / "a.npy").record["mapped"] is False

    monkeypatch.setattr("pyro_vae.data.sources.LARGE", 3000)
    assert type(load(tmp_path / "a.npy").train["x"]) is Lazy
    assert load(tmp_path / "a.npy").record["mapped"] is True


def test_mapped_data_stay_where_they_are(tmp_path: Path) -> None:
    _, data = both(tmp_path, LEVELS)
    moved = data.to("meta")

    assert moved.train["x"] is data.train["x"]
    batch = next(moved.batches("train", 8, device="meta"))
    assert batch["x"].device.type == "meta"
    assert batch["x"].shape == (8, 3, 5)


# -- as a tensor ----------------------------------------------------------------------------------

USES: dict[str, Callable[[Tensor], Any]] = {
    "first": lambda x: x[0],
    "last": lambda x: x[-1],
    "slice": lambda x: x[3:17],
    "steps": lambda x: x[1:40:7],
    "from the end": lambda x: x[-5:],
    "nothing": lambda x: x[9:4],
    "index": lambda x: x[torch.tensor([5, 0, -1, 5])],
    "mask": lambda x: x[torch.arange(len(x)) % 3 == 0],
    "tuple": lambda x: x[2, 1],
    "tuple of slices": lambda x: x[2:4, :, 1],
    "ellipsis": lambda x: x[..., 0],
    "index_select": lambda x: x.index_select(0, torch.tensor([3, 1])),
    "split": lambda x: [part + 0 for part in x.split(50)],
    "split of features": lambda x: x.split(2, dim=-1),
    "chunk": lambda x: x.chunk(3),
    "to": lambda x: x.to(torch.float16)[:4],
    "to another place": lambda x: x.to("cpu", torch.float16),
    "sum": lambda x: x.sum(),
    "flatten": lambda x: x.flatten(1),
    "arithmetic": lambda x: 1 - 2 * x,
    "function": lambda x: torch.cat([x, x]),
    "numpy": lambda x: torch.from_numpy(x.numpy()),
    "asarray": lambda x: torch.from_numpy(np.asarray(x)),
    "list": lambda x: torch.tensor(x.tolist()),
    "iteration": lambda x: list(x)[7],
    "length": lambda x: len(x),
    "split again": lambda x: x.split(40)[1].split(15)[1][4:],
    "rows of a part": lambda x: x.split(40)[1][torch.tensor([3, -1, 0])],
    "shape": lambda x: [*x.shape, x.dim(), x.numel(), x.device == torch.device("cpu")],
    "deepcopy": lambda x: copy.deepcopy(x)[:3],
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", USES)
def test_mapped_rows_are_used_like_a_tensor(name: str, split: str, tmp_path: Path) -> None:
    known, data = both(tmp_path, LEVELS, validation=0, test=0.5)
    found, expected = (USES[name](d.splits[split]["x"]) for d in (data, known))  # type: ignore[index]

    if isinstance(expected, Tensor):
        assert type(found) is Tensor
    assert_same(found, expected)


def test_whole_files_are_used_like_a_tensor(tmp_path: Path) -> None:
    known, data = both(tmp_path, LEVELS, validation=0, test=0)  # no order of their own

    for name, use in USES.items():
        assert_same(use(data.train["x"]), use(known.train["x"])), name


def test_a_row_that_is_not_there_is_an_index_error(tmp_path: Path) -> None:
    _, data = both(tmp_path, LEVELS, validation=0, test=0)

    for row in (211, -212):
        with pytest.raises(IndexError, match=f"expected a row of 211, got {row}"):
            data.train["x"][row]


def test_a_mapped_file_is_not_written_to(tmp_path: Path) -> None:
    _, data = both(tmp_path, LEVELS)
    before = (tmp_path / "a.npy").read_bytes()
    data.train["x"][:8].zero_()
    next(data.batches())["x"].zero_()

    assert (tmp_path / "a.npy").read_bytes() == before


# -- training and evaluation ----------------------------------------------------------------------


def pair(data: Data) -> tuple[VAE, AmortizedNormal]:
    torch.manual_seed(0)
    shape = data.event_shape
    return VAE(shape, latents=2, likelihood=data.likelihood), AmortizedNormal(shape, {"z": 2})


@pytest.mark.parametrize("options", [{}, {"binarization": "dynamic"}, {"standardize": True}])
def test_training_and_evaluation_are_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    histories, estimates, codes = [], [], []
    for data in both(tmp_path, LEVELS, **options):
        model, guide = pair(data)
        run = fit(model, guide, data, epochs=2, batch_size=32, progress=False)
        histories.append(run.history)
        found = evaluate(model, guide, data, particles=10, batch_size=8)
        estimates.append({name: float(value) for name, value in found.items()})
        codes.append(encode(model, guide, data, batch_size=8))

    for one, other in (histories, estimates, codes):
        assert str(one) == str(other)


def test_evaluation_reads_no_more_than_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, data = both(tmp_path, LEVELS, validation=0, test=0.9)
    sizes = []
    take = lazy.Rows.take

    def noted(self: Any, index: Any) -> Tensor:
        found = take(self, index)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(lazy.Rows, "take", noted)
    monkeypatch.setattr("pyro_vae.checks.rows._CHUNK", 300)
    model, guide = pair(data)
    evaluate(model, guide, data, particles=3, batch_size=16)
    encode(model, guide, data, batch_size=16)
    assert check_rows(model, guide, data.test["x"]) == []
    independent_evidence(data.natural, data.train["x"], data.test["x"])
    assert max(sizes) <= 20  # a chunk is 300 elements, of 15 a row


def test_mapped_rows_outside_a_support_are_found(tmp_path: Path) -> None:
    counts = LEVELS.astype(np.int32)
    counts[150, 1, 2] = 300
    _, data = both(tmp_path, counts, validation=0, test=0)
    levels = load(LEVELS)
    model, guide = pair(levels)

    (finding,) = check_rows(model, guide, data.train["x"])
    assert "first in row 150" in finding.message


@pytest.mark.parametrize(
    "content, match",
    [
        (np.where(np.arange(211)[:, None, None] == 200, np.nan, REALS), r"nan, at \(200, 0, 0\)"),
        (np.ones((300, 4)), "values that vary, got 1 everywhere"),
        (REALS[:0], r"a.npy: expected rows of values, got shape \(0, 3, 5\)"),
        (np.array(3.0), r"a.npy: expected rows of values, got shape \(\)"),
        (np.array([[{}]]), "a.npy: .* never unpickled"),
        (np.array([["a"]]), "a.npy: .* no numbers, got dtype <U1"),
        (np.full((9, 2), 2**63, np.uint64), "a.npy: expected integers below"),
    ],
)
def test_wrong_files_are_not_mapped(content: np.ndarray, match: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", content)

    with pytest.raises(ValueError, match=match):
        load(tmp_path / "a.npy", mmap=True)


def test_a_truncated_file_is_not_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", REALS)
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:-1])

    with pytest.raises(
        ValueError, match=r"a.npy: .*it promises 25320 bytes of numbers, and has 25319"
    ):
        load(tmp_path / "a.npy", mmap=True)


# -- larger than memory ---------------------------------------------------------------------------

SCRIPT = r"""
import resource, sys
import torch
from pyro_vae import evaluate, fit
from pyro_vae.data import load
from pyro_vae.evaluation import independent_evidence
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.nn import mlp

def trained(data):
    model = VAE(data.event_shape, 1, likelihood=data.likelihood, decoder=mlp(1, 2**12, ()))
    guide = AmortizedNormal(data.event_shape, {"z": 1}, encoder=mlp(2**12, 2, ()))
    fit(model, guide, data, epochs=1, batch_size=128, progress=False)
    return evaluate(model, guide, data, particles=2, batch_size=128)["elbo"]

torch.set_num_threads(1)
trained(load(torch.rand(256, 2**12)))  # imports what it needs
with open("/proc/self/status") as file:
    status = dict(line.split(":", 1) for line in file)
limit = (int(status["VmData"].split()[0]) + 200 * 2**10) * 2**10
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

try:
    load(sys.argv[1], mmap=False)
    raise SystemExit("the limit does not hold")
except ValueError as error:
    assert "allocate" in str(error), error
for options in {"standardize": True}, {"binarization": "dynamic"}:
    data = load(sys.argv[1], mmap=True, **options)
    rows = sum(len(batch["x"]) for batch in data.batches("train", 128, workers=2))
    assert rows == len(data.train["x"]), rows
    independent_evidence(data.natural, data.epoch("train")["x"], data.epoch("test")["x"])
    assert len(data.fingerprint) == 64
    trained(data)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc are Linux's")
def test_a_file_larger_than_memory_is_trained_on(tmp_path: Path) -> None:
    r"""262 MB, most of them holes, where 200 MB may be had."""
    path = tmp_path / "big.npy"
    array = np.lib.format.open_memmap(path, "w+", np.float64, (8000, 2**12))
    array[::500] = RNG.random((16, 2**12))
    array.flush()
    del array

    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, path],
        capture_output=True,
        text=True,
        timeout=300,
        env={
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": ":".join(sys.path),
            "TMPDIR": str(tmp_path),
            # glibc else keeps what was freed, in pieces that are too small for the next batch
            "MALLOC_MMAP_THRESHOLD_": "1000000",
        },
    )
    assert run.returncode == 0, run.stderr
