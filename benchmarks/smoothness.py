r"""What latents hold, how smooth a decoder is and whether it repeats data: autoencoder and VAEs.

    uv run benchmarks/smoothness.py

An autoencoder (a guide that is a point, no divergence) and VAEs of growing weight ``beta`` are
trained on the digits with the same networks, steps and seed, and measured on test data.
"""

import argparse

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae import SVI
from pyro_vae.data import load
from pyro_vae.evaluation.memorisation import nearest_neighbours
from pyro_vae.evaluation.setting import evaluating
from pyro_vae.evaluation.smoothness import smoothness
from pyro_vae.evaluation.units import active_units
from pyro_vae.guides import AmortizedNormal
from pyro_vae.likelihoods import Normal
from pyro_vae.models import VAE
from pyro_vae.nn import mlp
from pyro_vae.objectives import ELBO
from pyro_vae.pair import Pair
from pyro_vae.programs import Program

HIDDEN, BATCH = (128, 128), 128


class Points(PyroModule):
    r"""The encoder of an autoencoder: q(z | x) is a point."""

    def __init__(self, features: int, latents: int) -> None:
        super().__init__()
        self.encoder = mlp(features, latents, HIDDEN)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Delta(self.encoder(x), event_dim=1))


def trained(x: Tensor, latents: int, beta: float, steps: int) -> tuple[Program, Program]:
    pyro.set_rng_seed(1)
    features = x.shape[1]
    model = VAE((features,), latents, Normal(0.15), mlp(latents, features, HIDDEN))
    encoder = mlp(features, 2 * latents, HIDDEN)
    guide = AmortizedNormal((features,), {"z": latents}, encoder) if beta else None
    guide = guide or Points(features, latents)
    svi = SVI(model, guide, torch.optim.Adam, ELBO(beta=beta), reduction="mean", capture=False)
    for _ in range(steps):
        svi.step(x[torch.randint(len(x), (BATCH,))])
    return model, guide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    steps = parser.parse_args().steps
    data = load("digits")
    train, test = (split["x"].flatten(1).float() for split in (data.train, data.test))
    train, test = (rows / train.max() for rows in (train, test))
    print("latents  beta  active  length    gap  steepness  closer")
    for latents in (2, 8):
        for beta in (0.0, 0.1, 1.0, 4.0):
            model, guide = trained(train, latents, beta, steps)
            options = {"particles": 10, "batch_size": None, "data_size": len(test), "seed": 0}
            with evaluating(model, guide, rows=(test,)) as place:
                pair = Pair(model, guide)
                found = {
                    **active_units(pair, (test,), place, capture=False, **options),
                    **smoothness(pair, (test,), place, capture=False, **options),
                }
            near = nearest_neighbours(model, guide, train, test, mean=True)
            print(
                f"{latents:7}  {beta:4}  {found['active_units']:6.0f}  "
                f"{found['interpolation.length']:6.2f}  {found['interpolation.gap']:5.3f}  "
                f"{found['lipschitz.relative']:9.2f}  {near.closer:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
