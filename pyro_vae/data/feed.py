r"""Batches of fields, read ahead where they are not in memory."""

__all__ = ["feed"]

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch
from torch import Tensor

from pyro_vae.data.lazy import Lazy


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
        workers: The number of threads that read rows that are not in memory.
        device: Where batches go, by default where the fields are.
    """
    away = {name: field.rows for name, field in fields.items() if isinstance(field, Lazy)}
    here = {name: field for name, field in fields.items() if name not in away}
    # what is copied to an accelerator from pinned memory is copied while it computes
    pinned = device is not None and device.type == "cuda"

    def read(rows: Tensor) -> dict[str, Tensor]:
        stored = {name: field.raw(rows) for name, field in away.items()}
        return {name: x.pin_memory() if pinned else x for name, x in stored.items()}

    batches = read_ahead(read, index, workers if away else 0)
    for rows, batch in zip(index, batches, strict=True):
        for name, field in here.items():
            batch[name] = field.index_select(0, rows.to(field.device))
        moved = {name: placed(batch[name], device, pinned) for name in fields}
        # what is read takes less room, and less time on the way, before it is converted
        yield {
            name: away[name].finish(field) if name in away else field
            for name, field in moved.items()
        }


def read_ahead(
    read: Callable[[Tensor], dict[str, Tensor]], index: Sequence[Tensor], workers: int
) -> Iterator[dict[str, Tensor]]:
    r"""Reads batches in order, up to two for each thread before they are asked for."""
    if workers == 0:
        yield from map(read, index)
        return
    left = iter(index)
    # threads: a map of a file is read outside the interpreter's lock, and other processes would
    # wait forever where what they are sent gets lost, as in a temporary folder with a long name
    pool = ThreadPoolExecutor(workers, "pyro-vae-read")
    try:
        coming = deque(pool.submit(read, rows) for rows in islice(left, 2 * workers))
        while coming:
            batch = coming.popleft().result()
            coming.extend(pool.submit(read, rows) for rows in islice(left, 1))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def placed(field: Tensor, device: torch.device | None, pinned: bool) -> Tensor:
    r"""A field on a device."""
    if device is None or field.device == device:
        return field
    if pinned and field.device.type == "cpu":
        return field.pin_memory().to(device, non_blocking=True)
    return field.to(device)
