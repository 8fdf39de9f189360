r"""How heavy the tail of importance weights is."""

__all__ = ["is_loose", "khat", "pareto_shape", "tail_size"]

import math
from dataclasses import replace

import torch
from torch import Tensor

from pyro_vae.evaluation.estimate import Estimate


def tail_size(particles: int) -> int:
    r"""The number of weights that count as the tail, :math:`M = \min(0.2 K, 3 \sqrt{K})`."""
    return math.ceil(min(0.2 * particles, 3 * math.sqrt(particles)))


def pareto_shape(log_tail: Tensor) -> Tensor:
    r"""The shape :math:`\hat k` of the Pareto distribution that fits the largest weights.

    The moments of order :math:`1 / k` and above of weights with shape :math:`k` are infinite:
    up to 0.7, an average of them converges at a rate of use; above, the error that it states
    is not to be trusted.

    The fit is Zhang and Stephens', to the :math:`M` exceedances over the smallest weight given,
    drawn towards 0.5 by ten observations. Weights within a thousandth of one another, as rounding
    to single precision leaves equal ones, have no tail: :math:`\hat k = -\infty`. Fewer than
    five exceedances are too few: NaN.

    Arguments:
        log_tail: The logarithms of the :math:`M + 1` largest weights, with shape
            :math:`(M + 1, N)`, in any order.

    Returns:
        A tensor with shape :math:`(N)`.

    References:
        | Pareto Smoothed Importance Sampling (Vehtari et al., 2024)
        | https://www.jmlr.org/papers/v25/19-556.html
        | A New and Efficient Estimation Method for the Generalized Pareto Distribution
          (Zhang & Stephens, 2009)
        | https://doi.org/10.1198/tech.2009.08017

    Example:
        >>> levels = torch.linspace(0.99, 0.01, 99, dtype=torch.float64)
        >>> tail = -2.0 * levels.log()[:, None]  # quantiles of u^-2, of which the shape is 2
        >>> bool((pareto_shape(tail) - 2).abs() < 0.3)
        True
    """
    size = log_tail.shape[0] - 1
    if size < 5:
        return log_tail.new_full(log_tail.shape[1:], math.nan)
    weights = (log_tail - log_tail.amax(0)).exp().sort(dim=0).values
    x = weights[1:] - weights[0]  # (M, N)
    equal = x[-1] < 1e-3
    x = torch.where(equal, torch.ones_like(x), x)

    candidates = 30 + int(math.sqrt(size))
    steps = torch.arange(1, candidates + 1, dtype=x.dtype, device=x.device).sub(0.5).rsqrt()
    # ties with the smallest weight would put the quartile to zero
    quartile = x[int(size / 4 - 0.5)].clamp(min=torch.finfo(x.dtype).tiny)
    b = (1 - math.sqrt(candidates) * steps[:, None]) / (3 * quartile) + 1 / x[-1]  # (L, N)
    k = torch.log1p(-b[:, None] * x).mean(1)
    likelihood = size * (torch.log(-b / k) - k - 1)
    mean = (likelihood.softmax(0) * b).sum(0)
    k = torch.log1p(-mean * x).mean(0)
    k = (k * size + 5) / (size + 10)
    return torch.where(equal, -math.inf, k)


def khat(shapes: Tensor, seed: int) -> Estimate:
    r"""The share of data whose weights are not to be trusted: with a Pareto shape above 0.7.

    Arguments:
        shapes: Those of each datum, with shape :math:`(N)`, which ``per_datum`` keeps.
        seed: The seed that the weights were drawn with.

    Example:
        >>> print(khat(torch.tensor([0.1, 0.9, 0.5, 0.2]), seed=0))
        0.25 ± 0.25 (data) of the data
    """
    above = torch.where(shapes.isnan(), shapes, (shapes > 0.7).to(shapes))
    share = Estimate.of(above, math.nan, "of the data", seed)
    return replace(share, per_datum=shapes.detach().cpu())


def is_loose(share: float) -> bool:
    r"""Whether evidence is but a lower bound, by the share of data that :func:`khat` counts.

    Example:
        >>> is_loose(0.05), is_loose(0.2), is_loose(math.nan)
        (False, True, True)
    """
    return not share <= 0.1
