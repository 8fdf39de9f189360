r"""The VAEs that are timed: their networks, at one start, and their data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.data import load
from pyro_vae.nn import conv_decoder, conv_encoder, mlp

RATE = 1e-3
WARM = 30  # steps before any is timed


@dataclass(frozen=True)
class Size:
    r"""A VAE whose networks are perceptrons, as wide each way, or convolutional.

    Arguments:
        features, latents: The widths of data and latents.
        hidden: The widths of the hidden layers.
        batch: The number of data in a batch.
        small: Whether ``fit`` would use one thread.
        functions: Whether the programs are plain functions, with a prior that is learned.
        activation: What follows a hidden layer.
        image: The shape of a datum, where networks are convolutional.
        particles: Those of the importance-weighted bound; one is the ELBO.
    """

    features: int
    hidden: tuple[int, ...]
    latents: int
    batch: int
    small: bool = True
    functions: bool = False
    activation: type[nn.Module] = nn.ReLU
    image: tuple[int, int, int] | None = None
    particles: int = 1

    def __str__(self) -> str:
        widths = "-".join(map(str, (self.features, *self.hidden, self.latents)))
        kind = "" if self.image is None else ", convolutional"
        k = "" if self.particles == 1 else f", K = {self.particles}"
        return f"{widths}{kind}, batch {self.batch}{k}"

    def networks(self) -> tuple[nn.Module, nn.Module]:
        r"""Decoder and encoder; each call makes the same ones anew."""
        torch.manual_seed(0)
        outputs = 2 * self.latents
        if self.image is not None:
            decoder = conv_decoder(self.latents, self.image, hidden=self.hidden[0])
            return decoder, conv_encoder(self.image, outputs, hidden=self.hidden[0])
        back = self.hidden[::-1]
        return (
            mlp(self.latents, self.features, back, self.activation),
            mlp(self.features, outputs, self.hidden, self.activation),
        )


SIZES = {
    "digits": Size(64, (64,), 8, 64),
    "mnist": Size(784, (400,), 50, 128, small=False),
    "functions": Size(64, (64,), 8, 64, functions=True),
    "iwae": Size(784, (200, 200), 50, 100, small=False, activation=nn.Tanh, particles=50),
    "conv": Size(3072, (256,), 32, 64, small=False, image=(3, 32, 32)),
}


@dataclass
class Contender:
    r"""One who takes steps.

    Arguments:
        step: Takes one on a batch; returns the loss before it, summed over the batch. Or, with
            ``prepare``, takes all of a block in one call, and returns a loss for each.
        sampled: Whether the loss has log-densities of the draw for the closed form of the KL.
        exact: How many of its first steps draw torch's own noise, as those by hand do.
        prepare: Makes of a block's batches what ``step`` takes; it is not timed.
        store: Its own parameter store, since in Pyro's one store names would collide.
    """

    step: Callable[[Any], Any]
    sampled: bool = False
    exact: int = WARM
    prepare: Callable[[list[Tensor]], Any] | None = None
    store: Any = field(default_factory=lambda: {"params": {}, "constraints": {}})
    count: int = 0


Makers = dict[str, Callable[[], Contender]]


def probabilities(rows: int, features: int = 784) -> Tensor:
    r"""What stands for images: eight factors, about a fifth of the features on."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(rows, 8, generator=generator)
    loadings = torch.randn(8, features, generator=generator)
    return torch.sigmoid(factors @ loadings - 2)


def batches(size: Size) -> list[Tensor]:
    r"""Whole batches of zeros and ones: scikit-learn's digits, or what stands for images."""
    if size.features == 64:
        x = load("digits", binarization="static").train["x"].flatten(1)
    else:
        p = probabilities(4096, size.features)
        x = torch.bernoulli(p, generator=torch.Generator().manual_seed(1))
    return [part for part in x.split(size.batch) if len(part) == size.batch]
