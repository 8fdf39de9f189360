r"""Files of arrays: .npy and .npz, without pickles."""

__all__ = ["read_npy", "read_npz"]

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vae.data.raw import tensor

SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(
    ("valid", "val", "validation"), "validation"
)
KEY = re.compile(rf"(?:(x|y)_)?({'|'.join(SPLITS)})")


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    r"""Opens a file of arrays, and turns what NumPy raises at a bad one into an error."""
    try:
        # NumPy leaves a bad file open that it opened itself
        with path.open("rb") as file:
            yield np.load(file, allow_pickle=False)
    except (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: expected a whole {path.suffix} file of numbers (no objects), got one that is "
            f"truncated, damaged or of another kind ({error})"
        ) from error


def read_npy(path: Path) -> dict[str, dict[str, Tensor]]:
    r"""Reads the rows of one array.

    Raises:
        ValueError: If the file is truncated, damaged or of another kind, or holds no numbers.
    """
    with opened(path) as array:
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an .npz file")

    return {"train": {"x": tensor(array, str(path))}}


def read_npz(path: Path) -> dict[str, dict[str, Tensor]]:
    r"""Reads named arrays: splits, fields, or a single one.

    Splits are called ``train``, ``valid`` (or ``val``, ``validation``) and ``test``, with or
    without ``x_`` before it, and their labels ``y_train`` and so on. Otherwise names are those of
    fields, ``x`` among them, or there is one array, of any name.

    Raises:
        ValueError: If the file is truncated, damaged or of another kind, has other names, or holds
            no numbers.
    """
    with opened(path) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is an .npy file")
        arrays = {key: archive[key] for key in archive.files}

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
