r"""Idx files: the format of MNIST, packed by gzip or not."""

__all__ = ["read_idx"]

import gzip
import hashlib
import math
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

UNSIGNED_BYTES = 8
PIECE = 2**20


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
    packed = path.read_bytes()
    with BytesIO(packed) as raw, gzip.GzipFile(fileobj=raw) as unpacked:
        file: BinaryIO = unpacked if path.suffix == ".gz" else raw  # type: ignore[assignment]
        try:
            array = read_from(file, str(path))
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(
                f"{path}: expected a whole gzip file, got one of {len(packed)} bytes that is "
                f"truncated or damaged ({error}): fetch it again"
            ) from error

    found = hashlib.md5(packed, usedforsecurity=False).hexdigest()
    if path.suffix == ".gz" and md5 not in (None, found):
        raise ValueError(
            f"{path}: expected a file of md5 {md5}, got {found}; it is another file or damaged: "
            "fetch it again"
        )
    return array


def read_from(file: BinaryIO, origin: str) -> np.ndarray:
    r"""Reads an array of bytes, and no more of a file than it promises and one byte."""
    start = file.read(4)
    if len(start) < 4 or start[:3] != bytes([0, 0, UNSIGNED_BYTES]):
        raise ValueError(
            f"{origin}: expected an idx file of unsigned bytes, which starts with 000008, got one "
            f"that starts with {start.hex() or 'nothing'}"
        )

    lengths = file.read(4 * start[3])
    shape = [int(length) for length in np.frombuffer(lengths.ljust(4 * start[3], b"\0"), ">u4")]
    promised, header = math.prod(shape), 4 + 4 * start[3]
    content = b"".join(pieces(file, promised + 1))
    if len(lengths) < 4 * start[3] or len(content) != promised:
        got = 4 + len(lengths) + len(content)
        more = " or more" if len(content) > promised else ""
        raise ValueError(
            f"{origin}: expected {header + promised} bytes for shape {tuple(shape)}, got {got}"
            f"{more}; the file is truncated or damaged: fetch it again"
        )
    try:
        return np.frombuffer(content, np.uint8).reshape(shape)
    except ValueError as error:  # too many dimensions, or lengths beside one of zero
        raise ValueError(
            f"{origin}: expected a shape that an array may have, got {tuple(shape)}; the file is "
            "damaged: fetch it again"
        ) from error


def pieces(file: BinaryIO, most: int) -> Iterator[bytes]:
    r"""What is left of a file, but no more than so many bytes, of which none are set aside."""
    while most > 0 and (piece := file.read(min(most, PIECE))):
        most -= len(piece)
        yield piece
