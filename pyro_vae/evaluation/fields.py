r"""What is evaluated: the fields of data that programs are called with."""

__all__ = ["Batch", "Rows", "Source", "column", "read", "select"]

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_vae.data import Data, Fields
from pyro_vae.data.raw import tensor

Rows = Tensor | NDArray[Any]
Source = Data | Mapping[str, Rows] | Rows
Batch = Data | Rows | Sequence[Data | Rows]


def select(
    data: Source, inputs: Sequence[str], seed: int, dtype: torch.dtype | None
) -> tuple[tuple[Tensor, ...], Tensor]:
    r"""Takes the inputs from data, and the nats that undo the standardisation of each datum.

    Arguments:
        data: The data.
        inputs: The names of the fields that programs are called with, in order.
        seed: The seed of a test split that is drawn.
        dtype: What floating fields become, if it is known what the programs compute in.

    Raises:
        TypeError: If the data or the inputs are of another kind.
        ValueError: If an input is missing, or if the inputs are empty or of different lengths.
    """
    if isinstance(inputs, str):
        raise TypeError(f"expected inputs to be names in a tuple, got a str: ({inputs!r},)")
    if isinstance(data, Data):
        fields: Mapping[str, Any] = _drawn(data, seed)
    elif isinstance(data, Mapping):
        fields = data
    else:
        fields = dict.fromkeys(inputs[:1], data)
    if missing := [name for name in inputs if name not in fields]:
        raise ValueError(f"expected inputs among the fields {sorted(fields)}, got {missing}")
    found = _converted({name: fields[name] for name in inputs}, dtype)
    if isinstance(data, Data):
        return found, data.log_jacobians(fields["x"])
    return found, torch.zeros(found[0].shape[0], dtype=torch.float64, device="cpu")


def read(batch: Batch, seed: int, dtype: torch.dtype | None) -> tuple[Tensor, ...]:
    r"""Takes what programs are called with, in order; of a data set, ``x`` of its test split.

    Raises:
        TypeError: If something is no data.
        ValueError: If there is nothing, or if rows are none or different in number.
    """
    sources = batch if isinstance(batch, tuple | list) else (batch,)
    if not sources:
        raise ValueError("expected the data that both programs are called with, got none")
    fields = [_drawn(item, seed)["x"] if isinstance(item, Data) else item for item in sources]
    return _converted({f"argument {i}": field for i, field in enumerate(fields)}, dtype)


def _drawn(data: Data, seed: int) -> Fields:
    place = data.train["x"].device
    return data.epoch("test", torch.Generator(place).manual_seed(seed))


def column(value: Any, name: str, dtype: torch.dtype | None) -> Tensor:
    r"""A tensor or an array as a tensor, a floating one in what the programs compute in.

    Raises:
        TypeError: If it is neither.
    """
    if not hasattr(value, "shape"):
        raise TypeError(
            f"expected a tensor, an array, a mapping of them or a Data, got {name} of type "
            f"{type(value).__name__}: load other sources with pyro_vae.data.load"
        )
    found = tensor(value, name)
    return found.to(dtype) if dtype is not None and found.is_floating_point() else found


def _converted(fields: Mapping[str, Any], dtype: torch.dtype | None) -> tuple[Tensor, ...]:
    found = {name: column(field, name, dtype) for name, field in fields.items()}
    lengths = {name: field.shape[0] if field.dim() else 0 for name, field in found.items()}
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
        raise ValueError(f"expected inputs of one length, of at least one row, got {lengths}")
    return tuple(found.values())
