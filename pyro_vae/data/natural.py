r"""The natural likelihood of data whose source says nothing about it."""

__all__ = ["natural_likelihood", "value_range"]

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae.data.survey import Survey
from pyro_vae.likelihoods import (
    Bernoulli,
    Binomial,
    ContinuousBernoulli,
    Likelihood,
    Masked,
    NormalLearnedScale,
    Poisson,
)


def natural_likelihood(surveys: Sequence[Survey]) -> Likelihood:
    r"""The narrowest likelihood whose support holds all values of some fields.

    It is Bernoulli for values in :math:`\{0, 1\}`, binomial out of 255 for unsigned bytes,
    Poisson for other whole numbers of at least 0, continuous Bernoulli for other values in
    :math:`[0, 1]`, and normal, with a learned scale, for the rest.

    Arguments:
        surveys: What there is in each field, in the dtype of the source.

    Example:
        >>> from pyro_vae.data.survey import survey
        >>> x = torch.tensor([[0.0], [0.3], [1.0]])
        >>> type(natural_likelihood([survey(x)])).__name__
        'ContinuousBernoulli'
    """
    low, high = bounds([part for found in surveys for part in (found.low, found.high)])
    whole = all(found.whole for found in surveys)

    if whole and low >= 0 and high <= 1:
        return Bernoulli()
    if all(found.low.dtype == torch.uint8 for found in surveys):
        return Binomial(255)
    if whole and low >= 0:
        return Poisson()
    if low >= 0 and high <= 1:
        return ContinuousBernoulli()
    return NormalLearnedScale()


def bounds(xs: Sequence[Tensor]) -> tuple[float, float]:
    r"""The least and the greatest of all values."""
    return min(float(x.min()) for x in xs), max(float(x.max()) for x in xs)


def value_range(xs: Sequence[Tensor], likelihood: Likelihood) -> tuple[float, float]:
    r"""The bounds of a likelihood's support, or where it has none those of the values."""
    match likelihood:
        case Bernoulli() | ContinuousBernoulli():
            return 0.0, 1.0
        case Binomial():
            return 0.0, float(likelihood.total_count)
        case Poisson():
            return 0.0, bounds(xs)[1]
        case Masked():
            return value_range(xs, likelihood.likelihood)
        case _:
            return bounds(xs)
