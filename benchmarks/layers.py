r"""The architectures of the IWAE paper: one layer of latents, and two."""

from functools import partial

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Size, Tensor, nn

from pyro_vae.guides import AmortizedNormal
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models import VAE
from pyro_vae.nn import flatten_event, mlp, positive

tanh = partial(mlp, activation=nn.Tanh)


def normal(outputs: Tensor) -> dist.TorchDistribution:
    loc, raw = outputs.chunk(2, -1)
    return dist.Normal(loc, positive(raw)).to_event(1)


class TwoLayers(PyroModule):
    r"""Sites: ``z2``, of 50 features, ``z1``, of 100, which depends on it, and ``x`` on ``z1``."""

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_shape = Size(event_shape)
        self.middle = tanh(50, 200, (100, 100))
        self.decoder = tanh(100, self.event_shape.numel(), (200, 200))
        self.register_buffer("zeros", torch.zeros(50))
        self.register_buffer("ones", torch.ones(50))

    def forward(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        with pyro.plate("data", n if x is None else x.shape[0], dim=-1):
            z2 = pyro.sample("z2", dist.Normal(self.zeros, self.ones).to_event(1))
            z1 = pyro.sample("z1", normal(self.middle(z2)))
            return pyro.sample("x", Bernoulli()(self.decoder(z1), self.event_shape), obs=x)


class BottomUp(PyroModule):
    r"""Draws ``z1`` given the data, and ``z2`` given ``z1``."""

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_shape = Size(event_shape)
        self.first = tanh(self.event_shape.numel(), 200, (200, 200))
        self.second = tanh(100, 100, (100, 100))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", normal(self.first(flatten_event(x, self.event_shape))))
            pyro.sample("z2", normal(self.second(z1)))


def programs(layers: int, event_shape: tuple[int, ...]) -> tuple[PyroModule, PyroModule]:
    r"""Model and guide with so many layers of latents."""
    if layers == 2:
        return TwoLayers(event_shape), BottomUp(event_shape)
    wide = partial(tanh, hidden=(200, 200))
    return VAE(event_shape, 50, decoder=wide), AmortizedNormal(event_shape, {"z": 50}, wide)
