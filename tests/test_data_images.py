r"""Images: torchvision's sets in small, folders, and what is said about damaged ones."""

import bz2
import hashlib
import json
import lzma
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from pyro_vae.data import NAMES, load
from pyro_vae.data.vision import SETS

RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
TEST = RNG.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
VALID = RNG.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
LABELS = {"train": [0, 1, 0, 1, 1, 0], "test": [1, 0, 1, 1], "validation": [1, 0]}
ARRAYS = {"train": TRAIN, "test": TEST, "validation": VALID}


def png(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, format="png")  # whatever it is called
    return path


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def trusting(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    r"""Has a class take any file for the published one."""
    monkeypatch.setattr(
        f"torchvision.datasets.{module}.check_integrity",
        lambda path, md5=None: os.path.isfile(path),
    )


# -- the sets of torchvision, in small ------------------------------------------------------------


def idx(path: Path, array: np.ndarray, code: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = b"".join(struct.pack(">I", length) for length in array.shape)
    path.write_bytes(bytes([0, 0, code, array.ndim]) + shape + array.tobytes())


def mnist_like(root: Path, folder: str, names: Callable[[str, str], str], wide: bool) -> None:
    for split in ("train", "test"):
        labels = np.array(LABELS[split], np.uint8)
        if wide:  # qmnist has eight numbers for each label
            labels = np.pad(labels[:, None], ((0, 0), (0, 7))).astype(">i4")
        idx(root / folder / "raw" / names(split, "images"), ARRAYS[split][..., 0])
        idx(root / folder / "raw" / names(split, "labels"), labels, 12 if wide else 8)


def kmnist(root: Path, _: Any) -> None:
    prefix = {"train": "train", "test": "t10k"}
    mnist_like(
        root, "KMNIST", lambda s, k: f"{prefix[s]}-{k}-idx{3 - 2 * (k[0] == 'l')}-ubyte", False
    )


def emnist(name: str) -> Callable[[Path, Any], None]:
    return lambda root, _: mnist_like(
        root,
        "EMNIST",
        lambda s, k: f"emnist-{name}-{s}-{k}-idx{3 - 2 * (k[0] == 'l')}-ubyte",
        False,
    )


def qmnist(root: Path, _: Any) -> None:
    names = {"images": "images-idx3-ubyte", "labels": "labels-idx2-int"}
    mnist_like(root, "QMNIST", lambda s, k: f"qmnist-{s}-{names[k]}", True)


def cifar(kind: str, folder: str, key: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def make(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (root / folder).mkdir()
        known: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
        for split in ("train", "test"):
            x = np.pad(ARRAYS[split], ((0, 0), (0, 24), (0, 24), (0, 0)))  # 32 by 32
            rows = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
            content = pickle.dumps({"data": rows, key: LABELS[split]})
            (root / folder / split).write_bytes(content)
            known[f"{split}_list"].append([split, hashlib.md5(content).hexdigest()])
        names = "label_names" if key == "labels" else "fine_label_names"
        content = pickle.dumps({names: ["cat", "dog"]})
        (root / folder / "meta").write_bytes(content)
        meta = {"filename": "meta", "key": names, "md5": hashlib.md5(content).hexdigest()}
        for name, value in {**known, "meta": meta}.items():
            monkeypatch.setattr(getattr(datasets, kind), name, value)

    return make


def svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusting(monkeypatch, "svhn")
    for split in ("train", "test"):
        y = np.array(LABELS[split])[:, None]
        savemat(root / f"{split}_32x32.mat", {"X": ARRAYS[split].transpose(1, 2, 3, 0), "y": y})


def stl10(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusting(monkeypatch, "stl10")
    folder = root / "stl10_binary"
    folder.mkdir()
    for file in ("unlabeled_X.bin", "fold_indices.txt"):
        (folder / file).touch()
    text(folder / "class_names.txt", "cat\ndog\n")
    for split in ("train", "test"):
        x = np.pad(ARRAYS[split], ((0, 0), (0, 88), (0, 88), (0, 0)))  # 96 by 96, columns first
        x.transpose(0, 3, 2, 1).tofile(folder / f"{split}_X.bin")
        (np.array(LABELS[split], np.uint8) + 1).tofile(folder / f"{split}_y.bin")


def usps(root: Path, _: Any) -> None:
    for split, name in {"train": "usps.bz2", "test": "usps.t.bz2"}.items():
        x = np.pad(ARRAYS[split][..., 0], ((0, 0), (0, 8), (0, 8)))
        rows = (x.reshape(len(x), -1) + 0.5) / 255 * 2 - 1
        lines = [
            " ".join([str(y + 1), *(f"{i}:{v:.6f}" for i, v in enumerate(row, 1))])
            for y, row in zip(LABELS[split], rows, strict=True)
        ]
        (root / name).write_bytes(bz2.compress("\n".join(lines).encode()))


def semeion(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusting(monkeypatch, "semeion")
    x = (np.pad(TRAIN[..., 0], ((0, 0), (0, 8), (0, 8))) > 100).reshape(len(TRAIN), -1)
    np.savetxt(root / "semeion.data", np.c_[x, np.eye(10)[LABELS["train"]]], fmt="%d")


def omniglot(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusting(monkeypatch, "omniglot")
    for split, name in {"train": "background", "test": "evaluation"}.items():
        folder = root / "omniglot-py"
        text(folder / f"images_{name}.zip", "")
        for row, (x, y) in enumerate(zip(ARRAYS[split], LABELS[split], strict=True)):
            png(folder / f"images_{name}/Greek/character{y}/{row}.png", x[..., 0])


def in_classes(
    folder: str, names: dict[str, str], classes: tuple[str, str], suffix: str = ".png"
) -> Callable[[Path, Any], None]:
    r"""A folder for each split, if there are splits, and in it one for each class."""

    def make(root: Path, _: Any) -> None:
        for split, name in names.items():
            for row, (x, y) in enumerate(zip(ARRAYS[split], LABELS[split], strict=True)):
                png(root / folder / name / classes[y] / f"{row}{suffix}", x)

    return make


def caltech101(root: Path, _: Any) -> None:
    for row, (x, y) in enumerate(zip(TRAIN, LABELS["train"], strict=True)):
        name = ("ant", "bee")[y]
        place = root / "caltech101/101_ObjectCategories" / name
        png(place / f"image_{LABELS['train'][:row].count(y) + 1:04}.jpg", x)
        (root / "caltech101/Annotations").mkdir(exist_ok=True)
    (root / "caltech101/101_ObjectCategories/BACKGROUND_Google").mkdir()


def caltech256(root: Path, _: Any) -> None:
    for row, (x, y) in enumerate(zip(TRAIN, LABELS["train"], strict=True)):
        name = ("001.ant", "002.bee")[y]
        count = LABELS["train"][:row].count(y) + 1
        place = root / "caltech256/256_ObjectCategories" / name
        png(place / f"{y + 1:03}_{count:04}.jpg", x)


def celeba(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusting(monkeypatch, "celeba")
    rows = [(s, x, y) for s in ARRAYS for x, y in zip(ARRAYS[s], LABELS[s], strict=True)]
    names = [f"{row:06}.jpg" for row in range(len(rows))]
    for name, (_, x, _) in zip(names, rows, strict=True):
        png(root / "celeba/img_align_celeba" / name, x)
    code = {"train": 0, "validation": 1, "test": 2}
    parts = [f"{name} {code[s]}" for name, (s, _, _) in zip(names, rows, strict=True)]
    people = [f"{name} {y}" for name, (_, _, y) in zip(names, rows, strict=True)]
    text(root / "celeba/list_eval_partition.txt", "\n".join(parts))
    text(root / "celeba/identity_CelebA.txt", "\n".join(people))
    for file in ("list_bbox_celeba", "list_landmarks_align_celeba", "list_attr_celeba"):
        table = [str(len(rows)), "a b", *(f"{name} 1 -1" for name in names)]
        text(root / f"celeba/{file}.txt", "\n".join(table))


def clevr(root: Path, _: Any) -> None:
    folder = root / "clevr/CLEVR_v1.0"
    for split, name in {"train": "train", "validation": "val", "test": "test"}.items():
        scenes = []
        for row, (x, y) in enumerate(zip(ARRAYS[split], LABELS[split], strict=True)):
            file = png(folder / f"images/{name}/{row}.png", x)
            scenes.append({"image_filename": file.name, "objects": [0] * y})
        text(folder / f"scenes/CLEVR_{name}_scenes.json", json.dumps({"scenes": scenes}))


def dtd(root: Path, _: Any) -> None:
    for split, name in {"train": "train", "validation": "val", "test": "test"}.items():
        lines = []
        for row, (x, y) in enumerate(zip(ARRAYS[split], LABELS[split], strict=True)):
            lines.append(f"{('dotted', 'woven')[y]}/{name}{row}.jpg")
            png(root / "dtd/dtd/images" / lines[-1], x)
        text(root / f"dtd/dtd/labels/{name}1.txt", "\n".join(lines))


def aircraft(root: Path, _: Any) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    text(data / "variants.txt", "707\nA320\n")
    for split, name in {"train": "train", "validation": "val", "test": "test"}.items():
        lines = []
        for row, (x, y) in enumerate(zip(ARRAYS[split], LABELS[split], strict=True)):
            png(data / f"images/{name}{row}.jpg", x)
            lines.append(f"{name}{row} {('707', 'A320')[y]}")
        text(data / f"images_variant_{name}.txt", "\n".join(lines))


def flowers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusting(monkeypatch, "flowers102")
    folder = root / "flowers-102"
    labels, ids, row = [], {}, 0
    for split, name in {"train": "trnid", "validation": "valid", "test": "tstid"}.items():
        ids[name] = list(range(row + 1, row + 1 + len(ARRAYS[split])))
        for x, y in zip(ARRAYS[split], LABELS[split], strict=True):
            row += 1
            png(folder / f"jpg/image_{row:05}.jpg", x)
            labels.append(y + 1)
    savemat(folder / "setid.mat", ids)
    savemat(folder / "imagelabels.mat", {"labels": labels})


def food(root: Path, _: Any) -> None:
    folder = root / "food-101"
    for split in ("train", "test"):
        listed: dict[str, list[str]] = {"cake": [], "soup": []}
        for row, (x, y) in enumerate(zip(ARRAYS[split], LABELS[split], strict=True)):
            name = ("cake", "soup")[y]
            listed[name].append(f"{name}/{split}{row}")
            png(folder / f"images/{name}/{split}{row}.jpg", x)
        text(folder / f"meta/{split}.json", json.dumps(listed))


def gtsrb(root: Path, _: Any) -> None:
    in_classes("gtsrb/GTSRB/Training", {"train": ""}, ("00000", "00001"), ".ppm")(root, None)
    lines = ["Filename;ClassId"]
    for row, (x, y) in enumerate(zip(TEST, LABELS["test"], strict=True)):
        png(root / f"gtsrb/GTSRB/Final_Test/Images/{row}.ppm", x)
        lines.append(f"{row}.ppm;{y}")
    text(root / "gtsrb/GT-final_test.csv", "\n".join(lines))


def inaturalist(root: Path, _: Any) -> None:
    for split, version in {"train": "2021_train_mini", "test": "2021_valid"}.items():
        kinds = [f"0000{y}_Animalia_a_b_c_d_e_{y}" for y in (0, 1)]
        in_classes(version, {split: ""}, (kinds[0], kinds[1]), ".jpg")(root, None)


def pets(root: Path, _: Any) -> None:
    folder = root / "oxford-iiit-pet"
    for split, file in {"train": "trainval", "test": "test"}.items():
        lines = []
        for row, (x, y) in enumerate(zip(ARRAYS[split], LABELS[split], strict=True)):
            name = f"{('Bengal', 'pug')[y]}_{split}{row}"
            png(folder / f"images/{name}.jpg", x)
            lines.append(f"{name} {y + 1} 1 1")
        text(folder / f"annotations/{file}.txt", "\n".join(lines))


def places365(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusting(monkeypatch, "places365")
    text(root / "categories_places365.txt", "/a/abbey 0\n/b/bar 1\n")
    places = {
        "train": ("places365_train_standard.txt", "data_256_standard"),
        "test": ("places365_val.txt", "val_256"),
    }
    for split, (listed, folder) in places.items():
        lines = []
        for row, (x, y) in enumerate(zip(ARRAYS[split], LABELS[split], strict=True)):
            name = f"/b/{row}.jpg" if split == "train" else f"{row}.jpg"
            png(root / folder / name.lstrip("/"), x)
            lines.append(f"{name} {y}")
        text(root / listed, "\n".join(lines))


def sun(root: Path, _: Any) -> None:
    text(root / "SUN397/ClassName.txt", "/a/abbey\n/b/bar\n")
    for row, (x, y) in enumerate(zip(TRAIN, LABELS["train"], strict=True)):
        png(root / f"SUN397/{('a/abbey', 'b/bar')[y]}/sun_{row}.jpg", x)


SPLITS = {"train": "train", "validation": "val", "test": "test"}
MAKERS: dict[str, Callable[[Path, Any], None]] = {
    "caltech101": caltech101,
    "caltech256": caltech256,
    "celeba": celeba,
    "cifar10": cifar("CIFAR10", "cifar-10-batches-py", "labels"),
    "cifar100": cifar("CIFAR100", "cifar-100-python", "fine_labels"),
    "clevr": clevr,
    "country211": in_classes("country211", SPLITS | {"validation": "valid"}, ("AD", "ZW")),
    "dtd": dtd,
    **{name: emnist(name.removeprefix("emnist-")) for name in SETS if "emnist-" in name},
    "eurosat": in_classes("eurosat/2750", {"train": ""}, ("Forest", "River"), ".jpg"),
    "fgvc-aircraft": aircraft,
    "flowers102": flowers,
    "food101": food,
    "gtsrb": gtsrb,
    "imagenette": in_classes(
        "imagenette2", {"train": "train", "test": "val"}, ("n01440764", "n02102040"), ".jpeg"
    ),
    "inaturalist": inaturalist,
    "kmnist": kmnist,
    "omniglot": omniglot,
    "oxford-iiit-pet": pets,
    "places365": places365,
    "qmnist": qmnist,
    "rendered-sst2": in_classes(
        "rendered-sst2", SPLITS | {"validation": "valid"}, ("negative", "positive")
    ),
    "semeion": semeion,
    "stl10": stl10,
    "sun397": sun,
    "svhn": svhn,
    "usps": usps,
}
# what is left of our arrays in each: one channel, padded, or bits
GREY = ("emnist", "kmnist", "qmnist", "usps", "semeion", "omniglot")


def rows(x: torch.Tensor, y: torch.Tensor | None) -> list[list[float]]:
    r"""Images with their labels, in an order that does not depend on that of files."""
    flat = x[:, :, :8, :8].flatten(1)
    flat = flat if y is None else torch.cat([flat, y[:, None].to(flat)], dim=1)
    return sorted(flat.tolist())


@pytest.mark.parametrize("name", MAKERS)
def test_a_set_of_torchvision_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MAKERS[name](tmp_path, monkeypatch)
    shares = {} if "validation" in SETS[name].splits else {"validation": 0.0}
    shares |= {} if "test" in SETS[name].splits else {"test": 0.0}
    data = load(name, root=tmp_path, **shares)  # type: ignore[arg-type]

    assert {split for split, fields in data.splits.items() if fields} == set(SETS[name].splits)
    for split in SETS[name].splits:
        fields = data.splits[split]  # type: ignore[index]
        x = torch.from_numpy(ARRAYS[split]).permute(0, 3, 1, 2).double()
        x = x[:, :1] if name.startswith(GREY) else x
        x = (x > 100) * 255.0 if name == "semeion" else x
        y = None if (name, split) == ("clevr", "test") else torch.tensor(LABELS[split])
        assert rows(fields["x"], fields.get("y")) == rows(x, y)
    assert data.natural.total_count == 255
    assert data.record["origin"] == name


@pytest.mark.parametrize("name", ["omniglot", "inaturalist", "caltech101"])
def test_rows_do_not_depend_on_how_a_folder_is_listed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MAKERS[name](tmp_path, monkeypatch)
    listed = os.listdir
    found = []
    for backwards in (False, True):
        order = partial(sorted, reverse=backwards)
        monkeypatch.setattr(os, "listdir", lambda path, order=order: order(listed(path)))
        found.append(load(name, root=tmp_path))

    torch.testing.assert_close(found[0].train, found[1].train)


def test_every_set_is_tested_but_one_that_needs_h5py() -> None:
    assert set(SETS) - set(MAKERS) == {"pcam"}
    assert set(SETS) < set(NAMES)


def test_sets_name_classes_that_torchvision_has_and_options_that_they_take() -> None:
    from inspect import signature

    for name, row in SETS.items():
        kind = getattr(datasets, row.kind)
        known = set(signature(kind).parameters) | set(signature(datasets.MNIST).parameters)
        for options in row.splits.values():
            assert {*options, *row.options, "transform", "download"} <= known, name


def test_the_rest_of_a_set_is_drawn_and_scaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MAKERS["svhn"](tmp_path, monkeypatch)
    data = load("svhn", root=tmp_path, validation=0.5, size=4)

    assert repr(data) == "Data('svhn', 3/3/4 rows of shape (3, 4, 4), Binomial)"
    assert data.record["size"] == 4
    with pytest.raises(ValueError, match=r"svhn: train: expected a size of at most 16 times"):
        load("svhn", root=tmp_path, size=100_000)


def planted(path: Path) -> type:
    r"""What makes a file where it is unpickled."""

    class Payload:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(path),)

    return Payload


@pytest.mark.parametrize("download", [False, True])
def test_a_pickle_is_not_opened_unless_it_is_the_published_one(
    download: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MAKERS["cifar10"](tmp_path, monkeypatch)
    file = tmp_path / "cifar-10-batches-py" / "test"
    file.write_bytes(pickle.dumps(planted(tmp_path / "executed")()))
    monkeypatch.setattr(datasets.CIFAR10, "download", lambda self: None)

    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load("cifar10", root=tmp_path, download=download)
    assert not (tmp_path / "executed").exists()
    if not download:
        assert "test: expected a file of md5" in str(caught.value)
        file.unlink()
        with pytest.raises(FileNotFoundError, match="test: expected a file, got nothing"):
            load("cifar10", root=tmp_path)


def test_tensors_that_older_versions_pickled_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MAKERS["kmnist"](tmp_path, monkeypatch)
    (tmp_path / "KMNIST/processed").mkdir()
    for name in ("training.pt", "test.pt"):
        content = pickle.dumps(planted(tmp_path / "executed")())
        (tmp_path / "KMNIST/processed" / name).write_bytes(content)

    assert len(load("kmnist", root=tmp_path).test["x"]) == 4
    assert not (tmp_path / "executed").exists()


def test_sets_are_fetched_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    r"""And only what is not there yet, into the root or else the cache."""
    fetched: list[Path] = []

    def fetch(self: Any) -> None:
        fetched.append(Path(self.root))
        if self.split == "test":
            raise RuntimeError("no network")
        MAKERS["svhn"](Path(self.root), monkeypatch)
        (Path(self.root) / "test_32x32.mat").unlink()

    monkeypatch.setattr(datasets.SVHN, "download", fetch)
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(
        FileNotFoundError,
        match=r"svhn: expected train_32x32.mat, .*download=True \(--data.download\)",
    ):
        load("svhn")
    assert fetched == []
    with pytest.raises(FileNotFoundError, match=r"svhn: the download into .* failed: no network"):
        load("svhn", download=True)
    assert fetched == [tmp_path / "cache/pyro_vae"] * 2


@pytest.mark.parametrize("name", ["svhn", "usps", "dtd", "kmnist"])
def test_a_set_with_damaged_files_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MAKERS[name](tmp_path, monkeypatch)
    for file in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        os.truncate(file, file.stat().st_size // 2)

    with pytest.raises(ValueError, match=f"{name}.*: expected .* fetch (it|them) again"):
        load(name, root=tmp_path)


def test_cifar_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    r"""One batch of five, and all test images, of which the means are known."""
    source = Path(os.environ.get("PYRO_VAE_DATA", "nowhere")) / "cifar-10-batches-py"
    if not source.is_dir():
        pytest.skip(f"real files are absent: {source}")
    monkeypatch.setattr(datasets.CIFAR10, "train_list", datasets.CIFAR10.train_list[:1])
    folder = tmp_path / source.name
    folder.mkdir()
    shutil.copyfile(source / "batches.meta", folder / "batches.meta")
    for name in ("data_batch_1", "test_batch"):
        content = lzma.decompress((source / f"{name}.xz").read_bytes())
        (folder / name).write_bytes(content)
    torch.set_default_dtype(torch.float32)
    data = load("cifar10", root=tmp_path, validation=0)

    assert repr(data) == "Data('cifar10', 10000/0/10000 rows of shape (3, 32, 32), Binomial)"
    means = torch.tensor([0.4942, 0.4851, 0.4504])
    torch.testing.assert_close(data.test["x"].mean((0, 2, 3)) / 255, means, rtol=0, atol=1e-4)
    assert data.test["y"].bincount().tolist() == [1000] * 10
    assert data.classes is not None
    assert data.classes[:2] == ("airplane", "automobile")


# -- folders of images ----------------------------------------------------------------------------


def test_a_folder_of_images_has_rows_in_the_order_of_names(tmp_path: Path) -> None:
    for row, x in enumerate(TRAIN):
        png(tmp_path / "photos" / f"{row}.png", x)
    text(tmp_path / "photos" / "readme.txt", "no image")
    data = load(tmp_path / "photos", validation=0, test=0)

    assert data.name == "photos"
    assert list(data.train) == ["x"]
    expected = torch.from_numpy(TRAIN).permute(0, 3, 1, 2).double()
    torch.testing.assert_close(data.train["x"], expected)


def test_folders_of_classes_in_folders_of_splits(tmp_path: Path) -> None:
    names = {"train": "train", "validation": "val", "test": "test"}
    in_classes("photos", names, ("cat", "dog"))(tmp_path, None)
    data = load(str(tmp_path / "photos"))

    assert data.classes == ("cat", "dog")
    for split, fields in data.splits.items():
        x = torch.from_numpy(ARRAYS[split]).permute(0, 3, 1, 2).double()
        assert rows(fields["x"], fields["y"]) == rows(x, torch.tensor(LABELS[split]))


MODES: dict[str, tuple[Image.Image, list[float]]] = {
    "grey": (Image.new("L", (3, 3), 7), [7]),
    "bits": (Image.new("1", (3, 3), 1), [255]),
    "colours": (Image.new("RGB", (3, 3), (1, 2, 3)), [1, 2, 3]),
    "transparent": (Image.new("RGBA", (3, 3), (1, 2, 3, 9)), [1, 2, 3]),
    "transparent grey": (Image.new("LA", (3, 3), (5, 9)), [5]),
    "palette": (Image.new("RGB", (3, 3), (1, 2, 3)).quantize(4), [1, 2, 3]),
}


@pytest.mark.parametrize("mode", MODES)
def test_images_have_one_channel_or_three(mode: str, tmp_path: Path) -> None:
    image, channels = MODES[mode]
    image.save(tmp_path / "0.png")
    png(tmp_path / "1.png", np.zeros((3, 3), np.uint8))
    x = load(tmp_path, validation=0, test=0).train["x"]

    assert x[0, :, 1, 1].tolist() == channels
    assert x.shape == (2, len(channels), 3, 3)  # grey ones are grey among coloured ones too


@pytest.mark.parametrize("shape", [(8, 8), (12, 8), (8, 20)])
def test_images_are_scaled_and_cropped(shape: tuple[int, int], tmp_path: Path) -> None:
    r"""A triangle over four pixels weighs squares of two by 1, 6 and 1, which is then rounded."""
    levels = RNG.integers(0, 256, (shape[0] // 2, shape[1] // 2), dtype=np.uint8)
    png(tmp_path / "a.png", levels.repeat(2, axis=0).repeat(2, axis=1))
    png(tmp_path / "b.png", np.zeros((8, 8), np.uint8))
    x = load(tmp_path, size=4, validation=0, test=0).train["x"]

    rows, columns = (
        weights / weights.sum(axis=1, keepdims=True)
        for n in levels.shape
        for weights in [6 * np.eye(n) + np.eye(n, k=1) + np.eye(n, k=-1)]
    )
    top, left = ((n - 4) // 2 for n in levels.shape)
    expected = (rows @ levels @ columns.T)[top : top + 4, left : left + 4]
    torch.testing.assert_close(x[0, 0], torch.from_numpy(expected), rtol=0, atol=1.01)
    assert x.shape == (2, 1, 4, 4)


def bomb(path: Path) -> None:
    r"""A header that promises 2.5 gigapixels."""
    png(path / "b.png", np.zeros((3, 3), np.uint8))
    content = bytearray((path / "b.png").read_bytes())
    content[16:24] = struct.pack(">II", 50_000, 50_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (path / "b.png").write_bytes(content)


WRONG: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "text": (lambda p: text(p / "b.png", "hello"), {}, r"b.png: expected an image, got a file"),
    "empty": (lambda p: (p / "b.png").touch(), {}, r"b.png: expected an image, got a file"),
    "cut": (
        lambda p: (p / "b.png").write_bytes(png(p / "c.png", TRAIN[1]).read_bytes()[:99]),
        {},
        "b.png: expected an image, got a file that is damaged",
    ),
    "enormous": (bomb, {}, "b.png: expected an image, .*exceeds limit"),
    "sizes": (
        lambda p: png(p / "b.png", TRAIN[1, :5]),
        {},
        r"one size, got \(8, 8\) in a.png and \(5, 8\) in b.png; give size=32 \(--data.size 32\)",
    ),
    "no images": (lambda p: (p / "a.png").unlink(), {}, "expected images, got none"),
    "loose": (lambda p: png(p / "dog" / "b.png", TRAIN[1]), {}, "got also a.png"),
    "classes": (
        lambda p: [png(p / s / c / "b.png", TRAIN[0]) for s, c in (("train", "a"), ("test", "b"))],
        {},
        "test: expected a folder for each class of the training images, a, got b",
    ),
    "both": (
        lambda p: np.savez(p / "a.npz", x=TRAIN),
        {"size": 3},
        "expected images, which size= is for, got .npz files",
    ),
    "size": (
        lambda p: None,
        {"size": 0},
        "expected size to be a whole number of at least 1, got 0",
    ),
    "enlarged": (
        lambda p: None,
        {"size": 100_000},
        r"a.png: expected a size of at most 16 times .*, got size 100000 for an image of 8 x 8; gi",
    ),
    "slightly more than 16 times": (lambda p: None, {"size": 129}, "size of at most 16 times"),
    "long": (
        lambda p: png(p / "a.png", np.zeros((2, 150_000), np.uint8)),
        {"size": 30},
        r"a.png: expected .* and 67108864 numbers an image, got size 30 for an image of 150000 x 2",
    ),
    "size of words": (lambda p: None, {"size": "3"}, "expected size .* got '3'"),
    "label": (lambda p: None, {"label": "y"}, "folders: the option 'label' means nothing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_folders_are_explained(name: str, tmp_path: Path) -> None:
    make, options, match = WRONG[name]
    png(tmp_path / "a.png", TRAIN[0])
    make(tmp_path)

    with pytest.raises(ValueError, match=match):
        load(tmp_path, **options)


def test_importing_data_does_not_import_torchvision() -> None:
    code = "import sys, pyro_vae.data; assert not {'torchvision', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
