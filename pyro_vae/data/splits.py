r"""Splits: rows for training, validation and test, drawn where a source does not say."""

__all__ = ["draw_splits"]

import torch
from torch import Generator, Tensor

from pyro_vae.data.dataset import Fields
from pyro_vae.data.lazy import Lazy

SHARE = 0.1


def draw_splits(
    splits: dict[str, Fields],
    validation: float | None,
    test: float | None,
    seed: int,
    origin: str,
) -> dict[str, Fields]:
    r"""Draws the splits that are missing from the training rows, without replacement.

    Arguments:
        splits: The fields of each split that the source has, ``train`` among them.
        validation, test: Shares of the training rows, by default a tenth.
        seed: Which draw.
        origin: What an error calls the data.

    Raises:
        ValueError: If a share is given for a split that the source has, is not in
            :math:`[0, 1)`, or no row is left for training.
    """
    train = splits["train"]
    rows = train["x"].shape[0]
    counts: dict[str, int] = {}
    for split, share in {"validation": validation, "test": test}.items():
        if split in splits and share is not None:
            raise ValueError(f"{origin}: the data have a {split} split; give no share for it")
        if share is not None and not 0 <= share < 1:
            raise ValueError(f"{origin}: expected a share for {split} in [0, 1), got {share}")
        if split not in splits:
            counts[split] = round(rows * (SHARE if share is None else share))

    if sum(counts.values()) >= rows:
        raise ValueError(f"{origin}: expected rows left for training, got none of {rows}")
    if not any(counts.values()):
        return splits

    order = torch.randperm(rows, generator=Generator().manual_seed(seed), device="cpu")
    parts = order.split([rows - sum(counts.values()), *counts.values()])
    drawn = {
        split: {name: chosen(field, index) for name, field in train.items()}
        for split, index in zip(("train", *counts), parts, strict=True)
        if len(index)
    }
    return {**splits, **drawn}


def chosen(field: Tensor, index: Tensor) -> Tensor:
    r"""Some rows of a field, which are read now if they are in memory."""
    return field.select_rows(index) if isinstance(field, Lazy) else field[index.to(field.device)]
