r"""Pairs that run, and may not do what is meant, with the words that the checker must find.

A new case is one row.
"""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F_
from broken import (
    Guide,
    Model,
    amortised,
    batch,
    grey,
    repeated,
    standard_for_all,
    unit_normal,
)
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from zoo import D, F, N, Pair, binary, normal, standard

from pyro_vae.nn import mlp, positive
from pyro_vae.objectives import ELBO


class Changed(Guide):
    r"""A sound guide whose encoder's inputs and outputs may be changed."""

    def __init__(
        self,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda h: h,
    ) -> None:
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", normal(self.after(self.encoder(self.before(x)))))


class Unused(Guide):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(F, D)


class WithoutGradient(Guide):
    def forward(self, x: Tensor) -> None:
        with torch.no_grad():
            outputs = self.encoder(x)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", normal(outputs))


class InList(Guide):
    r"""Its networks stand in a list, where nobody looks."""

    def __init__(self) -> None:
        super().__init__()
        del self.encoder
        self.networks = [mlp(F, 2 * D, (8,))]

    def encoder(self, x: Tensor) -> Tensor:
        return self.networks[0](x)


class InTraining(nn.Linear):
    def __init__(self) -> None:
        super().__init__(D, F)

    def forward(self, z: Tensor) -> Tensor:
        if not self.training:
            raise RuntimeError("not in eval")
        return super().forward(z)


class RawList(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.networks = [mlp(F, 2 * D, (8,))]

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", normal(self.networks[0](x)))


def built_inside(x: Tensor) -> None:
    encoder = nn.Linear(F, 2 * D)
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", normal(encoder(x)))


def noisy(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
        noise = torch.randn(x.shape[0], 1)
        pyro.sample(
            "x", dist.Normal(z.sum(-1, keepdim=True) + noise, 1.0).to_event(1), obs=x[:, :1]
        )


class ByHand(Guide):
    r"""The reparametrisation written by hand."""

    def forward(self, x: Tensor) -> None:
        loc, raw = self.encoder(x).chunk(2, dim=-1)
        with pyro.plate("data", x.shape[0], dim=-1):
            z = loc + positive(raw) * torch.randn_like(loc)
            pyro.sample("z", dist.Delta(z, event_dim=1))


def variance_of_latent(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.LogNormal(x.new_zeros(D), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, z**2).to_event(1), obs=x[:, :D])


class LogNormalGuide(Guide):
    def forward(self, x: Tensor) -> None:
        loc, raw = self.encoder(x).chunk(2, dim=-1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.LogNormal(loc, positive(raw)).to_event(1))


class SquaredScale(Guide):
    def forward(self, x: Tensor) -> None:
        loc, raw = self.encoder(x).chunk(2, dim=-1)
        sigma = F_.softplus(raw)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, sigma * sigma).to_event(1))


class SquaredParameter(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = mlp(D, F, (8,))
        self.sigma = PyroParam(torch.tensor(0.5), constraints.positive)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", standard(x, D))
            pyro.sample("x", dist.Normal(self.decoder(z), self.sigma**2).to_event(1), obs=x)


class SquaredOther(PyroModule):
    r"""The scale of x is the square of that of z, by other means than a power."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor([0.3, -0.2, 0.7]))

    def forward(self, x: Tensor) -> None:
        scale = self.log_scale.exp()
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), scale).to_event(1))
            pyro.sample("x", dist.Normal(z, scale * scale + 0).to_event(1), obs=x[:, :3])


def squared_constants(x: Tensor) -> None:
    scale = x.new_tensor([0.3, 0.7, 1.9])
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(3), scale).to_event(1))
        pyro.sample("x", dist.Normal(z, scale**2).to_event(1), obs=x[:, :3])


def in_three(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", dist.Normal(x[:, :3], 1.0).to_event(1))


def marked(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(z[..., None] + 0 * x, 1.0).to_event(1), obs=x)


def marks(x: Tensor) -> None:
    logits = pyro.param("logits", lambda: torch.zeros(()))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", dist.Bernoulli(logits=logits), infer={"enumerate": "parallel"})


class Mixing(nn.Module):
    r"""Runs on particles, and mixes them up: the layer normalises over all that is not features."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(D, F)

    def forward(self, z: Tensor) -> Tensor:
        return self.network(z - z.mean(0, keepdim=True))


def inner_plate(x: Tensor) -> None:
    r"""Takes the dimension of the inner plate to be the first of a datum, as it is of one particle.

    With several, a vector of each datum has them further to the left than a number has.
    """
    with pyro.plate("data", x.shape[0], dim=-1):
        a = pyro.sample("a", dist.Normal(torch.zeros(F), 1.0).to_event(1))
        with pyro.plate("inner", F, dim=-2):
            c = pyro.sample("c", dist.Normal(x.new_zeros(()), 0.5))
        pyro.sample("x", unit_normal(a + c.movedim(-2, -1)), obs=x)


def guide_of_inner_plate(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("a", dist.Normal(torch.zeros(F), 1.0).to_event(1))
        with pyro.plate("inner", F, dim=-2):
            pyro.sample("c", dist.Normal(x.new_zeros(()), 0.5))


def flattened() -> Pair:
    return Model(decoder=nn.Sequential(nn.Flatten(1), mlp(D, F, (8,)))), Guide(), batch()


def convolution_of_rows() -> Pair:
    layers = nn.Sequential(nn.Unflatten(1, (1, D)), nn.Conv1d(1, F, D), nn.Flatten(1))
    return Model(decoder=layers), Guide(), batch()


def batch_norm() -> Pair:
    layers = nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Linear(8, F))
    return Model(decoder=layers), Guide(), batch()


PARTICLES = r"with 3 every value drawn has a dimension more on the left, as in \(K, N, \*\)"

Row = tuple[Callable[[], Pair], Any, str | None, str]

# name -> (model, guide and batch, objective, the site, what the message must say)
SUSPECT: dict[str, Row] = {
    "one datum for a plate of a fixed size": (
        lambda: (repeated, standard_for_all, batch(1, F)),
        None,
        "x",
        r"data of shape \(7, 5\), .*, got \(1, 5\): plate 'data' has size 7, but the batch has 1",
    ),
    "grey pixels": (
        lambda: (Model(likelihood=grey), Guide(), (torch.rand(N, F),)),
        None,
        "x",
        r"expected the numbers 0 and 1 \(Bernoulli\), got real numbers from .*: these look like "
        r"grey levels: binarise them .*, take ContinuousBernoulli\(\) .*Binomial\(total_count=255",
    ),
    "counts that are Bernoulli": (
        lambda: (Model(likelihood=grey), Guide(), (3 * binary(N, F),)),
        None,
        "x",
        r"expected the numbers 0 and 1 \(Bernoulli\), got integers from 0 to 3: likelihoods that",
    ),
    "parameters that nothing uses": (
        lambda: (Model(), Unused(), batch()),
        None,
        None,
        r"expected a gradient for every parameter, got none for guide.head.weight, guide.head.bias:"
        r" no site is computed from it: .*requires_grad_\(False\).*\(the guide\)",
    ),
    "parameters that are detached": (
        lambda: (Model(), Changed(after=lambda h: h.detach()), batch()),
        None,
        None,
        r"got none for guide.encoder.0.weight, .* and 1 more: it is detached .*\(the guide, .*"
        r"suspect.py:\d+, `lambda: \(Model\(\), Changed\(after=lambda h: h.detach",
    ),
    "parameters by .data": (
        lambda: (Model(), Changed(after=lambda h: h.data), batch()),
        None,
        None,
        r"it is detached .*remove .detach\(\), .data, .*Changed\(after=lambda h: h.data\)",
    ),
    "parameters under no_grad": (
        lambda: (Model(), WithoutGradient(), batch()),
        None,
        None,
        r"guide.encoder.0.weight.*it is detached .*`outputs = self.encoder\(x\)`",
    ),
    "networks in a list": (
        lambda: (Model(), RawList(), batch()),
        None,
        None,
        r"got 4 parameters, of shapes .*, that belong to no module .*: pyro_vae.SVI trains them, "
        "pyro.infer.SVI does not, .*keep networks in nn.ModuleList",
    ),
    "guide that ignores its data": (
        lambda: (Model(), Changed(before=torch.zeros_like), batch()),
        None,
        "z",
        r"depends on its datum, got the same one for all 7, although the guide runs a network",
    ),
    "guide that sees constants": (
        lambda: (Model(), Changed(before=lambda x: x.new_ones(N, F)), batch()),
        None,
        "z",
        "got the same one for all 7",
    ),
    "guide that sees a mean over the batch": (
        lambda: (Model(), Changed(before=lambda x: x.mean(0).expand(N, F)), batch()),
        None,
        "z",
        "got the same one for all 7",
    ),
    "noise in the model": (
        lambda: (noisy, amortised, batch()),
        ELBO(),
        "x",
        r"outside pyro.sample: .*\(the model, .*suspect.py:\d+, `noise = torch.randn\(x.shape\[0",
    ),
    "noise of a distribution": (
        lambda: (Model(), Changed(before=lambda x: x + dist.Normal(0.0, 1.0).sample()), batch()),
        None,
        "z",
        r"same density of the same values in every run, .*\(the guide, .*before=lambda x: x \+ d",
    ),
    "dropout that cannot be switched off": (
        lambda: (Model(), Changed(after=lambda h: F_.dropout(h)), batch()),
        None,
        "z",
        r"outside pyro.sample: .*training=self.training\)\) \(the guide, .*F_.dropout\(h\)",
    ),
    "reparametrised by hand": (
        lambda: (Model(), ByHand(), batch()),
        None,
        "z",
        r"outside pyro.sample: .*`z = loc \+ positive\(raw\) \* torch.randn_like\(loc\)`",
    ),
    "variance of a latent": (
        lambda: (variance_of_latent, LogNormalGuide(), batch()),
        None,
        "x",
        r"a scale, which is a standard deviation, got the square of latent 'z': a variance\?",
    ),
    "variance of a network": (
        lambda: (Model(), SquaredScale(), batch()),
        None,
        "z",
        "got the square of a positive number: .*the root of the variance.*the guide",
    ),
    "variance of a parameter": (
        lambda: (SquaredParameter(), Guide(), batch()),
        None,
        "x",
        "got the square of .*: a variance.*the model",
    ),
    "variance of another site": (
        lambda: (SquaredOther(), in_three, batch()),
        None,
        "x",
        "got the square of the scale of site 'z'",
    ),
    "variance of another site, constant": (
        lambda: (squared_constants, in_three, batch()),
        None,
        "x",
        "got the square of the scale of site 'z'",
    ),
    "enumerated in the guide": (
        lambda: (marked, marks, batch()),
        None,
        "z",
        r"expected the guide to draw its sites, got 'z' with infer={\"enumerate\": \"parallel\"}, "
        "which is summed out in models only: move the mark to the model",
    ),
    "flattened, one particle": (flattened, ELBO(), None, PARTICLES),
    "convolution, one particle": (convolution_of_rows, ELBO(), None, PARTICLES),
    "batch norm, one particle": (batch_norm, Trace_ELBO(), None, PARTICLES),
    "batch norm that mixes data": (batch_norm, ELBO(), None, "depends on the others in its batch"),
    "not in eval mode": (
        lambda: (Model(decoder=InTraining()), Guide(), batch()),
        ELBO(),
        None,
        r"model to run in eval mode too, as in training, got RuntimeError: not in eval: estimates",
    ),
    "plate of the batch's size": (
        lambda: (Model(size=N), Guide(size=N), batch()),
        None,
        "data",
        r"plate 'data' to have the size of the batch, got 7 in a batch of 7 and in one of 6: write "
        r"pyro.plate\('data', x.shape\[0\]\), or .*\(the model, .*broken.py",
    ),
    "mixed up with a plate": (
        lambda: (inner_plate, guide_of_inner_plate, batch()),
        ELBO(),
        "x",
        r'index mixes particles up with plates, .* `pyro.sample\("x", unit_normal\(a',
    ),
    "mixed up, one particle": (
        lambda: (Model(decoder=Mixing()), Guide(), batch()),
        ELBO(),
        "x",
        "expected 3 particles to have the densities that each has alone, got others: .*the model",
    ),
}
