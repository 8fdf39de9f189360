r"""The .npy format, of which the header is held against the size before anything is allocated."""

__all__ = ["Header", "read_array", "read_header"]

import math
from typing import BinaryIO, NamedTuple

import numpy as np

READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Header(NamedTuple):
    r"""What a .npy file says of its array.

    Arguments:
        dtype: The type of its numbers.
        shape: Its shape.
        fortran: Whether the first dimension is the one that varies fastest.
        offset: Where the numbers begin, in bytes.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    offset: int


def read_header(file: BinaryIO, size: int) -> Header:
    r"""Reads the header of a file, and leaves the file at the first number.

    Arguments:
        file: The file, at its beginning.
        size: The number of bytes that there are.

    Raises:
        ValueError: If there is no such header, or it promises no numbers or more than there are.

    References:
        | A Simple File Format for NumPy Arrays (Kern, 2007)
        | https://numpy.org/neps/nep-0001-npy-format.html
    """
    version = np.lib.format.read_magic(file)
    if version not in READERS:
        raise ValueError(f"it has version {version} of the format, which numbers do not need")
    shape, fortran, dtype = READERS[version](file)
    if dtype.hasobject:
        raise ValueError(f"it holds objects ({dtype}), which are never unpickled")
    if dtype.kind not in "biuf":
        raise ValueError(f"it holds no numbers, got dtype {dtype}")
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"it promises the shape {shape}")

    offset = file.tell()
    promised = dtype.itemsize * math.prod(shape)
    if promised > size - offset:
        raise ValueError(f"it promises {promised} bytes of numbers, and has {size - offset}")
    return Header(dtype, shape, fortran, offset)


def read_array(file: BinaryIO, size: int) -> np.ndarray:
    r"""Reads the array of a file of ``size`` bytes.

    Raises:
        ValueError: If the file is of another kind, or truncated.
    """
    dtype, shape, fortran, _ = read_header(file, size)
    array = np.empty(math.prod(shape), dtype)
    left = array.view(np.uint8).data
    while left:
        count = file.readinto(left)  # type: ignore[attr-defined]
        if not count:
            raise ValueError(f"it is {len(left)} bytes too short")
        left = left[count:]
    return array.reshape(shape, order="F" if fortran else "C")
