r"""The evidence from the model alone: prior sampling, annealing, and bounds on both sides."""

__all__ = ["ais", "bdmc", "prior"]

import math
from collections.abc import Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.distributions import missing_values
from pyro_vae.draws import Draw
from pyro_vae.dreams import Dreaming
from pyro_vae.evaluation.annealing import anneal, step_sizes, temperatures
from pyro_vae.evaluation.bounds import bounds
from pyro_vae.evaluation.chunks import Batch, Largest, batches, chunk_sizes, few
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.joint import Joint, Observing
from pyro_vae.evaluation.rows import check_rows
from pyro_vae.evaluation.streaming import Weights
from pyro_vae.evaluation.weights import check_scales
from pyro_vae.layout import Site, sample_sites, undrawn
from pyro_vae.nonfinite import first_nonfinite
from pyro_vae.pair import Pair
from pyro_vae.programs import Program

CHAINS = 16  # for each datum, as in the literature


def prior(pair: Pair, fields: Batch, place: torch.device, **setting: Any) -> dict[str, Estimate]:
    r"""The log-evidence by sampling from the prior, which is too low on average.

    .. math:: \log \frac{1}{K} \sum_{k=1}^K p(x_n \mid z_k), \qquad z_k \sim p(z)

    Arguments are those of a :class:`pyro_vae.evaluation.metrics.Metric`.

    Returns:
        ``prior``; its ``prior.bias``, the ``prior.ess`` and ``prior.khat`` are as for ``nll``.
    """
    batch = tuple(field[:1].to(place) for field in fields)
    guide = _Ancestral(pair.model, batch)(pair.model)
    own = Pair(pair.model, guide, pair.data_plate)
    found = bounds(("nll",), own, fields, place, **setting, weigh=_log_likelihood)
    renamed = {name: f"prior.{name}" for name in ("ess", "khat")}
    return {"prior": -found["nll"], "prior.bias": -found["nll.bias"]} | {
        renamed[name]: found[name] for name in renamed
    }


def ais(
    pair: Pair,
    fields: Batch,
    place: torch.device,
    *,
    particles: int,
    batch_size: int | None,
    seed: int,
    chains: int = CHAINS,
    **_: Any,
) -> dict[str, Estimate]:
    r"""A lower bound of the log-evidence by annealing from prior to posterior.

    .. math::
        \log \frac{1}{C} \sum_{c=1}^C \prod_{t=1}^K
            p(x_n \mid z_{c,t-1})^{\beta_t - \beta_{t-1}}, \qquad
        z_{c,0} \sim p(z), \quad z_{c,t} \sim T_t(\cdot \mid z_{c,t-1})

    It is below :math:`\log p(x_n)` on average, by less with more temperatures :math:`K`. The
    transitions :math:`T_t` are Hamiltonian and leave :math:`p(z) p(x_n \mid z)^{\beta_t}` as it
    is; their step sizes are found by chains that do not count. The guide has no part in it, so
    that this checks what the guide's bounds say.

    Arguments:
        pair, fields, place, batch_size, seed: As for a
            :class:`pyro_vae.evaluation.metrics.Metric`.
        particles: The number of temperatures :math:`K`. Each takes eleven gradients of the
            density for each chain of each datum.
        chains: The number of chains :math:`C` of each datum.

    Returns:
        ``ais``; the estimated ``ais.bias`` of a logarithm of an average, and the effective
        number ``ais.ess`` of chains.

    Raises:
        ValueError: If a latent is discrete and not summed out, or global; if there is a factor
            of ``poutine.scale``; if densities are not finite.

    References:
        | Annealed Importance Sampling (Neal, 2001)
        | https://arxiv.org/abs/physics/9803008
        | On the Quantitative Analysis of Decoder-Based Generative Models (Wu et al., 2017)
        | https://arxiv.org/abs/1611.04273
    """
    betas, found = temperatures(particles), _Figures()
    for batch in _batches(pair, fields, place, chains, batch_size):
        joint = Joint(pair.model, batch, chains, pair.data_plate)
        steps = step_sizes(joint, betas)
        weights = _weights(anneal(joint, joint.draw_prior(), betas, steps))
        _check_finite(weights.log_mean, joint, pair)
        found.keep("ais", weights.log_mean, weights.variance)
        found.keep("ais.bias", weights.bias)
        found.keep("ais.ess", weights.ess)
    return found.estimates(_nats(joint), seed, {"ais.ess": "chains"})


def bdmc(
    pair: Pair,
    fields: Batch,
    place: torch.device,
    *,
    particles: int,
    batch_size: int | None,
    seed: int,
    chains: int = CHAINS,
    **_: Any,
) -> dict[str, Estimate]:
    r"""Bounds of the log-evidence of simulated data from below and above, and their gap.

    Of data that the model simulates, the latents that they were simulated from are a draw of
    their posterior. Chains that anneal from there back to the prior bound the evidence from
    above, on average, and those of the metric ``ais`` from below. Wherever the gap is small,
    ``ais`` is right for data like these.

    Simulated are as many data as there are, and what is not observed of them is given: of
    models of a part of the data given the rest, the rest. Features that are missing are missing in
    them as well. What the model observes must depend
    on the observed values only through its latents.

    Arguments:
        pair, fields, place, batch_size, seed, particles, chains: As for :func:`ais`.

    Returns:
        ``bdmc.lower``, ``bdmc.upper`` and ``bdmc.gap``. The chains of the upper one begin at one
        place, and their Monte Carlo error is not known: the error over data contains it.

    Raises:
        ValueError: As for :func:`ais`; if the model has a ``pyro.factor``, with which it cannot
            be simulated from.

    References:
        | Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo (Grosse et al., 2015)
        | https://arxiv.org/abs/1511.02543
    """
    betas, found = temperatures(particles), _Figures()
    for batch in _batches(pair, fields, place, chains, batch_size):
        observed, latents = _simulated(pair.model, batch)
        joint = Joint(Observing(observed)(pair.model), batch, chains, pair.data_plate)
        steps = step_sizes(joint, betas)
        lower = _weights(anneal(joint, joint.draw_prior(), betas, steps))
        back = _weights(-anneal(joint, joint.pack(latents), betas, steps, reverse=True))
        _check_finite(lower.log_mean - back.log_mean, joint, pair)
        found.keep("bdmc.lower", lower.log_mean, lower.variance)
        found.keep("bdmc.upper", -back.log_mean)
        found.keep("bdmc.gap", -back.log_mean - lower.log_mean)
    return found.estimates(_nats(joint), seed)


class _Ancestral(Messenger):
    r"""Has a model draw its latents, as a guide of its own would.

    What it sums out, or leaves open, is drawn as well, and leaves no trace.
    """

    def __init__(self, model: Program, batch: Batch) -> None:
        super().__init__()
        self.names = undrawn(Trace(), poutine.trace(model).get_trace(*batch))[2]

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["name"] not in self.names and not site_is_subsample(msg):
            msg["infer"] = {**msg["infer"], "is_auxiliary": True, "_do_not_trace": True}


class _Figures:
    r"""Figures of each datum, of which the batches come one after another."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}
        self.variances: dict[str, float] = {}

    def keep(self, name: str, values: Tensor, variance: float = math.nan) -> None:
        r"""Takes in values with shape :math:`(N)`, and the variance of their sum."""
        self.parts.setdefault(name, []).append(values.cpu())
        self.variances[name] = self.variances.get(name, 0.0) + variance

    def estimates(
        self, unit: str, seed: int, units: dict[str, str] | None = None
    ) -> dict[str, Estimate]:
        r"""The averages over all data that came."""
        found = {}
        for name, parts in self.parts.items():
            values = torch.cat(parts)
            stderr = math.sqrt(self.variances[name]) / values.shape[0]
            found[name] = Estimate.of(values, stderr, (units or {}).get(name, unit), seed)
        return found


def _log_likelihood(draw: Draw) -> Tensor:
    return draw.log_likelihood


def _batches(
    pair: Pair, fields: Batch, place: torch.device, chains: int, batch_size: int | None
) -> Iterator[Batch]:
    r"""Cuts the data into as many as can be annealed at once, and tries a few."""
    rows = few(fields, place, batch_size)
    joint = Joint(pair.model, rows, 1, pair.data_plate)
    with Largest() as largest:
        draw = joint.draw(joint.draw_prior())
        check_scales(draw)
    total = size = fields[0].shape[0]
    if joint.layout.plate is not None:
        check_rows(draw.model_trace, joint.layout.plate, rows[0].shape[0])
        elements = math.ceil(largest.elements / draw.batch_size)
        size, _ = chunk_sizes(elements, total, chains, batch_size, place)
    return batches(fields, size, place)


def _weights(log_weights: Tensor) -> Weights:
    found = Weights(log_weights.shape[0])
    found.update(log_weights)
    return found


def _nats(joint: Joint) -> str:
    return "nats" if joint.layout.plate else "nats (all data)"


def _simulated(model: Program, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    r"""What the model observes, and its latents, drawn together."""
    trace = poutine.trace(Dreaming()(model)).get_trace(*batch)
    sites = sample_sites(trace)
    if factors := [name for name, site in sites.items() if isinstance(site["fn"], Unit)]:
        raise ValueError(
            f"expected a model that data can be simulated from, got the factors {factors}: their "
            "densities belong to no draw; ask for the metric 'ais'"
        )
    seen = {name for name, site in sites.items() if site["infer"].get("was_observed")}
    observed = {name: _with_holes(sites[name]) for name in seen}
    return observed, {n: site["value"] for n, site in sites.items() if n not in seen}


def _with_holes(site: Site) -> Tensor:
    r"""What was drawn at a site, without the features that were missing in what it observed."""
    value: Tensor = site["value"]
    hidden = missing_values(site["fn"], site["infer"]["obs"])
    return torch.where(hidden, math.nan, value) if bool(hidden.any()) else value


def _check_finite(values: Tensor, joint: Joint, pair: Pair) -> None:
    if bool(values.isfinite().all()):
        return
    found = first_nonfinite(joint.draw(joint.draw_prior()), pair.parameters)
    raise ValueError(
        f"expected finite log-densities, got this: {found or 'some of what the chains came to'}"
    )
