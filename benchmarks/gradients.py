r"""Noise of the guide's gradient, by objective: a continuous and a discrete latent, K = 1, 5, 50.

    uv run benchmarks/gradients.py --draws 10000

Each model has one datum, and a guide some way off the posterior. Variance is summed over the
guide's parameters; signal-to-noise is the norm of the mean gradient over the root of that.
Objectives climb different bounds, so that what may be compared across a row is the variance of
those with the same mean, and signal-to-noise. All draws are made at once: each row of a batch has
guide parameters of its own, and the gradient of a row is that of its parameters.
"""

import argparse
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.draws import Draw
from pyro_vae.objectives import ELBO, IWAE, VIMCO, ReweightedWakeSleep, ScoreFunction, WakeSleep
from pyro_vae.pair import Pair

Maker = Callable[[int], Any]

KS = (1, 5, 50)
W = torch.tensor([[1.0, -0.5, 0.3], [0.4, 0.8, -1.0]], dtype=torch.float64)

PATHWISE: dict[str, Maker] = {
    "ELBO": lambda k: ELBO(particles=k),
    "ELBO, sampled KL": lambda k: ELBO("sampled", k),
    "ELBO, stl": lambda k: ELBO(particles=k, gradient="stl"),
    "IWAE": IWAE,
    "IWAE, stl (biased)": lambda k: IWAE(k, "stl"),
    "IWAE, dreg": lambda k: IWAE(k, "dreg"),
}
SCORE: dict[str, Maker] = {
    "ScoreFunction, none": lambda k: ScoreFunction(k, "none"),
    "ScoreFunction, average": lambda k: ScoreFunction(k, "average"),
    "ScoreFunction, network": lambda k: ScoreFunction(k, "network", network=nn.Linear(3, 1)),
    "ScoreFunction, leave_one_out": lambda k: ScoreFunction(k, "leave_one_out"),
    "VIMCO": VIMCO,
    "ReweightedWakeSleep, wake (biased)": ReweightedWakeSleep,
    "ReweightedWakeSleep, sleep": lambda k: ReweightedWakeSleep(k, wake=0.0, sleep=1.0),
    "WakeSleep": WakeSleep,
}


def continuous(phi: Tensor, reparametrised: bool) -> Pair:
    r"""z ~ N(0, I), x ~ N(W z, I), and a normal guide that may be drawn without a path."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = [pyro.sample(name, dist.Normal(x.new_zeros(()), 1.0)) for name in ("z1", "z2")]
            loc = torch.stack(torch.broadcast_tensors(*z), -1) @ W
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            for i, name in enumerate(("z1", "z2")):
                q = dist.Normal(phi[:, i], phi[:, 2 + i].exp())
                pyro.sample(name, q.has_rsample_(reparametrised))

    return Pair(model, guide)


def discrete(phi: Tensor) -> Pair:
    r"""z ~ B(1/2), x ~ B(W z), two bits."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Bernoulli(x.new_full((2,), 0.5)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ W * 2).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=phi).to_event(1))

    return Pair(model, guide)


def gradients(pair: Pair, objective: Any, phi: Tensor, x: Tensor) -> Tensor:
    r"""The gradient of each row, once an objective that learns has done so."""
    layout = pair.plan((x,), {}).layout
    own = list(objective.parameters()) if isinstance(objective, nn.Module) else []
    optimizer = torch.optim.Adam(own, lr=0.03) if own else None
    for _ in range(100 if hasattr(objective, "update") else 0):
        draw = Draw(pair.model, pair.guide, (x,), {}, layout, objective.particles)
        bound = objective(draw)
        if optimizer is not None:
            optimizer.zero_grad()
            (-bound.own).backward(inputs=own)
            optimizer.step()
        with torch.no_grad():
            objective.update(draw, bound)
    particles, pathwise = objective.particles, objective.pathwise
    draw = Draw(pair.model, pair.guide, (x,), {}, layout, particles, pathwise=pathwise)
    (found,) = torch.autograd.grad(objective(draw).guide, phi)
    return found * len(x)


def cell(pair: Pair, maker: Maker, k: int, phi: Tensor, x: Tensor) -> str:
    try:
        objective = maker(k)
    except ValueError:  # needs more particles
        return "–"
    found = gradients(pair, objective, phi, x)
    variance = found.var(0).sum().item()
    noise = math.sqrt(variance)
    signal = found.mean(0).norm().item()
    return f"{variance:.3g} / {signal / noise:.2g}" if noise > 1e-12 else "0 / ∞"


def table(title: str, rows: dict[str, tuple[Pair, Maker]], phi: Tensor, x: Tensor) -> None:
    print(f"\n| {title}: variance / signal-to-noise | " + " | ".join(f"K = {k}" for k in KS) + " |")
    print("|---" * (len(KS) + 1) + "|")
    for name, (pair, maker) in rows.items():
        print(f"| {name} | " + " | ".join(cell(pair, maker, k, phi, x) for k in KS) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(given.seed)
    pyro.enable_validation(False)

    x = torch.tensor([1.0, -0.5, 0.8]).expand(given.draws, 3).contiguous()
    phi = torch.tensor([0.5, 0.2, -0.2, -0.5]).repeat(given.draws, 1).requires_grad_()
    smooth, rough = continuous(phi, True), continuous(phi, False)
    rows = {name: (smooth, maker) for name, maker in PATHWISE.items()}
    rows |= {name: (rough, maker) for name, maker in SCORE.items()}
    table("normal latents", rows, phi, x)

    x = torch.tensor([1.0, 0.0, 1.0]).expand(given.draws, 3).contiguous()
    phi = torch.tensor([0.3, -0.4]).repeat(given.draws, 1).requires_grad_()
    pair = discrete(phi)
    table("bits", {name: (pair, maker) for name, maker in SCORE.items()}, phi, x)


if __name__ == "__main__":
    main()
