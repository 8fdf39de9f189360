r"""The curve of rate and distortion."""

__all__ = ["Point", "rate_distortion_curve"]

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.fields import Source
from pyro_vae.evaluation.metrics import evaluate
from pyro_vae.programs import Program


@dataclass(frozen=True)
class Point:
    r"""A point of the curve: what a pair spends on its latents, and on data given them.

    Arguments:
        beta: The weight of the divergence that the pair was trained with.
        rate: The average :math:`\text{KL}(q(z \mid x) \| p(z))`.
        distortion: The average :math:`-\mathbb{E}_q[\log p(x \mid z)]`.
    """

    beta: float
    rate: Estimate
    distortion: Estimate


def rate_distortion_curve(
    pairs: Iterable[tuple[float, Program, Program]],
    data: Source,
    particles: int = 1,
    **options: Any,
) -> list[Point]:
    r"""The curve of pairs that were trained with different weights of the divergence.

    .. math:: \beta \mapsto (R_\beta, D_\beta), \quad \text{where at best} \quad
        \frac{dD}{dR} = -\beta

    Arguments:
        pairs: Weight :math:`\beta`, model and guide of each; one at a time is asked for, so that
            they may be trained or loaded on the way.
        data: What they are evaluated on, as for :func:`pyro_vae.evaluate`.
        particles: The number of particles.
        options: The others of :func:`pyro_vae.evaluate`.

    Returns:
        The points, those of low rates, and thus great :math:`\beta`, first.

    References:
        | Fixing a Broken ELBO (Alemi et al., 2018)
        | https://arxiv.org/abs/1711.00464

    Example:
        >>> import torch
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> pairs = [(b, VAE((4,), 2), AmortizedNormal((4,), {"z": 2})) for b in (0.5, 2.0)]
        >>> [type(point.rate).__name__ for point in rate_distortion_curve(pairs, torch.eye(4))]
        ['Estimate', 'Estimate']
    """
    found = []
    for beta, model, guide in pairs:
        parts = evaluate(model, guide, data, ("elbo",), particles, **options)
        found.append(Point(beta, parts["kl"], -parts["log_likelihood"]))
    return sorted(found, key=lambda point: float(point.rate))
