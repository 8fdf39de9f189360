r"""Files of arrays: .npy and .npz, without pickles."""

__all__ = ["map_npy", "read_npy", "read_npz"]

import math
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from torch import Tensor

from pyro_vae.data.lazy import Lazy, Rows
from pyro_vae.data.mapped import Mapped
from pyro_vae.data.npy import read_array
from pyro_vae.data.raw import tensor

SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(
    ("valid", "val", "validation"), "validation"
)
KEY = re.compile(rf"(?:(x|y)_)?({'|'.join(SPLITS)})")


# what deflate, the only compression that NumPy writes, makes of a byte at most
DEFLATED = 1032


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    r"""Opens a file of arrays, and turns what is raised at a bad one into an error."""
    try:
        with path.open("rb") as file:
            yield file
    except PermissionError:  # which says it all
        raise
    except Exception as error:  # a header is parsed as Python, which fails in many ways
        raise ValueError(
            f"{path}: expected a whole {path.suffix} file of numbers (no objects), got one that is "
            f"truncated, damaged or of another kind ({error})"
        ) from error


def read_npy(path: Path) -> dict[str, dict[str, Tensor]]:
    r"""Reads the rows of one array.

    Raises:
        ValueError: If the file is truncated, damaged or of another kind, or holds no numbers.
    """
    with opened(path) as file:
        if zipfile.is_zipfile(file):
            raise ValueError("it is an .npz file")
        file.seek(0)
        array = read_array(file, path.stat().st_size)

    return {"train": {"x": tensor(array, str(path))}}


def map_npy(path: Path) -> dict[str, dict[str, Tensor]]:
    r"""Maps the rows of one array, which are read when they are needed.

    Raises:
        ValueError: If the file is truncated, damaged or of another kind, or holds no numbers.
    """
    with opened(path):
        store = Mapped.open(path)
        _ = store.array  # which has to be possible
    shape = store.header.shape
    if 0 in (len(shape), math.prod(shape)):
        raise ValueError(f"{path}: expected rows of values, got shape {shape}")
    return {"train": {"x": Lazy(Rows.of(store))}}


def read_npz(path: Path) -> dict[str, dict[str, Tensor]]:
    r"""Reads named arrays: splits, fields, or a single one.

    Splits are called ``train``, ``valid`` (or ``val``, ``validation``) and ``test``, with or
    without ``x_`` before it, and their labels ``y_train`` and so on. Otherwise names are those of
    fields, ``x`` among them, or there is one array, of any name.

    Raises:
        ValueError: If the file is truncated, damaged or of another kind, has other names, or holds
            no numbers.
    """
    with opened(path) as file:
        if file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX:
            raise ValueError("it is an .npy file")
        with zipfile.ZipFile(file) as archive:
            arrays = {
                member.filename.removesuffix(".npy"): read_member(archive, member)
                for member in archive.infolist()
            }

    fields = {key: tensor(array, f"{path}: {key!r}") for key, array in arrays.items()}
    if len(fields) == 1:
        return {"train": {"x": fields.popitem()[1]}}
    if "x" in fields:
        return {"train": fields}

    splits: dict[str, dict[str, Tensor]] = {}
    for key, value in fields.items():
        match = KEY.fullmatch(key)
        if match is None:
            raise ValueError(
                f"{path}: expected arrays 'train', 'valid' and 'test', or 'x' and 'y', or a single "
                f"one, got {', '.join(fields) or 'none'}"
            )
        splits.setdefault(SPLITS[match[2]], {})[match[1] or "x"] = value
    return splits


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    r"""Reads one array, which cannot be larger than what it is packed in allows."""
    most = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: DEFLATED}
    if member.compress_type not in most:
        raise ValueError(f"{member.filename!r} is packed in a way that NumPy never does")
    if member.file_size > most[member.compress_type] * member.compress_size:
        raise ValueError(f"{member.filename!r} promises more than can be packed in its bytes")
    with archive.open(member) as file:
        return read_array(file, member.file_size)  # type: ignore[arg-type]
