r"""What every test starts from: float64, and one thread."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch

# Tensors here are tiny: threads would wait for one another, 20 times longer on a busy machine.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start

# A shell that starts the tests in the background has them ignore Ctrl-C, nohup that it hangs up.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)  # that of the doctests
