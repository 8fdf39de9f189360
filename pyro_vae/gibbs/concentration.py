r"""The concentration of a Dirichlet process, given how many clusters there are."""

__all__ = ["resample"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_vae.gibbs.conjugate import Array


def resample(
    alpha: Array,
    clusters: NDArray[Any],
    size: int,
    prior: tuple[float, float],
    random: np.random.Generator,
) -> Array:
    r"""A Gibbs step for concentrations, through a variable of its own.

    .. math::
        \eta & \sim \text{Beta}(\alpha + 1, N), \qquad \beta = b - \log \eta \\
        \alpha & \sim \text{Gamma}(a + T - \epsilon, \beta), \qquad
        \frac{p(\epsilon = 0)}{p(\epsilon = 1)} = \frac{a + T - 1}{N \beta}

    Arguments:
        alpha: The concentrations of chains, with shape :math:`(C)`.
        clusters: How many clusters :math:`T` each has.
        size: The number of data :math:`N`.
        prior: The shape :math:`a` and the rate :math:`b` of the gamma prior.
        random: What draws them.

    References:
        | Bayesian Density Estimation and Inference Using Mixtures (Escobar & West, 1995)
        | https://doi.org/10.1080/01621459.1995.10476550
    """
    a, b = prior
    rate = b - np.log(random.beta(alpha + 1, size).clip(min=np.finfo(float).tiny))
    odds = (a + clusters - 1) / (size * rate)
    fewer = random.random(alpha.shape) * (1 + odds) > odds
    found: Array = random.gamma(a + clusters - fewer) / rate
    return found.clip(min=np.finfo(float).tiny)
