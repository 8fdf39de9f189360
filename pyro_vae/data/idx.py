r"""Idx files: the format of MNIST, packed by gzip or not."""

__all__ = ["read_idx"]

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np

UNSIGNED_BYTES = 8


def read_idx(path: Path, md5: str | None = None) -> np.ndarray:
    r"""Reads an array of bytes, in memory.

    An idx file is two zero bytes, one for the type of its items (8 is unsigned bytes), one for
    the number of dimensions, each dimension's length in four bytes, and the items.

    Arguments:
        path: The file, which is unpacked if its name ends in ``.gz``.
        md5: What a packed file must hash to, if that is known.

    Raises:
        ValueError: If the file is truncated, too long, no idx file of unsigned bytes, or another
            one than ``md5`` is of.

    References:
        | The MNIST database of handwritten digits (LeCun, Cortes & Burges, 1998)
        | http://yann.lecun.com/exdb/mnist
    """
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = unpack(path, content, md5)

    if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTES]):
        raise ValueError(
            f"{path}: expected an idx file of unsigned bytes, which starts with 000008, got one "
            f"that starts with {content[:4].hex() or 'nothing'}"
        )

    start = 4 + 4 * content[3]
    shape = [
        int(length) for length in np.frombuffer(content[4:start].ljust(start - 4, b"\0"), ">u4")
    ]
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"{path}: expected {start + math.prod(shape)} bytes for shape {tuple(shape)}, got "
            f"{len(content)}; the file is truncated or damaged: fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def unpack(path: Path, packed: bytes, md5: str | None) -> bytes:
    r"""Unpacks the content of a .gz file."""
    try:
        content = gzip.decompress(packed)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path}: expected a whole gzip file, got one of {len(packed)} bytes that is truncated "
            f"or damaged ({error}): fetch it again"
        ) from error

    found = hashlib.md5(packed, usedforsecurity=False).hexdigest()
    if md5 not in (None, found):
        raise ValueError(
            f"{path}: expected a file of md5 {md5}, got {found}; it is another file or damaged: "
            "fetch it again"
        )
    return content
