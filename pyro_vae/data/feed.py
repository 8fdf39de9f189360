r"""Batches of fields, read ahead where they are not in memory."""

__all__ = ["feed"]

from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from pyro_vae.data.lazy import Lazy, Rows


class Reader(Dataset[dict[str, Tensor]]):
    r"""What workers hold: fields of which they read rows, as they are stored."""

    def __init__(self, fields: dict[str, Rows]) -> None:
        self.fields = fields

    def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
        return {name: rows.raw(index) for name, rows in self.fields.items()}


def feed(
    fields: dict[str, Tensor],
    index: Sequence[Tensor],
    workers: int,
    device: torch.device | None,
) -> Iterator[dict[str, Tensor]]:
    r"""Reads batches of rows in order, the same whoever reads them.

    Arguments:
        fields: Tensors with equal lengths.
        index: The numbers of the rows of each batch.
        workers: The number of processes that read rows that are not in memory.
        device: Where batches go, by default where the fields are.
    """
    away = {name: field.rows for name, field in fields.items() if isinstance(field, Lazy)}
    here = {name: field for name, field in fields.items() if name not in away}
    # what is copied to an accelerator from pinned memory is copied while it computes
    pinned = device is not None and device.type == "cuda"
    batches = read(Reader(away), index, workers if away else 0, pinned)
    for rows, batch in zip(index, batches, strict=True):
        for name, field in here.items():
            batch[name] = field.index_select(0, rows.to(field.device))
        moved = {name: placed(batch[name], device, pinned) for name in fields}
        # what is read takes less room, and less time on the way, before it is converted
        yield {
            name: away[name].finish(field) if name in away else field
            for name, field in moved.items()
        }


def read(
    reader: Reader, index: Sequence[Tensor], workers: int, pinned: bool
) -> Iterator[dict[str, Tensor]]:
    r"""Has batches read by this process, or by others."""
    if workers == 0:
        return map(reader.__getitem__, index)
    # a generator of its own, since the loader draws a seed that nobody uses
    return iter(
        DataLoader(
            reader,
            batch_size=None,
            sampler=index,
            num_workers=workers,
            pin_memory=pinned,
            generator=Generator(),
        )
    )


def placed(field: Tensor, device: torch.device | None, pinned: bool) -> Tensor:
    r"""A field on a device."""
    if device is None or field.device == device:
        return field
    if pinned and field.device.type == "cpu":
        return field.pin_memory().to(device, non_blocking=True)
    return field.to(device)
