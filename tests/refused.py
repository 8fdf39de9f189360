r"""Pairs that an objective refuses, with the words that the checker must find.

A new case is one row.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pyro.distributions as dist
import torch
from broken import Guide, Model, batch, bernoulli, nothing
from pyro.infer import JitTrace_ELBO, RenyiELBO, Trace_ELBO, TraceTailAdaptive_ELBO
from suspect import Mixing, marked, marks
from torch import nn
from zoo import ZOO, D, F, Pair

from pyro_vae.draws import Draw
from pyro_vae.nn import mlp
from pyro_vae.objectives import ELBO, Bound


class Undefined:
    r"""An objective that is NaN."""

    particles, pathwise = 1, True

    def __call__(self, draw: Draw) -> Bound:
        value = draw.log_weights.mean(0) * torch.nan
        return Bound(value, value.mean(), value.mean())


def flattening() -> Pair:
    return Model(decoder=nn.Sequential(nn.Flatten(1), mlp(D, F, (8,)))), Guide(), batch()


def discrete() -> Pair:
    prior = dist.Bernoulli(torch.full((D,), 0.5)).to_event(1)
    return Model(prior=lambda x: prior), Guide(bernoulli), batch()


# name -> (model, guide and batch, objective, what the message must say)
REFUSED: dict[str, tuple[Callable[[], Pair], Any, str]] = {
    "no reparametrised site": (
        discrete,
        ELBO(),
        r"site 'z': expected reparametrised guide sites, .*\(the guide, .*broken.py:\d+, `pyro.sam",
    ),
    "no closed form": (ZOO["auto_delta"], ELBO(kl="analytic"), "expected a closed form of KL"),
    "particles for all data": (
        ZOO["global_latent"],
        RenyiELBO(num_particles=2),
        "batch of 7 of 21",
    ),
    "nothing summed out": (ZOO["mixture"], Trace_ELBO(), r"sums out \['c'\], got Trace_ELBO"),
    "name": (
        ZOO["vae"],
        "ELBO",
        r"such as pyro_vae.objectives.ELBO\(\), .* Trace_ELBO\(\), got 'E",
    ),
    "class": (ZOO["vae"], ELBO, "got the class ELBO: make an instance of it$"),
    "class that says its particles": (ZOO["vae"], Undefined, "got the class Undefined: make an"),
    "class of Pyro's": (ZOO["vae"], Trace_ELBO, "got the class Trace_ELBO: make an instance"),
    "function": (ZOO["vae"], nothing, "has particles and is called with a draw, .* got a function"),
    "particles that cannot be called": (
        ZOO["vae"],
        SimpleNamespace(particles=1),
        "got a SimpleNam",
    ),
    "TorchScript": (
        ZOO["vae"],
        JitTrace_ELBO(),
        r"got JitTrace_ELBO, .*: use Trace_ELBO\(\) or py",
    ),
    "gradients only": (
        ZOO["vae"],
        TraceTailAdaptive_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        r"Loss method for TraceTailAdaptive_ELBO not implemented \(the objective\)$",
    ),
    "undefined value": (ZOO["vae"], Undefined(), "expected a finite objective, got nan"),
    "networks of rows": (flattening, ELBO(particles=3), r"one particle works, but with 3 .*\(K, N"),
    "networks of rows, Pyro's particles": (
        flattening,
        Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        r"one particle works, but with 3 .*\(K, N, \*\).*or use one",
    ),
    "enumerated in the guide": (
        lambda: (marked, marks, batch()),
        ELBO(),
        r"site 'z': expected the guide to draw its sites, got 'z' with infer=\{.enumerate.: .paral",
    ),
    "enumerated in the guide, Pyro's": (
        lambda: (marked, marks, batch()),
        Trace_ELBO(),
        r"move the mark to the model .*TraceEnum_ELBO",
    ),
    "networks that mix particles up": (
        lambda: (Model(decoder=Mixing()), Guide(), batch()),
        ELBO(particles=2),
        "site 'x': expected 3 particles to have the densities that each has alone, got others",
    ),
    "networks that mix particles up, Pyro's": (
        lambda: (Model(decoder=Mixing()), Guide(), batch()),
        Trace_ELBO(num_particles=2, vectorize_particles=True),
        "site 'x': expected 3 particles to have the densities that each has alone, got others",
    ),
}
