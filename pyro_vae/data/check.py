r"""What is wrong with data, before anything is trained on them."""

__all__ = ["check_raw"]

import math

import torch
from torch import Tensor

from pyro_vae.data.dataset import Fields, check_splits
from pyro_vae.data.survey import Survey, survey


def check_raw(splits: dict[str, Fields], origin: str, missing: bool = False) -> dict[str, Survey]:
    r"""Raises unless some splits can be trained on and evaluated.

    Arguments:
        splits: The fields of each split.
        origin: What an error calls the data.
        missing: Whether NaN in ``x`` is what is missing.

    Returns:
        What there is among the values of ``x`` in each split.

    Raises:
        ValueError: If there are no training rows, fields differ in length, a value is not finite
            (but for what is missing), a feature is nowhere observed, or all values are the same.
    """
    check_splits(splits, origin)
    found = {}
    for split, fields in splits.items():
        check_shape(fields["x"], f"{origin}: {split}")
        for name, field in fields.items():
            holes = name == "x" and missing
            values = check_finite(field, f"{origin}: {split} {name!r}", holes, name == "x")
            if name == "x":
                found[split] = values

    if missing:
        check_observed(found["train"], f"{origin}: train 'x'")
        found = {split: filled(values, found["train"]) for split, values in found.items()}
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


def check_observed(found: Survey, origin: str) -> None:
    r"""Raises unless each feature has a value in some row."""
    never = found.low > found.high
    if bool(never.any()):
        raise ValueError(
            f"{origin}: expected each feature to be observed in some row, got {int(never.sum())} "
            f"that never are, the first at {tuple(never.nonzero()[0].tolist())}; remove them"
        )


def filled(found: Survey, train: Survey) -> Survey:
    r"""What there is in a split, where features that have no value there are as in training."""
    never = found.low > found.high
    low, high = found.low.where(~never, train.low), found.high.where(~never, train.high)
    return found._replace(low=low, high=high)


def check_finite(field: Tensor, origin: str, missing: bool, advised: bool) -> Survey:
    r"""Raises unless all values are finite, or NaN where that may be missing.

    Arguments:
        field: The values.
        origin: What an error calls them.
        missing: Whether NaN is no value.
        advised: Whether an error about NaN says how it would be none.
    """
    if field.numel() == 0:
        raise ValueError(f"{origin}: expected values, got shape {tuple(field.shape)}, empty")
    found = survey(field, missing)
    if found.first is not None:
        value = field[found.first].item()
        other = ""
        if advised and math.isnan(value):
            other = ", or give missing=True (--data.missing true) if NaN is what is missing"
        raise ValueError(
            f"{origin}: expected finite numbers, got {found.infinite} that are not, the first, "
            f"{value}, at {found.first}; remove or replace them{other}"
        )
    dtype = torch.get_default_dtype()
    largest = max(abs(float(found.low.min())), abs(float(found.high.max())))
    if largest > torch.finfo(dtype).max:
        raise ValueError(
            f"{origin}: expected numbers that {dtype} holds, got {largest:g}; rescale them "
            "or call torch.set_default_dtype(torch.float64) first (--precision float64)"
        )
    return found
