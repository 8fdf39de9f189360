r"""Loading: from a source to splits of fields."""

__all__ = ["load"]

import difflib
import os
from pathlib import Path
from typing import Any

from pyro_vae.data import named
from pyro_vae.data.arrays import fields_of
from pyro_vae.data.check import check_raw
from pyro_vae.data.dataset import Binarization, Data
from pyro_vae.data.files import read_npy, read_npz
from pyro_vae.data.prepare import prepare
from pyro_vae.data.raw import Raw
from pyro_vae.data.splits import draw_splits
from pyro_vae.data.tables import read_table

ROWS = ("validation", "test", "standardize")
OPTIONS = {
    "digits": (),
    "mnist": ("root", "download"),
    "fashion-mnist": ("root", "download"),
    "static-mnist": ("root",),
    ".npy": ROWS,
    ".npz": ROWS,
    ".csv": (*ROWS, "label"),
    "tensors, arrays and Datasets": ROWS,
    "Data": (),
}
NAMES = [kind for kind in OPTIONS if "mnist" in kind or kind == "digits"]


def load(
    source: Any,
    *,
    binarization: Binarization = "none",
    validation: float | None = None,
    test: float | None = None,
    label: str | None = None,
    standardize: bool | None = None,
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> Data:
    r"""Loads data from a name, a file, or memory, in the default dtype.

    - ``"digits"``: scikit-learn's 1,797 digits, which come with it; 1,297/250/250, with
      counts out of 16.
    - ``"mnist"``, ``"fashion-mnist"``: 50,000/10,000/10,000 images, with levels 0 to 255; the
      validation split is the last 10,000 training images. Files are those of torchvision,
      ``<root>/MNIST/raw/*.gz`` or unpacked, and are only read.
    - ``"static-mnist"``: Larochelle's binary MNIST, 50,000/10,000/10,000 without labels, in
      ``<root>/binarized_mnist/binarized_mnist.npz``. **Its test rows are sorted by digit**:
      evaluate on all of them, or on rows drawn at random.
    - A path that ends in ``.npy`` (rows), ``.npz`` (``train``, ``valid`` and ``test``; or ``x``,
      ``y`` and other fields; or a single array) or ``.csv`` (see :class:`Columns`).
    - A tensor or array ``x``, a pair ``(x, y)``, a mapping of named fields, or a torch
      ``Dataset`` of such, which is stacked.
    - A :class:`Data`, which is returned as it is.

    Arguments:
        source: One of the above.
        binarization: ``"none"``; ``"static"``, one draw of Bernoulli features, by ``seed``; or
            ``"dynamic"``, a draw for each epoch. The probability of a 1 is the level as a share
            of the highest, or the value itself of real data in :math:`[0, 1]`.
        validation, test: The share of rows of a split that the source does not have, drawn by
            ``seed``; by default a tenth.
        label: The column of a table that holds the labels.
        standardize: Whether each feature (of a table: each column of numbers) gets mean 0 and
            standard deviation 1 over the training rows. By default those of a table do, unless
            it is binary or to be binarised.
        seed: Of the splits that are drawn, and of static binarisation.
        root: The folder to look in, instead of ``$PYRO_VAE_DATA`` and then the user's cache
            (``~/.cache/pyro_vae``, or that under ``$XDG_CACHE_HOME``).
        download: Whether torchvision fetches what is not found, into ``root`` or else the cache.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If the source is of another type.
        ValueError: If the source is unknown, does not understand an option, or its data cannot be
            read, are empty or constant, differ in shape or are not finite.

    Example:
        >>> import torch
        >>> load("digits", binarization="dynamic")
        Data('digits', 1297/250/250 rows of shape (1, 8, 8), Bernoulli)
        >>> load(torch.randn(50, 3), validation=0.2)
        Data('tensor', 35/10/5 rows of shape (3,), NormalLearnedScale)
    """
    if binarization not in ("none", "static", "dynamic"):
        raise ValueError(
            f"expected a binarization of 'none', 'static' or 'dynamic', got {binarization!r}"
        )

    kind = kind_of(source)
    given = {
        **{"validation": validation, "test": test, "label": label, "standardize": standardize},
        **{"root": root, "download": download or None},
    }
    check_options(kind, [name for name, value in given.items() if value is not None])
    if isinstance(source, Data):
        if binarization != "none":
            raise ValueError(f"{source.name}: give binarization where the data are first loaded")
        return source

    raw = read(source, kind, label, None if root is None else Path(root), download)
    surveys = check_raw(raw.splits, raw.origin)
    splits = draw_splits(raw.splits, validation, test, seed, raw.origin)
    if standardize is None:
        standardize = None if kind == ".csv" and binarization == "none" else False
    return prepare(raw, splits, surveys, binarization, standardize, seed)


def kind_of(source: Any) -> str:
    r"""The key of ``OPTIONS`` that a source falls under."""
    if isinstance(source, Data):
        return "Data"
    if not isinstance(source, str | os.PathLike):
        return "tensors, arrays and Datasets"
    if source in NAMES:
        return str(source)

    suffix = Path(source).suffix.lower()
    if suffix in OPTIONS:
        return suffix

    close = difflib.get_close_matches(str(source), NAMES, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(
        f"expected {', '.join(map(repr, NAMES))}, or a path that ends in .npy, .npz or .csv, got "
        f"{str(source)!r}{hint}"
    )


def check_options(kind: str, given: list[str]) -> None:
    r"""Raises unless all options mean something to a kind of source."""
    for option in given:
        if option not in OPTIONS[kind]:
            understood = ", ".join(kind for kind, options in OPTIONS.items() if option in options)
            raise ValueError(
                f"{kind}: the option {option!r} means nothing here, only to {understood}; leave it "
                "out"
            )


def read(source: Any, kind: str, label: str | None, root: Path | None, download: bool) -> Raw:
    r"""Reads a source of a kind."""
    match kind:
        case "digits":
            return named.digits()
        case "mnist":
            return named.mnist(kind, "MNIST", root, download)
        case "fashion-mnist":
            return named.mnist(kind, "FashionMNIST", root, download)
        case "static-mnist":
            return named.static_mnist(root)
        case ".npy" | ".npz" | ".csv":
            return read_path(Path(source).expanduser(), kind, label)
        case _:
            name = type(source).__name__.lower()
            return Raw(name, name, {"train": fields_of(source, name)})


def read_path(path: Path, kind: str, label: str | None) -> Raw:
    r"""Reads a file of a kind."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else f"nothing in {path.parent.absolute()}"
        raise FileNotFoundError(f"{path}: expected a file, got {found}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: expected data, got an empty file")

    match kind:
        case ".npy":
            return Raw(path.stem, str(path), read_npy(path))
        case ".npz":
            return Raw(path.stem, str(path), read_npz(path))
        case _:
            x, y, classes, columns = read_table(path, label)
            fields = {"x": x} if y is None else {"x": x, "y": y}
            return Raw(path.stem, str(path), {"train": fields}, None, classes, columns)
