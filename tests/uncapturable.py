r"""Models that cannot become a compiled graph, with the words that must say why.

A new case is one row; what runs is a whole step of its model and a sound guide.
"""

import contextlib
import math
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor
from zoo import D, F, N, standard

from pyro_vae.nn import mlp

Make = Callable[["Model", Tensor, Tensor], dist.TorchDistribution]


class Model(PyroModule):
    r"""A sound model, unless a row breaks it."""

    total = 0

    def __init__(self, likelihood: Make) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.decoder = mlp(D, F, (8,))
        self.count, self.last, self.settings, self.history = 0, None, SimpleNamespace(rate=0.5), []
        self.register_buffer("running", torch.zeros(F))
        self.prior = dist.Normal(0.0, torch.tensor(1.0), validate_args=True)
        self.rng = np.random.default_rng(0)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", standard(x, D))
            pyro.sample("x", self.likelihood(self, x, self.decoder(z)), obs=x)


def unit(loc: Tensor) -> dist.TorchDistribution:
    return dist.Normal(loc, 1.0).to_event(1)


def branches(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    if loc.sum() > 0:
        loc = 2 * loc
    return unit(loc)


def asserts(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    assert bool((x >= 0).all())
    return unit(loc)


def takes_item(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return unit(loc / (1.0 + x.std().item()))


def takes_float(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return unit(loc * math.exp(-x.std()))


def formats(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    print(f"{loc.mean():.2f}")  # noqa: T201
    return unit(loc)


def takes_array(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return unit(loc - torch.from_numpy(x.numpy().mean(0)))


def calls_numpy(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return unit(loc - float(np.quantile(x, 0.5)))


def lists(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return unit(loc - x.tolist()[0][0])


def loops(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    for _ in range(int(x[0, 0])):
        loc = loc + 1
    return unit(loc)


def counts_to(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    for _ in range(x[0, 0].long()):
        loc = loc + 1
    return unit(loc)


def indexes(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return unit(loc - loc[x > 0].mean())


def selects(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return unit(loc - loc.masked_select(x > 0).mean())


def finds_nonzero(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    rows = torch.nonzero(x[:, 0])
    return unit(loc + rows.sum())


def finds_unique(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return unit(loc + len(torch.unique(x)))


def finds_places(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return unit(loc + torch.where(x > 0)[0].sum())


generator = torch.Generator()


def draws_alone(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return unit(loc + torch.randn(F, generator=generator))


def draws_by_python(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    rate = random.uniform(0.5, 1.0)
    return unit(loc * rate)


def draws_after_a_call(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return unit(unit(loc).mean * random.random())


def draws_by_numpy(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return unit(loc * np.random.rand())


def draws_by_rng(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return unit(loc * model.rng.uniform())


def looks_after_a_failure(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    with contextlib.suppress(Exception):
        x.tolist()
    return unit(loc - loc[x > 0].mean())


class LooksBackwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient / (1.0 + gradient.norm().item())


def looks_backwards(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return unit(LooksBackwards.apply(loc))


class Cautious(dist.Normal):
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        value = super().rsample(sample_shape)
        return value if value.isfinite().all() else torch.zeros_like(value)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return torch.distributions.Distribution.sample(self, sample_shape)


def draws_cautiously(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return unit(loc + Cautious(loc, 1.0).sample())


def validates(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return dist.Normal(loc, loc.exp(), validate_args=True).to_event(1)


def validates_later(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return model.prior.expand(x.shape).to_event(1)


class Branching(dist.Normal):
    def log_prob(self, value: Tensor) -> Tensor:
        found = super().log_prob(value)
        return found if (value > 9).any() else found + 0.0


def branches_later(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    return Branching(loc, torch.ones_like(loc)).to_event(1)


def keeps(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    model.last = loc
    return unit(loc)


def appends(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    model.history.append(loc)
    return unit(loc)


def counts(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    model.count += 1
    return unit(loc / model.count)


def anneals(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    model.settings.rate *= 0.9
    return unit(loc * model.settings.rate)


def averages(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    model.running = 0.9 * model.running + 0.1 * x.mean(0)
    return unit(loc - model.running)


def counts_on_class(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    Model.total += 1
    return unit(loc)


latest = None


def sets_global(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
    global latest
    latest = loc
    return unit(loc)


def counting() -> Make:
    calls = 0

    def likelihood(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
        nonlocal calls
        calls += 1
        return unit(loc)

    return likelihood


# each must name the line below, too
UNCAPTURABLE: dict[str, tuple[Make, str, str]] = {
    "if": (branches, "if loc.sum() > 0:", r"a branch on a tensor at .*: write torch.where\("),
    "assert": (asserts, "assert bool((x >= 0).all())", "got a branch on a tensor"),
    "item": (takes_item, "x.std().item()", r"a Python number made of a tensor \(.item\(\)\)"),
    "float": (takes_float, "math.exp(-x.std())", r"number made of a tensor \(float\(\)\).*math"),
    "format": (
        formats,
        'print(f"{loc.mean():.2f}")',
        "value in a string at .*: leave it out",
    ),
    "numpy": (takes_array, "x.numpy()", "got a NumPy array made of a tensor .*in place of NumPy"),
    "a function of NumPy": (calls_numpy, "np.quantile(x, 0.5)", "a NumPy array made of a tensor"),
    "tolist": (lists, "x.tolist()", r"number made of a tensor \(.tolist\(\)\)"),
    "for": (loops, "range(int(x[0, 0]))", "an integer made of a tensor .*loop over a fixed range"),
    "range": (counts_to, "range(x[0, 0].long())", "an integer made of a tensor"),
    "mask as index": (indexes, "loc[x > 0]", r"do not depend .*indexing by a mask .*poutine.mask"),
    "masked_select": (selects, "masked_select(x > 0)", "got the result of masked_select"),
    "nonzero": (finds_nonzero, "torch.nonzero(x[:, 0])", "got the result of nonzero"),
    "unique": (finds_unique, "torch.unique(x)", "got the result of .*unique"),
    "where": (finds_places, "torch.where(x > 0)", "got the result of where"),
    "generator": (draws_alone, "generator=generator", "got a torch.Generator .*: leave it out"),
    "random": (draws_by_python, "random.uniform(0.5, 1.0)", "Python's or NumPy's .*torch.rand"),
    "random after a call": (draws_after_a_call, "* random.random()", "Python's or NumPy's"),
    "numpy.random": (draws_by_numpy, "np.random.rand()", "Python's or NumPy's random"),
    "numpy's Generator": (draws_by_rng, "model.rng.uniform()", "Python's or NumPy's random"),
    "after a failure": (looks_after_a_failure, "loc[x > 0]", "got indexing by a mask"),
    "backwards": (looks_backwards, "gradient.norm().item()", r"number made of .*\(.item\(\)\)"),
    "distribution": (draws_cautiously, "value.isfinite().all()", "got a branch on a tensor"),
    "validate_args": (validates, "validate_args=True).to_event(1)", "got validate_args=True, wh"),
    "attribute": (
        keeps,
        "model.last = loc",
        r"attribute 'last' of model written to at .*: .*return it",
    ),
    "list": (appends, "model.history.append(loc)", r"element \d of model.history written to"),
    "counter": (
        counts,
        "model.count += 1",
        r"attribute 'count' of model written .*make it a buffer",
    ),
    "setting": (anneals, "model.settings.rate *= 0.9", "attribute 'rate' of model.settings writ"),
    "buffer": (
        averages,
        "model.running = 0.9 * model.running",
        r"buffer 'running' of model written .*self.running.copy_\(",
    ),
    "class variable": (counts_on_class, "Model.total += 1", "attribute 'total' of Model written"),
    "global": (sets_global, "latest = loc", "global 'latest' of .* written to"),
    "nonlocal": (counting(), "calls += 1", "closure variable 'calls' of .* written to"),
}

assert len({N, F, D}) == 3
