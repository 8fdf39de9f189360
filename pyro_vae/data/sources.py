r"""Loading: from a source to splits of fields."""

__all__ = ["NAMES", "load"]

import difflib
import os
import re
from pathlib import Path
from typing import Any

from pyro_vae.data import named
from pyro_vae.data.arrays import splits_of
from pyro_vae.data.check import check_raw
from pyro_vae.data.dataset import Binarization, Data
from pyro_vae.data.files import map_npy, read_npy, read_npz
from pyro_vae.data.folders import read_folder, read_shards
from pyro_vae.data.hub import is_table, read_tables
from pyro_vae.data.places import expanded
from pyro_vae.data.prepare import prepare
from pyro_vae.data.raw import Raw
from pyro_vae.data.splits import draw_splits
from pyro_vae.data.tables import read_table
from pyro_vae.data.vision import SETS, image_set

ROWS = ("validation", "test", "standardize")
HOLES = (*ROWS, "missing")
IMAGES = "torchvision's image sets"
FOLDER = "folders"
SHARDS = "patterns of .npz"
MEMORY = "tensors, arrays and Datasets"
OPTIONS = {
    "digits": (),
    "mnist": ("root", "download"),
    "fashion-mnist": ("root", "download"),
    "static-mnist": ("root",),
    IMAGES: ("root", "download", "size", *ROWS),
    ".npy": (*HOLES, "mmap"),
    ".npz": HOLES,
    ".csv": (*HOLES, "label"),
    SHARDS: HOLES,
    FOLDER: (*HOLES, "size"),
    MEMORY: HOLES,
    "Data": (),
}
NAMES = sorted({kind for kind in OPTIONS if "mnist" in kind or kind == "digits"} | set(SETS))

# bytes of a .npy file above which its rows stay there: as many as a laptop has to spare
LARGE = 2**30


def load(
    source: Any,
    *,
    binarization: Binarization = "none",
    validation: float | None = None,
    test: float | None = None,
    label: str | None = None,
    standardize: bool | None = None,
    size: int | None = None,
    mmap: bool | None = None,
    missing: bool = False,
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
    - ``"cifar10"``, ``"svhn"``, ``"omniglot"``, … (``pyro_vae.data.NAMES``): the image sets of
      torchvision that need no account, with levels 0 to 255, in its layout below ``root``. It
      checks the files; pickled ones are opened only if their md5 is the published one.
    - A path that ends in ``.npy`` (rows), ``.npz`` (``train``, ``valid`` and ``test``; or ``x``,
      ``y`` and other fields; or a single array) or ``.csv`` (see :class:`Columns`).
    - A pattern such as ``"shards-*.npz"``, or a folder of .npz files: their rows follow one
      another, by name.
    - A folder of images, in folders of their classes or not, with folders ``train``, ``valid``
      and ``test`` around them or not.
    - A tensor or array ``x``, a pair ``(x, y)``, a mapping of named fields, a torch
      ``Dataset`` of such, which is stacked, a mapping of ``train``, ``valid`` and ``test`` to
      such, or a ``Dataset`` or ``DatasetDict`` of the package ``datasets``, of which the columns
      are fields.
    - A :class:`Data`, which is returned as it is.

    Rows of a .npy file above 1 GiB stay there: it is mapped, not loaded, and they are converted,
    standardised and binarised when a batch is read. Batches are the same, bit for bit. Under
    ``binarization="dynamic"`` an epoch's bits, an eighth of a byte each, go to a temporary file
    (``$TMPDIR``).

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
        size: What the shorter side of images is scaled to, of which the central square is kept.
        mmap: Whether the rows of a .npy file stay there, whatever its size.
        missing: Whether NaN, and in a table an empty cell, is a value that is not known: then the
            natural likelihood is one of the observed features
            (:class:`pyro_vae.likelihoods.Masked`), and an encoder has to know what to make of
            NaN, as :func:`pyro_vae.nn.masked_mlp` does.
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
        **{"root": root, "download": download or None, "size": size, "mmap": mmap},
        "missing": missing or None,
    }
    check_options(kind, [name for name, value in given.items() if value is not None])
    if isinstance(source, Data):
        if binarization != "none":
            raise ValueError(f"{source.name}: give binarization where the data are first loaded")
        return source

    if size is not None and (not isinstance(size, int) or size < 1):
        raise ValueError(f"expected size to be a whole number of at least 1, got {size!r}")

    place = None if root is None else Path(root)
    raw = read(source, kind, label, place, download, size, mmap, missing)
    surveys = check_raw(raw.splits, raw.origin, missing)
    splits = draw_splits(raw.splits, validation, test, seed, raw.origin)
    if standardize is None:
        standardize = None if kind == ".csv" and binarization == "none" else False
    return prepare(raw, splits, surveys, binarization, standardize, missing, seed)


def kind_of(source: Any) -> str:
    r"""The key of ``OPTIONS`` that a source falls under."""
    if isinstance(source, Data):
        return "Data"
    if not isinstance(source, str | os.PathLike):
        return MEMORY
    if source in NAMES:
        return IMAGES if source in SETS else str(source)

    path = expanded(source)
    suffix = path.suffix.lower()
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(source), re.IGNORECASE):
        raise ValueError(
            f"expected a name or a path, got the address {source}; download it first, and give the "
            "path of the file"
        )
    if path.is_dir():
        return FOLDER
    if suffix == ".npz" and any(mark in str(source) for mark in "*?["):
        return SHARDS
    if suffix in OPTIONS:
        return suffix

    close = difflib.get_close_matches(str(source), NAMES, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(
        f"expected a folder that exists, a path that ends in .npy, .npz or .csv, or one of "
        f"{', '.join(NAMES)}, got {str(source)!r}{hint}"
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


def read(
    source: Any,
    kind: str,
    label: str | None,
    root: Path | None,
    download: bool,
    size: int | None,
    mmap: bool | None,
    missing: bool,
) -> Raw:
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
            return read_path(expanded(source), kind, label, mmap, missing)
    if kind == IMAGES:
        return image_set(source, root, download, size)
    if kind == FOLDER:
        return read_folder(expanded(source), size)
    if kind == SHARDS:
        return read_shards(str(source))
    if is_table(source):
        return read_tables(source)
    name = type(source).__name__.lower()
    return Raw(name, name, splits_of(source, name))


def read_path(path: Path, kind: str, label: str | None, mmap: bool | None, missing: bool) -> Raw:
    r"""Reads a file of a kind."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else f"nothing in {path.parent.absolute()}"
        raise FileNotFoundError(f"{path}: expected a file, got {found}")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path}: expected data, got an empty file")

    match kind:
        case ".npy":
            mapped = size > LARGE if mmap is None else mmap
            splits = map_npy(path) if mapped else read_npy(path)
            return Raw(path.stem, str(path), splits, facts={"mapped": mapped})
        case ".npz":
            return Raw(path.stem, str(path), read_npz(path))
        case _:
            x, y, classes, columns = read_table(path, label, missing)
            fields = {"x": x} if y is None else {"x": x, "y": y}
            return Raw(path.stem, str(path), {"train": fields}, None, classes, columns)
