r"""Iterations of EM beside scikit-learn's, and beside two products with pairs of features.

    uv run benchmarks/em.py
    uv run benchmarks/em.py --size 20000 --features 8 --components 4 --rounds 3
    uv run benchmarks/em.py --memory

All take turns in each round, from one start, so that ratios hold on a busy machine, too. An
iteration is the difference of two fits, of many iterations and of one.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Theirs
from threadpoolctl import threadpool_limits

from pyro_vae.em import GaussianMixture

# at most: of scikit-learn's time, and of that of the products in float64 and float32
LIMITS = {"full": (0.25, 1.8, 2.5), "diag": (0.5, None, None)}
BLOCK = 4096
ITERATIONS = 4


def data(size: int, D: int, K: int) -> np.ndarray:
    random = np.random.RandomState(0)
    means = 2 * random.randn(K, D)
    roots = [np.eye(D) + random.randn(D, D) / (4 * D**0.5) for _ in range(K)]
    parts = [
        random.randn(size // K, D) @ root + mean for mean, root in zip(means, roots, strict=True)
    ]
    x = np.concatenate(parts)
    return x[random.permutation(len(x))]


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def iteration(kind: type, x: np.ndarray, options: dict[str, Any]) -> tuple[float, float]:
    r"""The seconds of an iteration, and the objective after some."""
    one = timed(lambda: kind(max_iter=1, **options).fit(x))
    many = kind(max_iter=1 + ITERATIONS, **options)
    return (timed(lambda: many.fit(x)) - one) / ITERATIONS, many.lower_bound_


def products(x: np.ndarray, form: str, K: int) -> float:
    r"""The seconds of the products of an E-step and an M-step by quadratic features."""
    D = x.shape[1]
    F = 1 + D + D * (D + 1) // 2 if form == "full" else 2 * D + 1
    dtype = torch.from_numpy(x).dtype
    phi, W, r = (torch.rand(shape, dtype=dtype) for shape in ((F, BLOCK), (K, F), (K, BLOCK)))

    def call() -> None:
        for _ in range(-(-len(x) // BLOCK)):
            W @ phi
            r @ phi.T

    return timed(call)


def compare(x: np.ndarray, form: str, K: int, rounds: int) -> str:
    random = np.random.RandomState(1)
    means = x[random.choice(len(x), K, replace=False)]
    start = GaussianMixture(
        K, covariance_type=form, means_init=means, init_params="random_from_data", max_iter=2
    ).fit(x)
    options = {
        "n_components": K,
        "covariance_type": form,
        "tol": 0,
        "weights_init": start.weights_.astype(x.dtype) / start.weights_.astype(x.dtype).sum(),
        "means_init": start.means_.astype(x.dtype),
        "precisions_init": start.precisions_.astype(x.dtype),
        "init_params": "random_from_data",
    }
    seconds: list[tuple[float, float, float]] = []
    for _ in range(rounds):
        ours, here = iteration(GaussianMixture, x, options)
        theirs, there = iteration(Theirs, x, options)
        seconds.append((ours, theirs, products(x, form, K)))
    median = [statistics.median(column) * 1e3 for column in zip(*seconds, strict=True)]
    of_theirs = statistics.median(ours / theirs for ours, theirs, _ in seconds)
    of_products = statistics.median(ours / both for ours, _, both in seconds)
    limits = LIMITS.get(form, (None, None, None))
    limit = limits[1 if x.dtype == np.float64 else 2]
    return (
        f"| {form}, {x.dtype} | {median[0]:.0f} | {median[1]:.0f} | {median[2]:.0f} "
        f"| {of_theirs:.3f} | {limits[0] or '–'} | {of_products:.2f} | {limit or '–'} "
        f"| {abs(here / there - 1):.0e} |"
    )


def streamed(size: int, D: int, K: int) -> str:
    r"""Fits a file by a map of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npy")
        x = np.lib.format.open_memmap(path, "w+", np.float32, (size, D))
        for start in range(0, size, 100_000):
            part = x[start : start + 100_000]
            part[:] = np.random.RandomState(start).randn(*part.shape)
        x.flush()
        before = _anonymous()
        mixture = GaussianMixture(K, init_params="random_from_data", max_iter=3, random_state=0)
        seconds = timed(lambda: mixture.fit(path))
        more = (_anonymous() - before) / 2**20
    return f"{size} x {D} from a file: {seconds:.1f} s for 3 iterations, {more:.0f} MiB more in use"


# the peak is that of the whole process: each fit has one of its own
PEAK = """
import sys, warnings
import numpy as np
from pyro_vae.em import GaussianMixture
warnings.simplefilter("ignore")
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
path, form, components = sys.argv[1], sys.argv[2], int(sys.argv[3])
x = np.load(path)
options = {"covariance_type": form, "init_params": "random_from_data", "random_state": 0}
found = [peak()]
for rows in (16_384, len(x)):
    GaussianMixture(components, max_iter=3, tol=0, **options).fit(x[:rows])
    found.append(peak())
print(*found)
"""


def memory(x: np.ndarray, form: str, K: int) -> str:
    r"""The most memory of a fit beyond the import and the data, and beyond a fit of few rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npy")
        np.save(path, x)
        command = [sys.executable, "-c", PEAK, str(path), form, str(K)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    imported, few, whole = (1024 * int(kib) for kib in run.stdout.split())
    size = x.nbytes
    return (
        f"| {form}, {x.dtype} | {size / 2**20:.0f} | {(few - imported) / 2**20:.0f} "
        f"| {(whole - imported) / size:.2f} | {(whole - few) / size:.2f} |"
    )


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--forms", nargs="+", default=["full", "diag", "tied", "spherical"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--stream", type=int, default=0, help="rows of a file, such as 10000000")
    parser.add_argument("--memory", action="store_true", help="memory alone, in place of time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)

    x = data(options.size, options.features, options.components)
    if options.memory:
        print(
            "| | data, MiB | 16,384 rows, MiB | all, beyond the data ÷ data "
            "| beyond 16,384 rows ÷ data |\n" + "|---" * 5 + "|"
        )
        for form in options.forms:
            for dtype in (np.float64, np.float32):
                print(memory(x.astype(dtype), form, options.components), flush=True)
        return
    print(
        "| ms an iteration | this | scikit-learn | products | ÷ sk | ≤ | ÷ products | ≤ | apart |"
    )
    print("|---" * 9 + "|")
    with threadpool_limits(options.threads):
        for form in options.forms:
            for dtype in (np.float64, np.float32):
                row = compare(x.astype(dtype), form, options.components, options.rounds)
                print(row, flush=True)
    if options.stream:
        print(streamed(options.stream, 16, options.components))
    print(
        f"\nN = {len(x)}, D = {options.features}, K = {options.components}; {options.threads} "
        f"threads, torch {torch.__version__}, scikit-learn {sklearn.__version__}, "
        f"Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
