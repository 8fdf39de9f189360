r"""Real files: those that are in the folder PYRO_VAE_DATA, or else in the user's cache."""

import gzip
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae.data import Data, load
from pyro_vae.data.named import CLASSES, MD5
from pyro_vae.data.places import find

Facts = dict[str, tuple[list[int], float]]

# per split: the number of images of each class, and the sum of all levels
MNIST: Facts = {
    "train": ([4932, 5678, 4968, 5101, 4859, 4506, 4951, 5175, 4842, 4988], 1_309_089_051),
    "validation": ([991, 1064, 990, 1030, 983, 915, 967, 1090, 1009, 961], 258_209_494),
    "test": ([980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009], 264_923_200),
}
FASHION: Facts = {
    "train": ([4977, 5012, 4992, 4979, 4950, 5004, 5030, 5045, 5032, 4979], 2_853_847_097),
    "validation": ([1023, 988, 1008, 1021, 1050, 996, 970, 955, 968, 1021], 577_267_072),
    "test": ([1000] * 10, 573_469_082),
}


def real(name: str) -> Data:
    r"""Real data in single precision, or a reason to skip."""
    torch.set_default_dtype(torch.float32)
    try:
        return load(name)
    except FileNotFoundError as error:
        pytest.skip(f"real files are absent: {error}")


@pytest.mark.parametrize(
    "name, folder, facts, mean",
    [
        ("mnist", "MNIST", MNIST, 0.1307),  # the means that everybody normalises by
        ("fashion-mnist", "FashionMNIST", FASHION, 0.2860),
    ],
)
def test_mnist(name: str, folder: str, facts: Facts, mean: float) -> None:
    data = real(name)

    for split, fields in data.splits.items():
        histogram, total = facts[split]
        assert fields["x"].shape == (sum(histogram), 1, 28, 28)
        assert fields["y"].bincount().tolist() == histogram
        assert fields["x"].sum(dtype=torch.float64) == total
    assert [sum(histogram) for histogram, _ in facts.values()] == [50_000, 10_000, 10_000]

    whole = (facts["train"][1] + facts["validation"][1]) / (60_000 * 784 * 255)
    assert whole == pytest.approx(mean, abs=5e-5)
    assert data.value_range == (0, 255)
    assert data.natural.total_count == 255
    assert data.classes == CLASSES[folder]


def test_the_files_of_mnist_have_their_md5_and_stay_alone() -> None:
    real("mnist")
    paths = find("mnist", "MNIST/raw", list(MD5["MNIST"]), None)
    folder = next(iter(paths.values())).parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    for name, path in paths.items():
        if path.suffix == ".gz":
            assert hashlib.md5(path.read_bytes()).hexdigest() == MD5["MNIST"][name]
    load("mnist")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_mnist_is_read_unpacked_too(tmp_path: Path) -> None:
    data = real("mnist")
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    for name, path in find("mnist", "MNIST/raw", list(MD5["MNIST"]), None).items():
        if path.suffix == ".gz" and name.startswith("t10k"):
            (tmp_path / "MNIST/raw" / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        else:
            (tmp_path / "MNIST/raw" / path.name).symlink_to(path)

    torch.testing.assert_close(load("mnist", root=tmp_path).test, data.test)


def test_mnist_with_a_truncated_file_is_refused(tmp_path: Path) -> None:
    real("mnist")
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    for path in find("mnist", "MNIST/raw", list(MD5["MNIST"]), None).values():
        shutil.copyfile(path, tmp_path / "MNIST/raw" / path.name)
    labels = next((tmp_path / "MNIST/raw").glob("t10k-labels*"))
    labels.write_bytes(labels.read_bytes()[:-100])

    with pytest.raises(ValueError, match=r"t10k-labels.*truncated"):
        load("mnist", root=tmp_path)


def test_static_mnist_has_mnists_test_images_sorted_by_digit() -> None:
    r"""Black pixels are 0 and white ones 1 in every draw, which tells the images apart."""
    static, mnist = real("static-mnist"), real("mnist")
    order = mnist.test["y"].argsort(stable=True)
    x, levels = static.test["x"], mnist.test["x"][order]

    assert not ((levels == 0) & (x == 1)).any()
    assert not ((levels == 255) & (x == 0)).any()
    shifted = levels.roll(1, dims=0)
    assert ((shifted == 0) & (x == 1)).flatten(1).any(dim=1).double().mean() > 0.99


def test_static_mnist() -> None:
    data = real("static-mnist")

    assert [len(fields["x"]) for fields in data.splits.values()] == [50_000, 10_000, 10_000]
    sums = [int(fields["x"].sum()) for fields in data.splits.values()]
    assert sums == [5_118_041, 1_028_036, 1_038_896]
    assert [list(fields) for fields in data.splits.values()] == [["x"]] * 3
    assert type(data.natural).__name__ == "Bernoulli"
    assert data.event_shape == (1, 28, 28)


def test_static_mnist_is_binary_already() -> None:
    real("static-mnist")

    with pytest.raises(ValueError, match=r"binarized_mnist.npz: the data are binary already"):
        load("static-mnist", binarization="dynamic")


def test_binarised_mnist_has_the_mean_of_its_levels() -> None:
    r"""Larochelle's draw and a draw of ours, by 4 standard errors: fails once in 16,000 seeds."""
    static, levels = real("static-mnist"), real("mnist")
    p = levels.test["x"].double() / 255
    error = (p * (1 - p)).sum().sqrt() / p.numel()
    draw = load("mnist", binarization="dynamic").epoch("test")["x"]

    for x in (static.test["x"], draw):
        assert abs(x.double().mean() - p.mean()) < 4 * error


def test_galaxies_are_restored_and_their_density_is_that_of_kilometres_per_second() -> None:
    try:
        path = find("galaxies", "galaxies", ["galaxies.csv"], None)["galaxies.csv"]
    except FileNotFoundError as error:
        pytest.skip(f"real files are absent: {error}")
    data = load(path, validation=0, test=0)
    restored = data.restore(data.train["x"])

    assert restored.sum().item() == pytest.approx(1_708_180)
    assert restored.square().sum().item() == pytest.approx(37_274_185_424)
    variance = 37_274_185_424 / 82 - (1_708_180 / 82) ** 2
    assert data.log_jacobians(data.train["x"]) == pytest.approx(-np.log(variance) / 2)
