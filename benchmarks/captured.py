r"""Every pair and objective of the tests through the compiler: the captured step is the eager step.

    uv run benchmarks/captured.py [ROW ...]

CI compiles every pair with the ELBO and every objective on one pair, and traces the rest; this
compiles all, which takes a quarter of an hour. It prints a line for each that differs.
"""

import sys
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from test_captured_zoo import PRODUCT, check


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Pyro's, where an objective does not suit a pair
    chosen = [(row, name) for row, name in PRODUCT if not sys.argv[1:] or row in sys.argv[1:]]
    start, wrong = time.perf_counter(), 0
    for row, objective in chosen:
        try:
            check(row, objective, {"options": {"fallback_random": True}})
        except (AssertionError, ValueError) as error:
            wrong += 1
            print(f"{row}, {objective}: {str(error).strip().splitlines()[0]}", flush=True)
    print(f"{len(chosen)} steps compiled, {wrong} differ; {time.perf_counter() - start:.0f} s")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
