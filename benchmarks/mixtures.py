r"""How long EM, gradients and SVI take to the optimum of one mixture of Gaussians, from one start.

    uv run benchmarks/mixtures.py --threads 1
    uv run benchmarks/mixtures.py --size 20000 --features 8 --components 8

EM and guides of points end within 1e-6 nats per datum of the optimum of the log posterior, which a
long run of EM finds; a mean-field guide takes as many steps as it is told to, and what it expects
is about p / 2N below the optimum. Everything is in double precision.
"""

import argparse
import math
import platform
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from pyro_vae import SVI, em
from pyro_vae.models import BayesianGaussianMixture
from pyro_vae.objectives import ELBO
from pyro_vae.pair import Pair

CLOSE = 1e-6  # nats per datum
MOST = 3000  # steps
FEW = 3  # steps in which programs are inspected and compiled


class Took(NamedTuple):
    r"""Steps, their seconds, and those of the first few of them."""

    steps: int
    seconds: float
    beginning: float = 0.0

    @property
    def each(self) -> float:
        r"""The milliseconds of a later step."""
        later = self.steps - (FEW if self.beginning else 0)
        return 1e3 * (self.seconds - self.beginning) / max(1, later)


class Problem:
    r"""A model, data that it drew, and where everything begins."""

    def __init__(self, N: int, D: int, K: int, seed: int) -> None:
        pyro.set_rng_seed(seed)
        self.K, self.size = K, N
        self.prior = {
            "weight_concentration_prior": 2.0,
            "mean_prior": [0.0] * D,
            "mean_precision_prior": 0.1,
            "degrees_of_freedom_prior": 4.0,
            "covariance_prior": [1.0] * D,
        }
        self.model = BayesianGaussianMixture(D, K, **self.prior)
        self.x = self.model(n=N).detach()
        means = self.x[torch.randperm(N)[:K]].clone()
        self.start = {"weights": torch.ones(K) / K, "means": means, "variances": torch.ones(K, D)}
        self.numbers = K - 1 + 2 * K * D

    def em(self, **options: Any) -> em.GaussianMixture:
        return em.GaussianMixture(
            self.K,
            covariance_type="diag",
            reg_covar=0,
            weights_init=self.start["weights"],
            means_init=self.start["means"],
            precisions_init=1 / self.start["variances"],
            **self.prior,
            **options,
        )

    def guide(self, kind: Any, values: dict[str, Tensor] | None = None) -> Any:
        latents = poutine.block(self.model, hide=["component"])
        start = self.start if values is None else values
        values = {site: value.clone() for site, value in start.items()}  # a guide moves them
        return kind(latents, init_loc_fn=init_to_value(values=values))

    def draw(self, guide: Any, particles: int = 1) -> Any:
        with torch.no_grad():
            return Pair(self.model, guide).draw((self.x,), {}, particles)

    def optimum(self) -> float:
        found = self.em(tol=0, max_iter=20_000).fit(self.x)
        values = (found.weights_, found.means_, found.covariances_)
        point = {s: torch.from_numpy(v) for s, v in zip(self.start, values, strict=True)}
        return self.draw(self.guide(AutoDelta, point)).log_joint.mean().item()


def by_em(problem: Problem) -> Took:
    r"""The iterations after which EM is close, and the seconds of so many."""
    history = problem.em(tol=0, max_iter=20_000).fit(problem.x).lower_bounds_
    steps = next(i for i, value in enumerate(history) if value > history[-1] - CLOSE)
    begin = perf_counter()
    problem.em(tol=0, max_iter=max(1, steps)).fit(problem.x)
    return Took(steps, perf_counter() - begin)


def by_steps(step: Callable[[], float], enough: Callable[[float], bool]) -> Took:
    r"""The steps until it is enough, their seconds, and those of the first few of them."""
    begin, beginning, steps, value = perf_counter(), 0.0, 0, -math.inf
    while steps < MOST and not enough(value):
        value, steps = step(), steps + 1
        if steps == FEW:
            beginning = perf_counter() - begin
    return Took(steps, perf_counter() - begin, beginning)


def ours(problem: Problem, guide: Any, loss: Any, lr: float, capture: bool) -> Callable[[], float]:
    optim = partial(torch.optim.Adam, lr=lr)
    svi = SVI(problem.model, guide, optim, loss, reduction="mean", capture=capture)
    return lambda: -svi.step(problem.x).item()


def theirs(problem: Problem, guide: Any, loss: Any, lr: float) -> Callable[[], float]:
    pyro.clear_param_store()
    svi = pyro.infer.SVI(problem.model, guide, pyro.optim.Adam({"lr": lr}), loss)
    return lambda: -svi.step(problem.x) / problem.size


def enum() -> TraceEnum_ELBO:
    return TraceEnum_ELBO(max_plate_nesting=1)


def rows(problem: Problem, steps: int, lr: float) -> Iterator[tuple[str, Took, Any]]:
    r"""The name of each way, what it took, and its guide where it is no point."""
    best = problem.optimum()
    yield "EM", by_em(problem), None
    kinds: dict[str, Callable[[Any, float], Callable[[], float]]] = {
        "`SVI`, `ELBO`": lambda guide, lr: ours(problem, guide, ELBO(), lr, False),
        "`SVI`, `ELBO`, captured": lambda guide, lr: ours(problem, guide, ELBO(), lr, True),
        "`pyro.infer.SVI`, `TraceEnum_ELBO`": lambda guide, lr: theirs(problem, guide, enum(), lr),
    }
    for name, make in kinds.items():
        step = make(problem.guide(AutoDelta), lr)
        yield f"points, {name}", by_steps(step, lambda value: value > best - CLOSE), None
    for name, make in kinds.items():
        guide, left = problem.guide(AutoNormal), iter(range(steps))
        found = by_steps(make(guide, lr / 5), lambda _, left=left: next(left, None) is None)
        yield f"mean-field, {name}", found, guide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2000)
    parser.add_argument("--features", type=int, default=2)
    parser.add_argument("--components", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500, help="of a mean-field guide")
    parser.add_argument("--lr", type=float, default=0.2, help="of points; a fifth of mean-field's")
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore", ConvergenceWarning)

    problem = Problem(options.size, options.features, options.components, options.seed)
    best, base = problem.optimum(), 0.0
    print(f"| | steps | seconds | first {FEW} | ÷ EM | ms a later one | below the peak | bound |")
    print("|---" * 8 + "|")
    for name, took, guide in rows(problem, options.steps, options.lr):
        base = base or took.seconds
        row = f"| {name} | {took.steps} | {took.seconds:.2f} | {took.beginning:.2f} "
        row += f"| {took.seconds / base:.0f} | {took.each:.2f} |"
        if guide is not None:
            draw = problem.draw(guide, 2000)
            expected, bound = draw.log_joint.mean().item(), draw.log_weights.mean().item()
            row += f" {best - expected:.5f} | {bound:.4f} |"
        else:
            row += " ≤ 1e-6 |" + f" {best:.4f} |" if took.steps < MOST else " more | – |"
        print(row, flush=True)
    print(
        f"\nN = {options.size}, D = {options.features}, K = {options.components}, p = "
        f"{problem.numbers}, p / 2N = {problem.numbers / 2 / options.size:.5f}; {options.threads} "
        f"threads, torch {torch.__version__}, Pyro {pyro.__version__}, "
        f"Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
