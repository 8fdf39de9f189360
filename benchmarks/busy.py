r"""Load for ``steps.py``."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

BUSY = """
import os, torch
parent, x = os.getppid(), torch.randn(512, 512)
print("busy", flush=True)
while os.getppid() == parent:
    x = torch.tanh(x @ x)
"""


@contextmanager
def busy(count: int = 2) -> Iterator[None]:
    r"""Other torch processes at work, with as many threads as torch takes by itself.

    They end with the block, or with this process if it is killed.
    """
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", BUSY]
    found = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(count)
    ]
    try:
        for process in found:
            assert process.stdout is not None
            process.stdout.readline()  # it has begun
        yield
    finally:
        for process in found:
            process.kill()
            process.communicate()
