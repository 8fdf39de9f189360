r"""The bound and the importance-sampled evidence of a data set, batch after batch."""

__all__ = ["bounds", "elbo", "nll"]

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.capturable import Mode
from pyro_vae.draws import Draw
from pyro_vae.evaluation.chunks import batches
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.scores import Scorer, log_weights
from pyro_vae.pair import Pair


def elbo(
    pair: Pair, fields: tuple[Tensor, ...], place: torch.device, **setting: Any
) -> dict[str, Estimate]:
    r"""The evidence lower bound, and the parts that it is made of."""
    return bounds(("elbo",), pair, fields, place, **setting)


def nll(
    pair: Pair, fields: tuple[Tensor, ...], place: torch.device, **setting: Any
) -> dict[str, Estimate]:
    r"""The negative log-evidence by importance sampling from the guide."""
    return bounds(("nll",), pair, fields, place, **setting)


def bounds(
    metrics: Sequence[str],
    pair: Pair,
    fields: tuple[Tensor, ...],
    place: torch.device,
    *,
    particles: int,
    batch_size: int | None,
    data_size: int,
    seed: int,
    capture: Mode,
    weigh: Callable[[Draw], Tensor] = log_weights,
) -> dict[str, Estimate]:
    r"""What :class:`Scorer` computes, of the same particles for all metrics."""
    scorer = Scorer(pair, metrics, particles, data_size, capture, weigh)
    batch = scorer.prepare(fields, batch_size, place)
    pyro.set_rng_seed(seed)  # whatever was drawn so far
    for rows in batches(fields, batch, place):
        scorer.update(rows)
    return scorer.estimates(seed)
