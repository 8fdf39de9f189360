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
    r"""Ten numbers, each read once it may be; notes which were asked for, and by which thread."""

    def __init__(self, allowed: int = 0) -> None:
        self.allowed = threading.Semaphore(allowed)
        self.asked: list[int] = []
        self.threads: set[int] = set()

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: slice | np.ndarray) -> torch.Tensor:
        if isinstance(index, slice):
            return torch.arange(10)[index]
        self.asked += index.tolist()
        self.threads.add(threading.get_ident())
        assert self.allowed.acquire(timeout=60), "nobody let the store read"
        if 7 in index:
            raise OSError("the disk is gone")
        return torch.from_numpy(index)

    def wait(self, count: int) -> None:
        r"""Until so many were asked for."""
        end = time.monotonic() + 60
        while len(self.asked) < count:
            assert time.monotonic() < end, f"only {self.asked} were asked for"
            time.sleep(0.001)


def test_threads_read_ahead_and_pass_on_what_goes_wrong() -> None:
    store = Recorded()
    found = feed({"x": Lazy(Rows.of(store))}, EACH, 2, None)
    first = threading.Thread(target=lambda: next(found))
    first.start()
    store.wait(2)
    asked = sorted(store.asked)  # one in each thread, two more in line
    store.allowed.release(10)
    first.join()
    assert asked == [0, 1]

    assert [batch["x"].item() for batch in islice(found, 6)] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)
    assert len(store.threads) == 2
    assert store.threads.isdisjoint({threading.get_ident(), first.ident})


def test_no_more_is_read_ahead_than_two_batches_a_thread() -> None:
    store = Recorded(allowed=10)
    found = feed({"x": Lazy(Rows.of(store))}, EACH, 1, None)
    next(found)
    store.wait(3)
    time.sleep(0.05)  # time to read all the rest, if it were asked for

    assert store.asked == [0, 1, 2]
    found.close()


def test_what_is_in_line_is_not_read_once_nobody_waits() -> None:
    store = Recorded(allowed=1)
    found = feed({"x": Lazy(Rows.of(store))}, EACH, 1, None)
    next(found)
    store.wait(2)  # and the third is in line
    threading.Timer(0.1, store.allowed.release, [9]).start()
    found.close()  # waits for the row that is being read

    assert store.asked == [0, 1]
    assert not [t for t in threading.enumerate() if t.name.startswith("pyro-vae-read")]
