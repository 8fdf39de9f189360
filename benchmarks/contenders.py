r"""The VAEs of ``steps.py``, and all who train them: the same network, start, data and optimiser.

The hand-written ones are what a user would write for this one model, without sites or guides.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.optim
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae import SVI
from pyro_vae.data import load
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.nn import mlp, positive

RATE = 1e-3
WARM = 30  # steps before any is timed
CAPTURED, EAGER = "this, captured", "this, eager"
TRACE, MEAN_FIELD = "pyro.infer.SVI, Trace_ELBO", "pyro.infer.SVI, TraceMeanField_ELBO"
ADAM, FUSED = "torch, Adam", "torch, fused Adam"
LOSS, STEP = "torch, loss compiled, fused Adam", "torch, step compiled"
COMPILED = (LOSS, STEP)

Step = Callable[[Tensor], Any]  # a tensor, or Pyro's float
Pair = tuple[Callable[..., object], Callable[..., object]]


@dataclass(frozen=True)
class Size:
    r"""A VAE: one hidden layer each way, as wide for both.

    Arguments:
        features, hidden, latents: The widths.
        batch: The number of data in a batch.
        small: Whether ``fit`` would use one thread.
        functions: Whether the programs are plain functions, with a prior that is learned.
    """

    features: int
    hidden: int
    latents: int
    batch: int
    small: bool = True
    functions: bool = False

    def __str__(self) -> str:
        return f"{self.features}-{self.hidden}-{self.latents}, batch {self.batch}"


SIZES = {
    "digits": Size(64, 64, 8, 64),
    "mnist": Size(784, 400, 50, 128, small=False),
    "functions": Size(64, 64, 8, 64, functions=True),
}


@dataclass
class Contender:
    r"""One who takes steps.

    Arguments:
        step: Takes one on a batch; returns the loss before it, summed over the batch.
        sampled: Whether the loss has log-densities of the draw for the closed form of the KL.
        exact: How many of its first steps draw torch's own noise, as those by hand do.
        store: Its own parameter store, since in Pyro's one store names would collide.
    """

    step: Step
    sampled: bool = False
    exact: int = WARM
    store: Any = field(default_factory=lambda: {"params": {}, "constraints": {}})
    count: int = 0


class Net(nn.Module):
    r"""The loss by hand; networks are made in the order in which the programs make them."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.decoder = mlp(size.latents, size.features, (size.hidden,))
        self.encoder = mlp(size.features, 2 * size.latents, (size.hidden,))
        self.learned = size.functions
        if size.functions:
            self.loc = nn.Parameter(torch.zeros(size.latents))
            self.log_scale = nn.Parameter(torch.zeros(size.latents))

    def forward(self, x: Tensor, sampled: bool = False) -> Tensor:
        loc, raw = self.encoder(x).chunk(2, -1)
        scale = F.softplus(raw) + 1e-6
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        fit = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        if self.learned:  # relative to the prior
            scale = scale * (-self.log_scale).exp()
            loc = (loc - self.loc) * (-self.log_scale).exp()
        if sampled:
            return fit + (((loc + scale * noise).square() - noise.square()) / 2 - scale.log()).sum()
        return fit + ((loc.square() + scale.square() - 1) / 2 - scale.log()).sum()


def by_hand(size: Size, fused: bool, compiled: bool = False, sampled: bool = False) -> Step:
    r"""The loop of every tutorial; the loss compiled or not, its divergence sampled or not."""
    net = Net(size)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE, fused=fused)
    loss: Callable[..., Tensor] = torch.compile(net, fullgraph=True) if compiled else net

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        value = loss(x, sampled)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def by_hand_compiled(size: Size) -> Step:
    r"""Loss, gradients and Adam in one compiled function.

    ``torch.optim``'s own ``step`` would break the graph, and the fused one cannot be compiled.
    """
    net = Net(size)
    parameters = list(net.parameters())
    means = [torch.zeros_like(p) for p in parameters]
    squares = [torch.zeros_like(p) for p in parameters]
    steps = torch.zeros(())

    def step(x: Tensor) -> Tensor:
        loss = net(x)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            steps.add_(1)
            rate, root = RATE / (1 - 0.9**steps), (1 - 0.999**steps).sqrt()
            for p, g, m, v in zip(parameters, gradients, means, squares, strict=True):
                m.lerp_(g, 0.1)
                v.mul_(0.999).addcmul_(g, g, value=0.001)
                p.sub_(rate * m / (v.sqrt() / root + 1e-8))
        return loss.detach()

    # the compiler refuses autograd.grad unless it is told; torch.func.grad_and_value is slower
    torch._dynamo.config.trace_autograd_ops = True
    compiled: Step = torch.compile(step, fullgraph=True)
    return compiled


def programs(size: Size) -> Pair:
    r"""Model and guide; each call makes the same ones anew."""
    torch.manual_seed(0)
    decoder = mlp(size.latents, size.features, (size.hidden,))
    encoder = mlp(size.features, 2 * size.latents, (size.hidden,))
    if not size.functions:
        events = (size.features,)
        return (
            VAE(events, size.latents, decoder=decoder),
            AmortizedNormal(events, {"z": size.latents}, encoder),
        )

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        loc = pyro.param("loc", lambda: torch.zeros(size.latents))
        scale = pyro.param(
            "scale", lambda: torch.ones(size.latents), constraint=dist.constraints.positive
        )
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        loc, raw = encoder(x).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, positive(raw)).to_event(1))

    return model, guide


def ours(size: Size, capture: bool) -> Step:
    optimizer = partial(torch.optim.Adam, lr=RATE)
    return SVI(*programs(size), optimizer, capture=capture).step


def pyros(size: Size, loss: pyro.infer.ELBO) -> Step:
    step: Step = pyro.infer.SVI(*programs(size), pyro.optim.Adam({"lr": RATE}), loss).step
    return step


def contenders(size: Size) -> dict[str, Contender]:
    r"""All of them, at their start; what was compiled before is forgotten."""
    torch.compiler.reset()  # it compiles one function for eight networks at most
    return {
        CAPTURED: Contender(ours(size, capture=True), exact=1),
        EAGER: Contender(ours(size, capture=False)),
        TRACE: Contender(pyros(size, pyro.infer.Trace_ELBO()), sampled=True),
        MEAN_FIELD: Contender(pyros(size, pyro.infer.TraceMeanField_ELBO())),
        ADAM: Contender(by_hand(size, fused=False)),
        FUSED: Contender(by_hand(size, fused=True)),
        LOSS: Contender(by_hand(size, fused=True, compiled=True), exact=0),
        STEP: Contender(by_hand_compiled(size), exact=0),
    }


def probabilities(rows: int) -> Tensor:
    r"""What stands for MNIST: eight factors, about a fifth of the features on."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(rows, 8, generator=generator)
    loadings = torch.randn(8, 784, generator=generator)
    return torch.sigmoid(factors @ loadings - 2)


def batches(size: Size) -> list[Tensor]:
    r"""Whole batches of zeros and ones: scikit-learn's digits, or what stands for MNIST."""
    if size.features == 64:
        x = load("digits", binarization="static").train["x"].flatten(1)
    else:
        x = torch.bernoulli(probabilities(4096), generator=torch.Generator().manual_seed(1))
    return [part for part in x.split(size.batch) if len(part) == size.batch]
