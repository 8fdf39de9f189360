r"""What is evaluated: the fields of data that programs are called with."""

__all__ = ["select"]

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pyro_vae.data import Data


def select(
    data: Data | Mapping[str, Tensor] | Tensor, inputs: Sequence[str], seed: int
) -> tuple[tuple[Tensor, ...], float]:
    r"""Takes the inputs from data, and the nats that undo their standardisation.

    Raises:
        TypeError: If the data are of another kind.
        ValueError: If an input is missing, or if the inputs are empty or of different lengths.
    """
    log_jacobian = 0.0
    fields: Mapping[str, Tensor]
    if isinstance(data, Data):
        place = data.train["x"].device
        fields = data.epoch("test", torch.Generator(place).manual_seed(seed))
        log_jacobian = data.log_jacobian
    elif isinstance(data, Tensor):
        fields = dict.fromkeys(inputs[:1], data)
    elif isinstance(data, Mapping):
        fields = data
    else:
        raise TypeError(
            f"expected a tensor, a mapping of fields or a Data, got {type(data).__name__}: load "
            "other sources with pyro_vae.data.load"
        )
    if missing := [name for name in inputs if name not in fields]:
        raise ValueError(f"expected inputs among the fields {sorted(fields)}, got {missing}")
    lengths = {name: fields[name].shape[0] for name in inputs}
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
        raise ValueError(f"expected inputs of one length, of at least one row, got {lengths}")
    return tuple(fields[name] for name in inputs), log_jacobian
