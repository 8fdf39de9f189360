r"""Online EM, threads, blocks, and what they cost in memory."""

import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pyro_vae.em import BernoulliMixture, GaussianMixture
from pyro_vae.em.parallel import in_order
from pyro_vae.em.rows import Batches, Table

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def data(size: int, D: int = 4, seed: int = 0) -> np.ndarray:
    random = np.random.RandomState(seed)
    means = 3 * np.random.RandomState(5).randn(3, D)
    return means[random.choice(3, size, p=[0.5, 0.3, 0.2])] + random.randn(size, D)


@pytest.mark.parametrize("form", ["full", "tied", "diag", "spherical"])
def test_online_em_approaches_batch_em(form: str) -> None:
    r"""400 batches of 100: within 0.01 nats of the maximum (seen: at most 0.002)."""
    x = data(40_000)
    options = {"covariance_type": form, "means_init": x[:3], "random_state": 0}
    batch = GaussianMixture(3, tol=1e-6, max_iter=300, **options).fit(x)  # type: ignore[arg-type]
    online = GaussianMixture(3, **options)  # type: ignore[arg-type]
    scores = []
    for part in np.split(x, 400):
        online.partial_fit(part)
        scores.append(online.score(x[:2000]))

    assert online.n_iter_ == 400
    assert batch.score(x) - online.score(x) < 0.01
    assert scores[-1] > scores[0] + 0.1


def test_online_em_of_one_component_is_the_running_mean() -> None:
    r"""With its step sizes the mean is a weighted one, of weights that multiply up."""
    x = (data(600) > 0).astype(float)
    online, mean = BernoulliMixture(1), x[:100].mean(0)
    for t, part in enumerate(np.split(x, 6), 1):
        online.partial_fit(part)
        rate = (t + 2) ** -0.6
        mean = (1 - rate) * mean + rate * part.mean(0)

    np.testing.assert_allclose(online.probabilities_[0], mean, rtol=1e-12)


def test_online_em_of_one_gaussian_is_the_running_moments() -> None:
    x = data(600)
    online = GaussianMixture(1, reg_covar=0)
    first, second = x[:100].mean(0), x[:100].T @ x[:100] / 100
    for t, part in enumerate(np.split(x, 6), 1):
        online.partial_fit(part)
        rate = (t + 2) ** -0.6
        first = (1 - rate) * first + rate * part.mean(0)
        second = (1 - rate) * second + rate * part.T @ part / 100

    np.testing.assert_allclose(online.means_[0], first, rtol=1e-10)
    np.testing.assert_allclose(online.covariances_[0], second - np.outer(first, first), rtol=1e-9)


def test_a_fit_forgets_the_steps_before() -> None:
    x = data(300)
    mixture = GaussianMixture(3, random_state=0)
    mixture.partial_fit(x[:100, :2]).fit(x)

    assert mixture.partial_fit(x).n_iter_ == 1


def test_a_first_batch_of_too_few_is_an_error() -> None:
    with pytest.raises(ValueError, match="a first batch of at least n_components=3 data, got 2"):
        GaussianMixture(3).partial_fit(data(2))


@pytest.mark.usefixtures("threads")
def test_threads_change_nothing() -> None:
    x = data(30_000, D=12)
    options = {"means_init": x[:3], "max_iter": 2, "init_params": "random_from_data"}
    several = GaussianMixture(3, random_state=0, **options).fit(x)
    torch.set_num_threads(1)
    single = GaussianMixture(3, random_state=0, **options).fit(x)

    np.testing.assert_array_equal(several.covariances_, single.covariances_)


@pytest.mark.usefixtures("threads")
def test_results_come_in_order_and_few_items_are_held() -> None:
    taken, threads = [], []

    def items() -> Iterator[int]:
        for i in range(20):
            taken.append(i)
            yield i

    def work(i: int) -> int:
        time.sleep(0.01 * (i % 3))
        threads.append(torch.get_num_threads())
        return i * i

    for count, found in enumerate(in_order(work, items(), 2**30)):
        assert found == count**2
        assert len(taken) <= count + 4
    assert set(threads) == {1}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("threads")
def test_an_error_in_a_thread_is_raised() -> None:
    def fail(i: int) -> int:
        raise ValueError(f"item {i}")

    with pytest.raises(ValueError, match="item 0"):
        list(in_order(fail, range(5), 2**30))
    assert torch.get_num_threads() == 2


def test_any_row_is_as_likely_to_be_kept() -> None:
    r"""4,000 samples of 5 of 20 rows: a count's sd is 27; 20 stay within 5 but 1 time in 90,000."""
    rows = Batches(
        [torch.arange(20.0)[i : i + 7, None] for i in range(0, 20, 7)],
        torch.float64,
        torch.device("cpu"),
        1,
    )
    table = Table(np.arange(20.0)[:, None], None, torch.float64, torch.device("cpu"))
    for source in (rows, table):
        random, counts = np.random.RandomState(0), np.zeros(20)
        for _ in range(4000):
            kept = source.some(5, random).x[:, 0].long().numpy()
            assert len(set(kept)) == 5
            counts[kept] += 1
        assert np.abs(counts - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)


MEMORY = """
import resource, sys
import numpy as np, torch
from pyro_vae.em import GaussianMixture
torch.set_num_threads(1)
options = dict(init_params="random_from_data", max_iter=2, tol=0, random_state=0)
GaussianMixture(4, **options).fit(np.random.RandomState(0).randn(70_000, 16).astype(np.float32))
def anonymous():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1])
before = anonymous()
import threading, time
most, done = 0, False
def watch():
    global most
    while not done:
        most = max(most, anonymous())
        time.sleep(0.002)
thread = threading.Thread(target=watch, daemon=True); thread.start()
import warnings; warnings.simplefilter("ignore")
GaussianMixture(4, **options).fit(sys.argv[1])
done = True; thread.join()
print(most - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_a_mapped_file_takes_bounded_memory(tmp_path: object) -> None:
    path = f"{tmp_path}/x.npy"
    x = np.lib.format.open_memmap(path, "w+", np.float32, (500_000, 16))
    for start in range(0, len(x), 100_000):
        x[start : start + 100_000] = np.random.RandomState(start).randn(100_000, 16)
    x.flush()
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY, path],
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert run.returncode == 0, run.stderr
    assert int(run.stdout) * 1024 < 0.5 * x.nbytes  # of 32 MB
