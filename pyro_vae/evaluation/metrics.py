r"""Bounds and evidence of a data set, in one pass of bounded memory."""

__all__ = ["evaluate"]

from collections.abc import Sequence

import pyro
import torch

from pyro_vae.capturable import Mode
from pyro_vae.counts import check_counts
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.fields import Source, select
from pyro_vae.evaluation.scores import Scorer
from pyro_vae.evaluation.setting import evaluating, parameter_dtype
from pyro_vae.pair import Pair
from pyro_vae.programs import Program

METRICS = ("elbo", "nll")


def evaluate(
    model: Program,
    guide: Program,
    data: Source,
    metrics: Sequence[str] = METRICS,
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
    more particles; ``bpd``, the same in bits per dimension, where all that is observed has a mass
    function; the effective sample size ``ess`` of the weights; and ``khat``, the share of data
    at which the Pareto shape of the weights is above 0.7, where the evidence is not to be trusted
    (``per_datum`` holds the shapes themselves). Shapes take 21 particles: below, ``khat`` is NaN.

    The Monte Carlo error of ``nll`` and ``bpd`` is the delta method's, from the spread of the
    weights that were drawn. Where ``khat`` is high, or not known for want of particles, those
    that matter may not have been drawn: then the error is too small, and not to be trusted.

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
        metrics: Some of ``"elbo"`` and ``"nll"``.
        particles: The number of particles :math:`K`.
        inputs: The fields that both programs are called with, in order.
        batch_size: The most data in a batch, by default as many as memory allows.
        data_plate: The name of the data plate; by default ``data``, else the only plate that
            all observed sites share, else none.
        data_size: How many data share the global latents, by default :math:`N`.
        device: Where it is computed, by default where the parameters are.
        seed: The seed of particles and of binarisation.
        capture: Whether chunks run as one compiled graph: ``True``, or an error that says what
            stands in the way; ``False``; ``"auto"`` where there are so many that compiling pays,
            which takes seconds. The same is computed then, but for rounding, with other noise
            for a seed: the compiler's. Chunks of another size, as the last, run eagerly.

    Raises:
        TypeError: If the data or the inputs are of another kind, or a number is no integer.
        ValueError: If an argument is out of range or a field is missing; if a log-density is not
            finite; for ``"nll"``, if there are global latents, a guide that is a point estimate,
            or a factor of ``poutine.scale``; if chunks cannot be captured and must be.

    References:
        | Importance Weighted Autoencoders (Burda et al., 2016)
        | https://arxiv.org/abs/1509.00519

    Example:
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> estimates = evaluate(model, guide, torch.eye(4), particles=100)
        >>> list(estimates)
        ['elbo', 'log_likelihood', 'kl', 'kl.z', 'nll', 'bpd', 'ess', 'khat']
        >>> estimates["elbo"] < -float(estimates["nll"])
        True
    """
    check_counts(particles=particles, batch_size=batch_size, data_size=data_size)
    if isinstance(metrics, str) or not metrics or set(metrics) - set(METRICS):
        raise ValueError(f"expected metrics to be some of {METRICS}, got {metrics!r}")
    fields, log_jacobian = select(data, inputs, seed, parameter_dtype(model, guide))
    size = fields[0].shape[0]
    with evaluating(model, guide, rows=fields, device=device, seed=seed) as place:
        pair = Pair(model, guide, data_plate)
        scorer = Scorer(pair, metrics, particles, data_size or size, capture)
        batch = scorer.prepare(fields, batch_size, place)
        pyro.set_rng_seed(seed)  # whatever was drawn so far
        for part in zip(*(field.split(batch) for field in fields), strict=True):
            scorer.update(tuple(field.to(place) for field in part))
    return scorer.estimates(log_jacobian, seed)
