r"""The data sets that have names."""

__all__ = ["digits", "mnist", "static_mnist"]

from pathlib import Path

import torch

from pyro_vae.data.files import read_npz
from pyro_vae.data.idx import read_idx
from pyro_vae.data.places import cache, find
from pyro_vae.data.raw import Raw, tensor
from pyro_vae.likelihoods import Bernoulli, Binomial

PARTS = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", 60_000),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", 10_000),
}

# as torchvision lists them, whose import takes seconds
MD5 = {
    "MNIST": {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
}
CLASSES = {
    "MNIST": tuple("0123456789"),
    "FashionMNIST": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}
VALIDATION = 10_000  # the last training images, as is usual


def digits() -> Raw:
    r"""1,797 digits of 8 x 8 counts out of 16, split 1,297/250/250 with equal class shares.

    References:
        | Methods of Combining Multiple Classifiers and Their Applications to Handwritten Digit
        | Recognition (Xu, Krzyzak & Suen, 1992)
        | https://archive.ics.uci.edu/dataset/80
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, y = load_digits(return_X_y=True)
    x = images.reshape(-1, 1, 8, 8)

    x_rest, x_test, y_rest, y_test = train_test_split(
        x, y, test_size=250, stratify=y, random_state=0
    )
    x_train, x_validation, y_train, y_validation = train_test_split(
        x_rest, y_rest, test_size=250, stratify=y_rest, random_state=0
    )

    splits = {
        "train": (x_train, y_train),
        "validation": (x_validation, y_validation),
        "test": (x_test, y_test),
    }
    return Raw(
        name="digits",
        origin="digits",
        splits={
            split: {"x": tensor(x, "digits"), "y": tensor(y, "digits")}
            for split, (x, y) in splits.items()
        },
        likelihood=Binomial(16),
        classes=CLASSES["MNIST"],
    )


def mnist(name: str, folder: str, root: Path | None, download: bool) -> Raw:
    r"""MNIST or a data set of its format: 50,000/10,000/10,000 images of 28 x 28 levels of 256.

    Arguments:
        name: What the data are called.
        folder: The class in torchvision, which its folder is called after.
        root: Where to look for the folder, instead of the usual places.
        download: Whether torchvision fetches the files that are nowhere.

    Raises:
        FileNotFoundError: If there are no such files.
        ValueError: If a file is not the one that it should be.
    """
    names = [file for images, labels, _ in PARTS.values() for file in (images, labels)]
    try:
        paths = find(name, f"{folder}/raw", names, root)
    except FileNotFoundError as error:
        if not download:
            raise FileNotFoundError(
                f"{error}; set PYRO_VAE_DATA or give root= (--data.root), or give download=True "
                "(--data.download)"
            ) from None
        fetch(folder, root or cache())
        paths = find(name, f"{folder}/raw", names, root or cache())

    splits = {}
    for split, (images, labels, rows) in PARTS.items():
        x = read_part(paths[images], MD5[folder][images], (rows, 28, 28))
        y = read_part(paths[labels], MD5[folder][labels], (rows,))
        splits[split] = {"x": x[:, None], "y": y}

    rest = {field: value[-VALIDATION:] for field, value in splits["train"].items()}
    train = {field: value[:-VALIDATION] for field, value in splits["train"].items()}
    origin = str(paths["train-images-idx3-ubyte.gz"].parent)
    splits = {"train": train, "validation": rest, "test": splits["test"]}
    return Raw(name, origin, splits, Binomial(255), CLASSES[folder])


def static_mnist(root: Path | None) -> Raw:
    r"""MNIST binarised once for all: 50,000/10,000/10,000 binary images of 28 x 28, no labels.

    The test rows are sorted by digit.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not the one that it should be.

    References:
        | The Neural Autoregressive Distribution Estimator (Larochelle & Murray, 2011)
        | https://proceedings.mlr.press/v15/larochelle11a.html
    """
    file = "binarized_mnist.npz"
    try:
        path = find("static-mnist", "binarized_mnist", [file], root)[file]
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; put the arrays 'train', 'valid' and 'test', with shape (N, 784), there, and "
            "give root= (--data.root) or set PYRO_VAE_DATA"
        ) from None

    splits = read_npz(path)
    for split, rows in {"train": 50_000, "validation": 10_000, "test": 10_000}.items():
        x = splits.get(split, {"x": torch.empty(0)})["x"]
        if x.shape != (rows, 784) or not ((x == 0) | (x == 1)).all():
            raise ValueError(
                f"{path}: expected binary values of shape {(rows, 784)} in {split}, got shape "
                f"{tuple(x.shape)}"
            )
        splits[split] = {"x": x.reshape(rows, 1, 28, 28)}
    return Raw("static-mnist", str(path), splits, Bernoulli())


def read_part(path: Path, md5: str, shape: tuple[int, ...]) -> torch.Tensor:
    r"""Reads one file of a data set in the format of MNIST."""
    array = read_idx(path, md5)
    if array.shape != shape:
        raise ValueError(f"{path}: expected an array of shape {shape}, got {array.shape}")

    return tensor(array, str(path))


def fetch(folder: str, root: Path) -> None:
    r"""Has torchvision download a data set into a folder."""
    from torchvision import datasets

    try:
        getattr(datasets, folder)(root, download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(f"{folder}: the download into {root} failed: {error}") from error
