r"""What is wrong with data, before anything is trained on them."""

__all__ = ["check_raw"]

from torch import Tensor

from pyro_vae.data.dataset import Fields, check_splits


def check_raw(splits: dict[str, Fields], origin: str) -> None:
    r"""Raises unless some splits can be trained on and evaluated.

    Raises:
        ValueError: If there are no training rows, fields differ in length, a value is not finite,
            or all are the same.
    """
    check_splits(splits, origin)
    for split, fields in splits.items():
        check_shape(fields["x"], f"{origin}: {split}")
        for name, field in fields.items():
            check_finite(field, f"{origin}: {split} {name!r}")

    x = splits["train"]["x"]
    low, high = x.aminmax()
    if low == high:
        raise ValueError(f"{origin}: expected values that vary, got {low.item():g} everywhere")


def check_shape(x: Tensor, origin: str) -> None:
    r"""Raises unless ``x`` has rows, and each has a value."""
    if x.dim() == 0:
        raise ValueError(f"{origin}: expected 'x' of shape (N, *event_shape), got a single number")
    if x.numel() == 0:
        raise ValueError(f"{origin}: expected rows of values, got shape {tuple(x.shape)}, empty")


def check_finite(field: Tensor, origin: str) -> None:
    r"""Raises unless all values are finite."""
    bad = ~field.isfinite()
    if bad.any():
        index = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"{origin}: expected finite numbers, got {int(bad.sum())} that are not, the first, "
            f"{field[index].item()}, at {index}; remove or replace them"
        )
