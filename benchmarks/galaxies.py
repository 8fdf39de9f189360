r"""How many components have the galaxies? The evidence of finite mixtures, and infinite ones.

    PYRO_VAE_DATA=../shared/data uv run benchmarks/galaxies.py
    PYRO_VAE_DATA=../shared/data uv run benchmarks/galaxies.py --components 3 --chains 64

82 velocities in 1000 km/s, of which the 78th is 26.960, under the priors of Chib (1995): means
N(20, 10²), variances inverse-gamma(3, 20), uniform weights. The program has no plate over the data:
all of them are one datum, with its component summed out, so that annealing applies.
"""

import argparse
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from sklearn.mixture import BayesianGaussianMixture
from torch import Tensor

from pyro_vae.evaluation.evidence import ais
from pyro_vae.evaluation.setting import evaluating
from pyro_vae.gibbs import NormalInverseGamma, collapsed_gibbs
from pyro_vae.pair import Pair

BLOCK = 20_000  # draws of the prior at once


def mixture(K: int) -> Callable[[Tensor], None]:
    r"""The mixture, whose components are the same a priori."""

    def model(x: Tensor) -> None:
        ones = x.new_ones(K)
        weights = pyro.sample("weights", dist.Dirichlet(ones))
        variances = pyro.sample("variances", dist.InverseGamma(3 * ones, 20 * ones).to_event(1))
        means = pyro.sample("means", dist.Normal(20 * ones, 10 * ones).to_event(1))
        components = dist.Normal(means[..., None, :], variances[..., None, :].sqrt())
        one = dist.MixtureSameFamily(dist.Categorical(weights[..., None, :]), components)
        all_data = one.expand((*weights.shape[:-1], x.shape[-1]))
        pyro.sample("x", all_data.to_event(1), obs=x)

    return model


def evidence(x: Tensor, K: int, temperatures: int, chains: int) -> tuple[float, float, float]:
    r"""The log-evidence by annealing, its standard error, and the effective number of chains."""
    model = mixture(K)
    guide = AutoNormal(model)  # has no part in it
    guide(x)
    with evaluating(model, guide, rows=(x,), seed=0) as place:
        found = ais(
            Pair(model, guide),
            (x,),
            place,
            particles=temperatures,
            batch_size=None,
            seed=0,
            chains=chains,
        )
    return found["ais"].value, found["ais"].stderr, found["ais.ess"].value


def by_prior(x: Tensor, K: int, draws: int) -> tuple[float, float]:
    r"""The log-evidence by averaging the likelihood over draws of the prior, and its error.

    It is exact but for noise, and shares no code with annealing.
    """
    x, parts = x.float(), []
    for _ in range(draws // BLOCK):
        log_weights = dist.Dirichlet(torch.ones(K, dtype=x.dtype)).sample((BLOCK,)).log()
        variances = 20 / torch.distributions.Gamma(x.new_tensor(3.0), 1.0).sample((BLOCK, K))
        means = 20 + 10 * torch.randn(BLOCK, K, dtype=x.dtype)
        constants = log_weights - 0.5 * (2 * math.pi * variances).log()
        squares = (x - means[..., None]) ** 2 / variances[..., None]
        parts.append((constants[..., None] - 0.5 * squares).logsumexp(1).sum(1).double())
    log_p = torch.cat(parts)
    p = (log_p - log_p.max()).exp()
    value = log_p.max() + p.mean().log()
    return value.item(), (p.std() / p.mean() / len(p) ** 0.5).item()


def infinite(x: np.ndarray, draws: int) -> None:
    r"""Prints posteriors over the number of clusters, and scikit-learn's number beside."""
    same = {"mean_precision_prior": 0.1, "degrees_of_freedom_prior": 6.0}
    components = NormalInverseGamma(20.0, covariance_prior=40.0, **same)
    print("\n| concentration | number of clusters: probability ± error | typical | seconds |")
    print("|---|---|---|---|")
    for prior in ((1.0, 1.0), (1.0, 5.0), 0.2, 1.0):
        start = time.perf_counter()
        found = collapsed_gibbs(x, components, concentration=prior, draws=draws)
        p, error = found.number_of_clusters()
        likely = sorted(np.argsort(p)[-5:])
        row = ", ".join(f"{k}: {p[k]:.3f} ± {error[k]:.3f}" for k in likely)
        words = f"Gamma{prior}" if isinstance(prior, tuple) else f"{prior}"
        seconds = time.perf_counter() - start
        print(f"| {words} | {row} | {found.consensus().max() + 1} | {seconds:.0f} |")
    for prior in (0.2, 1.0):
        theirs = BayesianGaussianMixture(
            n_components=20,
            mean_prior=[20.0],
            covariance_prior=[[40.0]],
            weight_concentration_prior=prior,
            max_iter=5000,
            random_state=0,
            **same,
        ).fit(x)
        used = np.unique(theirs.predict(x)).size
        print(f"| {prior}, scikit-learn's BayesianGaussianMixture | {used} | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--components", type=int, nargs="+", default=[2, 3, 4, 5, 6])
    parser.add_argument("--temperatures", type=int, default=300)
    parser.add_argument("--chains", type=int, default=192)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--prior-draws", type=int, default=4_000_000)
    args = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    path = Path(os.environ["PYRO_VAE_DATA"]) / "galaxies" / "galaxies.csv"
    x = np.loadtxt(path, skiprows=1) / 1000
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")

    print("\n| K | log p(x) | error | chains, effective | seconds | by draws of the prior |")
    print("|---|---|---|---|---|---|")
    for K in args.components:
        start = time.perf_counter()
        value, error, ess = evidence(torch.from_numpy(x), K, args.temperatures, args.chains)
        seconds = time.perf_counter() - start
        crude, noise = by_prior(torch.from_numpy(x), K, args.prior_draws)
        row = f"| {K} | {value:.2f} | {error:.2f} | {ess:.0f} of {args.chains} | {seconds:.0f} "
        print(f"{row}| {crude:.2f} ± {noise:.2f} |", flush=True)
    infinite(x[:, None], args.draws)


if __name__ == "__main__":
    main()
