r"""What a source says about its data, before anything is done to them."""

__all__ = ["Raw", "tensor"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.tables import Columns
from pyro_vae.likelihoods import Likelihood

WIDE = {
    **dict.fromkeys(
        (torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64),
        torch.int64,
    ),
    **dict.fromkeys((torch.float16, torch.bfloat16), torch.float32),
}


@dataclass(frozen=True, eq=False)
class Raw:
    r"""Splits in the source's own numbers, and what the source knows about them.

    Arguments:
        name: What the data are called.
        origin: What errors call them: a path where there is one.
        splits: Named fields, with equal lengths, of each split that the source has.
        likelihood: The natural likelihood, if the source knows it.
        classes: The names of the labels ``y``.
        columns: The columns of the table that ``x`` was read from.
        facts: What else is to be known of how the source was read.
    """

    name: str
    origin: str
    splits: dict[str, dict[str, Tensor]]
    likelihood: Likelihood | None = None
    classes: tuple[str, ...] | None = None
    columns: Columns | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> dict[str, Any]:
        r"""Where the data come from."""
        return {"origin": self.origin, **self.facts}


def tensor(value: Any, origin: str) -> Tensor:
    r"""A tensor, on its device, or an array as a tensor of the same numbers.

    Integers but bytes, of which torch computes only with signed ones, become int64, and half
    precision becomes single.

    Raises:
        ValueError: If the array does not hold booleans, integers or floats, or not all of them.
    """
    if isinstance(value, Tensor):
        if value.is_meta or value.layout != torch.strided or value.is_nested:
            got = "one without values" if value.is_meta else f"layout {value.layout}"
            raise ValueError(
                f"{origin}: expected a dense tensor in memory, got {got}; make it so, as by "
                ".to_dense()"
            )
        if value.is_complex():
            raise ValueError(f"{origin}: expected real numbers, got {value.dtype}")
        if value.dtype == torch.uint64 and bool((value.view(torch.int64) < 0).any()):
            raise ValueError(f"{origin}: expected integers below 2^63, got larger ones")
        return value.detach().to(WIDE.get(value.dtype, value.dtype))

    if np.ma.is_masked(value):
        raise ValueError(
            f"{origin}: expected numbers without a mask, which is not kept, got "
            f"{np.ma.getmaskarray(value).sum()} masked; fill them in by .filled(…) or "
            "remove their rows"
        )
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{origin}: expected an array of numbers, got dtype {array.dtype}; convert it first"
        )

    if array.dtype.kind == "b":  # of which a damaged file has others than 0 and 1
        array = array.view(np.uint8) != 0
    # of foreign byte orders and long doubles torch knows nothing
    native = array.dtype.newbyteorder("=") if array.dtype.itemsize <= 8 else np.dtype(float)
    return tensor(torch.from_numpy(array.astype(native)), origin)
