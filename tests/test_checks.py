r"""The checker: each broken pair and the words it must get, and sound pairs, which get none."""

import inspect
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn
from zoo import ZOO, D, F, N, Pair, binary, normal, standard

from pyro_vae.checks import Finding, check, require
from pyro_vae.guides import AmortizedNormal
from pyro_vae.likelihoods import Binomial
from pyro_vae.models import VAE
from pyro_vae.nn import mlp
from pyro_vae.objectives import ELBO

assert len({N, F, D}) == 3  # sizes that are equal hide what is wrong


def data(x: Tensor) -> pyro.plate:
    return pyro.plate("data", x.shape[0], dim=-1)


def sound_model(x: Tensor) -> None:
    with data(x):
        z = pyro.sample("z", standard(x, D))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand_by(()).to_event(0), obs=x)


class Guide(PyroModule):
    r"""A sound guide, or one that is broken by how it makes its distribution or plate."""

    def __init__(
        self,
        features: int = D,
        size: int | None = None,
        name: str = "z",
        make: Callable[[Tensor], dist.TorchDistribution] = normal,
    ) -> None:
        super().__init__()
        self.features, self.size, self.name, self.make = features, size, name, make
        self.encoder = mlp(F, 2 * features, (8,))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", self.size or x.shape[0], dim=-1):
            pyro.sample(self.name, self.make(self.encoder(x)))


class Model(PyroModule):
    r"""A sound model, or one that is broken by how it makes its distributions or plate."""

    def __init__(
        self,
        prior: Callable[[Tensor], dist.TorchDistribution] = lambda x: standard(x, D),
        likelihood: Callable[[Tensor], dist.TorchDistribution] = lambda h: dist.Normal(
            h, 1.0
        ).to_event(1),
        size: int | None = None,
        latents: int = D,
    ) -> None:
        super().__init__()
        self.prior, self.likelihood, self.size = prior, likelihood, size
        self.decoder = mlp(latents, F, (8,))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", self.size or x.shape[0], dim=-1):
            z = pyro.sample("z", self.prior(x))
            pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)
