r"""Bounds, evidence and other figures of a data set, by name."""

__all__ = ["METRICS", "Metric", "evaluate"]

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import pyro
import torch
from torch import Tensor

from pyro_vae.capturable import Mode, check_mode
from pyro_vae.counts import check_counts
from pyro_vae.evaluation.barber_agakov import barber_agakov
from pyro_vae.evaluation.bounds import bounds, elbo, nll
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.evidence import ais, bdmc, prior
from pyro_vae.evaluation.fields import Source, select
from pyro_vae.evaluation.gap import gap
from pyro_vae.evaluation.information import mutual_information
from pyro_vae.evaluation.mismatch import prior_mismatch
from pyro_vae.evaluation.rate_distortion import rate_distortion
from pyro_vae.evaluation.setting import evaluating, parameter_dtype
from pyro_vae.evaluation.shuffled import shuffled
from pyro_vae.evaluation.smoothness import smoothness
from pyro_vae.evaluation.trade_off import trade_off
from pyro_vae.evaluation.units import active_units, kl_per_dimension
from pyro_vae.pair import Pair
from pyro_vae.programs import Program


class Metric(Protocol):
    r"""A function that estimates figures of a pair on data, by name.

    It is called without gradients, with modules in evaluation mode, and seeded. The first
    sentence of its documentation is what the command line says of it.
    """

    def __call__(
        self,
        pair: Pair,
        fields: tuple[Tensor, ...],
        place: torch.device,
        *,
        particles: int,
        batch_size: int | None,
        data_size: int,
        seed: int,
        capture: Mode,
    ) -> dict[str, Estimate]:
        r"""Estimates the figures.

        Arguments:
            pair: The model and the guide, on the device.
            fields: What both are called with, with :math:`N` rows, wherever they are.
            place: The device.
            particles: The number of particles :math:`K`.
            batch_size: The most data in a batch, if asked for.
            data_size: How many data share the global latents.
            seed: The seed, which the estimates note.
            capture: Whether chunks run as a compiled graph.
        """
        ...


METRICS: Mapping[str, Metric] = {
    "elbo": elbo,
    "nll": nll,
    "prior": prior,
    "ais": ais,
    "bdmc": bdmc,
    "rate_distortion": rate_distortion,
    "active_units": active_units,
    "kl_per_dimension": kl_per_dimension,
    "mutual_information": mutual_information,
    "barber_agakov": barber_agakov,
    "prior_mismatch": prior_mismatch,
    "shuffled": shuffled,
    "trade_off": trade_off,
    "smoothness": smoothness,
    "gap": gap,
}
DEFAULT = ("elbo", "nll")

# figures that densities of the data enter, and how often
_DENSITIES = {
    **{"elbo": 1, "log_likelihood": 1, "nll": -1, "prior": 1, "ais": 1},
    **{"bdmc.lower": 1, "bdmc.upper": 1, "distortion": -1, "shuffled": 1},
}


def evaluate(
    model: Program,
    guide: Program,
    data: Source,
    metrics: Sequence[str | Metric] = DEFAULT,
    particles: int = 1000,
    *,
    inputs: Sequence[str] = ("x",),
    batch_size: int | None = None,
    data_plate: str | None = None,
    data_size: int | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    capture: Mode = "auto",
) -> dict[str, Estimate]:
    r"""Estimates how well a model and its guide fit data, in nats per datum.

    .. math::
        w_{nk} = \frac{p(x_n, z_{nk})}{q(z_{nk} \mid x_n)}, \quad z_{nk} \sim q(z \mid x_n) \qquad
        \text{elbo}_n = \frac{1}{K} \sum_{k=1}^K \log w_{nk} \qquad
        \text{nll}_n = -\log \frac{1}{K} \sum_{k=1}^K w_{nk}

    The metric ``"elbo"`` gives ``elbo``, the ``log_likelihood`` and the ``kl`` that it is the
    difference of, and the share of each site, such as ``kl.z``; all are sampled, with the same
    particles, so that no error is left where the guide is the posterior.

    The metric ``"nll"`` gives ``nll``, which exceeds :math:`-\log p(x)` on average, the less the
    more particles; ``nll.bias``, by how much, as the spread of the weights tells; ``bpd``, the
    same as ``nll`` in bits per dimension, where all that is observed has a mass function; the
    effective sample size ``ess`` of the weights; and ``khat``, the share of data at which the
    Pareto shape of the weights is above 0.7, where the evidence is not to be trusted
    (``per_datum`` holds the shapes themselves). Shapes take 21 particles: below, ``khat`` is NaN.

    The Monte Carlo error of ``nll`` and ``bpd`` is the delta method's, from the spread of the
    weights that were drawn. Where ``khat`` is high, or not known for want of particles, those
    that matter may not have been drawn: then the error is too small, and not to be trusted.

    Where the guide draws nothing (:class:`pyro_vae.guides.Empty`), every latent is summed out: one
    particle is computed, whatever ``particles`` says, the evidence is exact, and its Monte Carlo
    error is zero.

    Three metrics take nothing from the guide: ``"prior"``
    (:func:`~pyro_vae.evaluation.evidence.prior`) samples :math:`z` from the model's own prior;
    ``"ais"`` (:func:`~pyro_vae.evaluation.evidence.ais`) anneals 16 chains for each datum from
    there to the posterior, with ``particles`` temperatures, and bounds :math:`\log p(x)` from
    below on average; ``"bdmc"`` (:func:`~pyro_vae.evaluation.evidence.bdmc`) does so on simulated
    data, with a bound from above.

    Modules run in evaluation mode, on chunks of data and particles of bounded memory, so that
    any number of particles will do. A factor of ``poutine.scale`` is part of ``elbo``. Without a
    data plate the whole of the data is one datum. A global latent is drawn anew for each batch.

    Arguments:
        model: The generative program.
        guide: The program that draws its latents.
        data: Fields (tensors or arrays) with equal lengths :math:`N`, or a single one, or a
            data set: its test split is taken, drawn once from the seed if it is dynamically
            binarised, and densities are in the units before standardisation. What is floating
            is converted to the type of the parameters.
        metrics: Some of the names above, or functions of your own that are called as
            :class:`Metric` says.
        particles: The number of particles :math:`K`, or of temperatures.
        inputs: The fields that both programs are called with, in order.
        batch_size: The most data in a batch, by default as many as memory allows.
        data_plate: The name of the data plate; by default ``data``, else the only plate that
            all observed sites share, else none.
        data_size: How many data share the global latents, by default :math:`N`.
        device: Where it is computed, by default where the parameters are.
        seed: The seed of particles and of binarisation.
        capture: Whether chunks run as one compiled graph: ``True``, or an error that says what
            stands in the way; ``False``; ``"auto"`` where there are so many that compiling pays,
            which takes seconds. The same is computed then, but for rounding, with noise that may
            be other for a seed. Chunks of another size, as the last, run eagerly, and
            so does annealing.

    Raises:
        TypeError: If the data or the inputs are of another kind, or a number is no integer.
        ValueError: If an argument is out of range or a field is missing; if a log-density is not
            finite; for the evidence, if there are global latents, a guide that is a point
            estimate, or a factor of ``poutine.scale``; for annealing, if there are discrete
            latents that are not summed out; if chunks cannot be captured and must be.

    References:
        | Importance Weighted Autoencoders (Burda et al., 2016)
        | https://arxiv.org/abs/1509.00519

    Example:
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> estimates = evaluate(model, guide, torch.eye(4), particles=100)
        >>> list(estimates)
        ['elbo', 'log_likelihood', 'kl', 'kl.z', 'nll', 'bpd', 'nll.bias', 'ess', 'khat']
        >>> estimates["elbo"] < -float(estimates["nll"])
        True

        Large networks take less time in bfloat16 (:func:`pyro_vae.multiply_in`), also where they
        were trained in float32; :func:`pyro_vae.encode` and :func:`pyro_vae.sample` take such
        programs, too:

        >>> from pyro_vae import multiply_in
        >>> x = torch.ones(2, 784)
        >>> pair = VAE((784,), latents=2), AmortizedNormal((784,), {"z": 2})
        >>> half = [multiply_in(program, "bfloat16") for program in pair]
        >>> a, b = (float(evaluate(*both, x, particles=100)["nll"]) for both in (pair, half))
        >>> 0 < abs(a - b) < 1
        True
    """
    check_counts(particles=particles, batch_size=batch_size, data_size=data_size)
    check_mode(capture)
    _check(metrics)
    fields, log_jacobians = select(data, inputs, seed, parameter_dtype(model, guide))
    found: dict[str, Estimate] = {}
    with evaluating(model, guide, rows=fields, device=device, seed=seed) as place:
        pair = Pair(model, guide, data_plate)
        for metric in _passes(metrics):
            pyro.set_rng_seed(seed)  # whatever other metrics drew
            found |= metric(
                pair,
                fields,
                place,
                particles=particles,
                batch_size=batch_size,
                data_size=data_size or fields[0].shape[0],
                seed=seed,
                capture=capture,
            )
    for name in _DENSITIES.keys() & found.keys() if log_jacobians.any() else ():
        found[name] = found[name].shifted(_DENSITIES[name] * log_jacobians)
    return found


def _check(metrics: Sequence[str | Metric]) -> None:
    names = () if isinstance(metrics, str) else metrics
    if not names or any(not callable(name) and name not in METRICS for name in names):
        raise ValueError(f"expected metrics to be some of {tuple(METRICS)}, got {metrics!r}")


def _passes(metrics: Sequence[str | Metric]) -> Iterator[Metric]:
    r"""The functions of the metrics; bound and evidence come of one pass over the data."""
    both = [name for name in DEFAULT if name in metrics]
    if len(both) > 1:
        yield partial(bounds, both)
    for metric in dict.fromkeys(metrics):
        if len(both) < 2 or metric not in both:
            yield METRICS[metric] if isinstance(metric, str) else metric
