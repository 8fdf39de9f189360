r"""Blocks of data, one a thread, with results in their order."""

__all__ = ["in_order"]

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from pyro_vae.threads import few_threads

T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Iterable[T], work: int) -> Iterator[R]:
    r"""Calls a function for each item, and yields what it returns, in the order of the items.

    On several cores each item is one thread's: threads that share a small product of matrices
    would wait for one another at each. No more items are held than there are threads, and one.

    Arguments:
        function: What is called.
        items: With what it is called, which are tensors on the CPU.
        work: The number of multiplications for all items; for few there is one thread.
    """
    threads = torch.get_num_threads()
    if threads == 1 or work < _ENOUGH:
        with few_threads(0):
            yield from map(function, items)
        return

    waiting: deque[Future[R]] = deque()
    # what a thread sets holds for it and for those to come, hence the restoring
    with few_threads(0), ThreadPoolExecutor(threads, initializer=_alone) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _alone() -> None:
    torch.set_num_threads(1)


_ENOUGH = 2**24  # multiplications: a few milliseconds
