r"""Batches that threads read ahead."""

import threading
import time
from itertools import islice

import numpy as np
import pytest
import torch

from pyro_vae.data.feed import feed
from pyro_vae.data.lazy import Lazy, Rows

EACH = torch.arange(10)[:, None].unbind()


class Recorded:
    r"""Ten numbers, read once told to; notes which were asked for, and by which thread."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: list[int] = []
        self.threads: set[int] = set()

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: slice | np.ndarray) -> torch.Tensor:
        if isinstance(index, slice):
            return torch.arange(10)[index]
        self.asked += index.tolist()
        self.threads.add(threading.get_ident())
        assert self.go.wait(60), "nobody let the store read"
        if 7 in index:
            raise OSError("the disk is gone")
        return torch.from_numpy(index)


def test_threads_read_ahead_and_pass_on_what_goes_wrong() -> None:
    store = Recorded()
    found = feed({"x": Lazy(Rows.of(store))}, EACH, 2, None)
    first = threading.Thread(target=lambda: next(found))
    first.start()
    while len(store.asked) < 2:
        time.sleep(0.001)
    asked = sorted(store.asked)  # one in each thread, two more in line
    store.go.set()
    first.join()
    assert asked == [0, 1]

    assert [batch["x"].item() for batch in islice(found, 6)] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)
    assert len(store.threads) == 2
    assert store.threads.isdisjoint({threading.get_ident(), first.ident})


def test_no_more_is_read_ahead_than_two_batches_a_thread() -> None:
    store = Recorded()
    store.go.set()
    found = feed({"x": Lazy(Rows.of(store))}, EACH, 1, None)
    next(found)
    while len(store.asked) < 3:
        time.sleep(0.001)
    time.sleep(0.05)  # time to read all the rest, if it were asked for

    assert store.asked == [0, 1, 2]
    found.close()
    assert store.asked == [0, 1, 2]


def test_what_is_in_line_is_not_read_once_nobody_waits() -> None:
    store = Recorded()
    found = feed({"x": Lazy(Rows.of(store))}, EACH, 1, None)
    store.go.set()
    next(found)
    store.go.clear()
    threading.Timer(0.1, store.go.set).start()
    found.close()  # waits for the row that is being read

    assert len(store.asked) <= 3
    assert not [t for t in threading.enumerate() if t.name.startswith("pyro-vae-read")]
