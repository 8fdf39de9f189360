r"""How many threads a step is worth."""

__all__ = ["few_threads"]

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# products of parameters and batch below which a step is too short to be shared by threads:
# they wait for one another; where other work held a core, it took 80 to 200 ms instead of 3
_SMALL = 2**24


@contextmanager
def few_threads(work: int) -> Iterator[None]:
    r"""Has torch use one thread where there is little to do.

    Arguments:
        work: The number of parameters times that of data in a batch.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if work < _SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
