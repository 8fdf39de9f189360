r"""What every test starts from: float64, a seed, no parameters."""

import signal
from collections.abc import Iterator

import pyro
import pytest
import torch

# Tensors here are tiny: threads would wait for one another, 20 times longer on a busy machine.
torch.set_num_threads(1)

# A shell that starts the tests in the background has them ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def float64_and_seed() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    torch.set_default_dtype(torch.float32)  # that of the doctests
