r"""What is wrong with data, before anything is trained on them."""

__all__ = ["check_raw"]

import torch
from torch import Tensor

from pyro_vae.data.dataset import Fields, check_splits
from pyro_vae.data.survey import Survey, survey


def check_raw(splits: dict[str, Fields], origin: str) -> dict[str, Survey]:
    r"""Raises unless some splits can be trained on and evaluated.

    Returns:
        What there is among the values of ``x`` in each split.

    Raises:
        ValueError: If there are no training rows, fields differ in length, a value is not finite,
            or all are the same.
    """
    check_splits(splits, origin)
    found = {}
    for split, fields in splits.items():
        check_shape(fields["x"], f"{origin}: {split}")
        for name, field in fields.items():
            values = check_finite(field, f"{origin}: {split} {name!r}")
            if name == "x":
                found[split] = values

    low, high = found["train"].low.min(), found["train"].high.max()
    if low == high:
        raise ValueError(f"{origin}: expected values that vary, got {low.item():g} everywhere")
    return found


def check_shape(x: Tensor, origin: str) -> None:
    r"""Raises unless ``x`` has rows, and each has a value."""
    if x.dim() == 0:
        raise ValueError(f"{origin}: expected 'x' of shape (N, *event_shape), got a single number")
    if x.numel() == 0:
        raise ValueError(f"{origin}: expected rows of values, got shape {tuple(x.shape)}, empty")


def check_finite(field: Tensor, origin: str) -> Survey:
    r"""Raises unless all values are finite."""
    if field.numel() == 0:
        raise ValueError(f"{origin}: expected values, got shape {tuple(field.shape)}, empty")
    found = survey(field)
    if found.first is not None:
        raise ValueError(
            f"{origin}: expected finite numbers, got {found.infinite} that are not, the first, "
            f"{field[found.first].item()}, at {found.first}; remove or replace them"
        )
    dtype = torch.get_default_dtype()
    largest = max(abs(float(found.low.min())), abs(float(found.high.max())))
    if largest > torch.finfo(dtype).max:
        raise ValueError(
            f"{origin}: expected numbers that {dtype} holds, got {largest:g}; rescale them "
            "or call torch.set_default_dtype(torch.float64) first (--precision float64)"
        )
    return found
