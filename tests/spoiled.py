r"""Pairs with values that have no density, or are no numbers.

A new case is one row.
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from broken import Guide, Make, Model, amortised, batch, sound, unit_normal
from torch import Tensor, nn
from zoo import D, F, N, Pair, binary

from pyro_vae.guides import AmortizedNormal
from pyro_vae.likelihoods import Binomial
from pyro_vae.models import VAE


def huge(scale: float) -> Make:
    return lambda outputs: dist.Normal(outputs[..., :D], scale).to_event(1)


def gamma(x: Tensor) -> dist.TorchDistribution:
    return dist.Gamma(x.new_ones(D), 1.0).to_event(1)


def vanishing(outputs: Tensor) -> dist.TorchDistribution:
    return dist.Normal(outputs, torch.finfo(outputs.dtype).tiny).to_event(1)


def impossible(outputs: Tensor) -> dist.TorchDistribution:
    value = outputs[..., :D]
    return dist.Delta(value, value.new_full(value.shape[:-1], -torch.inf), event_dim=1)


def nan_weights() -> Pair:
    model, guide = Model(), Guide()
    nn.init.constant_(guide.encoder[0].bias, torch.nan)
    return model, guide, batch()


def nan_param() -> Pair:
    pyro.param("loc", torch.full((D,), torch.nan))
    return sound, amortised, batch()


def nan_data(x: tuple[Tensor]) -> tuple[Tensor]:
    x[0][1, 2] = torch.nan
    return x


def negative() -> Pair:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(0 * x[:, :D], -x[:, :D].abs()).to_event(1))

    return Model(), guide, batch()


# name -> (model, guide and batch, the site, what the message must say)
SPOILED: dict[str, tuple[Callable[[], Pair], str | None, str]] = {
    "data outside the support": (
        lambda: (VAE((F,), D), AmortizedNormal((F,), {"z": D}), (255 * binary(N, F),)),
        "x",
        r"expected the numbers 0 and 1 \(Bernoulli\), got integers from 0 to 255: .*Binomial",
    ),
    "counts beyond the total": (
        lambda: (
            VAE((F,), D, Binomial(16)),
            AmortizedNormal((F,), {"z": D}),
            (17 + batch()[0] * 0,),
        ),
        "x",
        "expected integers from 0 to 16 .*got integers from 17 to 17",
    ),
    "data that are not numbers": (
        lambda: (sound, amortised, nan_data(batch())),
        "x",
        "expected finite real numbers .* 1 NaN: no likelihood",
    ),
    "data that are not numbers, encoded": (
        lambda: (Model(), Guide(), nan_data(batch())),
        None,
        "expected finite data, got 1 NaN of 35 values in argument 0 of the batch",
    ),
    "latents outside the support": (
        lambda: (Model(prior=gamma), Guide(), batch()),
        "z",
        r"expected real numbers .* 0 \(Gamma\), got real numbers from -.* from the guide: choose",
    ),
    "weights that are not numbers": (
        nan_weights,
        "z",
        "got 8 NaN of 8 values in guide.encoder.0.bias, on which the site depends: .*the guide",
    ),
    "pyro.param that is not a number": (
        nan_param,
        "z",
        "expected finite parameters, got 2 NaN of 2 values in loc, on which",
    ),
    "value that is not finite": (
        lambda: (
            Model(prior=lambda x: dist.Delta(x.new_zeros(D), event_dim=1)),
            Guide(huge(torch.inf)),
            batch(),
        ),
        "z",
        "got 14 infinite of 14 values: look for log .*the guide",
    ),
    "density that is not finite": (
        lambda: (Model(likelihood=vanishing), Guide(), batch()),
        "x",
        "got 7 infinite of 7 values from Normal, .*, scale has the value 2.225e-308: .*of zero",
    ),
    "density of the guide that is not finite": (
        lambda: (Model(), Guide(impossible), batch()),
        "z",
        "log-density, got 7 infinite of 7 values from Delta, .* log_density has 7 infinite.*guide",
    ),
    "negative scale": (
        lambda: (Model(likelihood=lambda h: dist.Normal(h, -1.0).to_event(1)), Guide(), batch()),
        None,
        r"scale of Normal to satisfy GreaterThan\(lower_bound=0.0\), got the value -1: make it",
    ),
    "negative scale in a statement": (
        negative,
        "z",
        r"got values from -.*: make it positive, as by pyro_vae.nn.positive .*\(the guide, .*sam",
    ),
    "logits in place of probabilities": (
        lambda: (Model(likelihood=lambda h: dist.Bernoulli(9 * h).to_event(1)), Guide(), batch()),
        None,
        r"probs of Bernoulli to satisfy Interval\(.*\), got values from .*: give logits=… in place",
    ),
    "logarithm of zero": (
        lambda: (Model(prior=lambda x: unit_normal((0 * x[:, :D]).log())), Guide(), batch()),
        "z",
        "log-density, got .* from Normal, whose loc has 14 infinite of 14 values, .*: look for log",
    ),
    "dtype": (
        lambda: (Model(), Guide(), (torch.ones(N, F, dtype=torch.uint8),)),
        None,
        r"guide to run, got RuntimeError: mat1 and mat2 .*: give data and networks one dtype",
    ),
    "arguments": (
        lambda: (Model(), lambda: None, batch()),
        None,
        "takes 0 positional arguments but 1 was given: both programs are called with the same",
    ),
}
