r"""The VAEs of ``steps.py``, and all who train them: the same network, start, data and optimiser.

The hand-written ones are what a user would write for this one model, without sites or guides.
"""

import math
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.optim
import torch
from sizes import RATE, Contender, Makers, Size
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae import SVI
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.nn import positive
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.products import Products

CAPTURED, EAGER = "this, captured", "this, eager"
MANY = "this, captured, a block at once"
BFLOAT16 = "this, captured, a block at once, products in bfloat16"
TRACE, MEAN_FIELD = "pyro.infer.SVI, Trace_ELBO", "pyro.infer.SVI, TraceMeanField_ELBO"
JIT, RENYI = "pyro.infer.SVI, JitTrace_ELBO", "pyro.infer.SVI, RenyiELBO"
ADAM, FUSED = "torch, Adam", "torch, fused Adam"
LOSS, STEP = "torch, loss compiled, fused Adam", "torch, step compiled"
COMPILED = (LOSS, STEP)
SCAN = "NumPyro, lax.scan"
# files that need the group, and the libraries that their contenders are named after
OUTSIDE = {"numpyros": "NumPyro", "pythaes": "pythae"}

Step = Callable[[Tensor], Any]  # a tensor, or Pyro's float
Pair = tuple[Callable[..., object], Callable[..., object]]


class Net(nn.Module):
    r"""The loss by hand."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.decoder, self.encoder = size.networks()
        self.learned = size.functions
        self.particles = size.particles
        if size.functions:
            self.loc = nn.Parameter(torch.zeros(size.latents))
            self.log_scale = nn.Parameter(torch.zeros(size.latents))

    def forward(self, x: Tensor, sampled: bool = False) -> Tensor:
        loc, raw = self.encoder(x).chunk(2, -1)
        scale = F.softplus(raw) + 1e-6
        if self.particles > 1:
            return self.weighted(x, loc, scale)
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        fit = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        if self.learned:  # relative to the prior
            scale = scale * (-self.log_scale).exp()
            loc = (loc - self.loc) * (-self.log_scale).exp()
        if sampled:
            return fit + (((loc + scale * noise).square() - noise.square()) / 2 - scale.log()).sum()
        return fit + ((loc.square() + scale.square() - 1) / 2 - scale.log()).sum()

    def weighted(self, x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        r"""The importance-weighted bound, negative."""
        noise = torch.randn(self.particles, *loc.shape)  # (K, N, D)
        z = loc + scale * noise
        x = x.expand(self.particles, *x.shape)
        fit = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none")
        cost = fit.sum(-1) + ((z.square() - noise.square()) / 2 - scale.log()).sum(-1)
        return (math.log(self.particles) - (-cost).logsumexp(0)).sum()


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
    decoder, encoder = size.networks()
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


def ours(size: Size, capture: bool, products: Products = "float32") -> SVI:
    optimizer = partial(torch.optim.Adam, lr=RATE)
    objective = ELBO() if size.particles == 1 else IWAE(size.particles)
    return SVI(*programs(size), optimizer, objective, capture=capture, products=products)


def our_makers(size: Size) -> Makers:
    r"""Ours; small networks have no product that is worth rounding."""
    found: Makers = {
        CAPTURED: lambda: Contender(ours(size, capture=True).step),
        MANY: lambda: Contender(ours(size, capture=True).steps, prepare=list),
        EAGER: lambda: Contender(ours(size, capture=False).step),
    }
    if not size.small:
        found[BFLOAT16] = lambda: Contender(
            ours(size, capture=True, products="bfloat16").steps, exact=0, prepare=list
        )
    return found


def pyros(size: Size, loss: pyro.infer.ELBO) -> Step:
    step: Step = pyro.infer.SVI(*programs(size), pyro.optim.Adam({"lr": RATE}), loss).step
    return step


def pyro_makers(size: Size) -> Makers:
    r"""Pyro's own bounds; ``JitTrace_ELBO`` takes 20 s a step for convolutions: not there."""
    if size.particles == 1:
        found: Makers = {
            TRACE: lambda: Contender(pyros(size, pyro.infer.Trace_ELBO()), sampled=True),
            MEAN_FIELD: lambda: Contender(pyros(size, pyro.infer.TraceMeanField_ELBO())),
        }
        if size.image is None:
            found[JIT] = lambda: Contender(
                pyros(size, pyro.infer.JitTrace_ELBO(ignore_jit_warnings=True)),
                sampled=True,
                exact=0,
            )
        return found
    options = {"vectorize_particles": True, "max_plate_nesting": 1}
    loss = pyro.infer.RenyiELBO(0, num_particles=size.particles, **options)
    return {RENYI: lambda: Contender(pyros(size, loss))}


def outside_makers(size: Size, only: str | None = None) -> Makers:
    r"""Those of other libraries, where they are installed, or only the one's of that name."""
    found: Makers = {}
    for file, library in OUTSIDE.items():
        if only is not None and not only.startswith(library):
            continue
        try:
            found |= import_module(file).makers(size)
        except ModuleNotFoundError as error:
            print(f"Without {library} ({error.name} is not installed): uv run --group bench …")
    return found


def makers(size: Size, only: str | None = None) -> Makers:
    r"""All of them, by name; for ``only`` one no library is imported that it does not need."""
    return {
        **our_makers(size),
        **pyro_makers(size),
        ADAM: lambda: Contender(by_hand(size, fused=False)),
        FUSED: lambda: Contender(by_hand(size, fused=True)),
        LOSS: lambda: Contender(by_hand(size, fused=True, compiled=True), exact=0),
        STEP: lambda: Contender(by_hand_compiled(size), exact=0),
        **outside_makers(size, only),
    }


def contenders(size: Size) -> dict[str, Contender]:
    r"""All of them, at their start; what was compiled before is forgotten."""
    torch.compiler.reset()  # it compiles one function for eight networks at most
    return {name: make() for name, make in makers(size).items()}
