r"""The natural likelihood of data whose source says nothing about it."""

__all__ = ["natural_likelihood", "value_range"]

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae.likelihoods import (
    Bernoulli,
    Binomial,
    ContinuousBernoulli,
    Likelihood,
    NormalLearnedScale,
    Poisson,
)


def natural_likelihood(xs: Sequence[Tensor]) -> Likelihood:
    r"""The narrowest likelihood whose support holds all values of some tensors.

    It is Bernoulli for values in :math:`\{0, 1\}`, binomial out of 255 for unsigned bytes,
    Poisson for other whole numbers of at least 0, continuous Bernoulli for other values in
    :math:`[0, 1]`, and normal, with a learned scale, for the rest.

    Arguments:
        xs: Tensors with shapes :math:`(N, *)`, in the dtype of the source.

    Example:
        >>> type(natural_likelihood([torch.tensor([[0.0], [0.3], [1.0]])])).__name__
        'ContinuousBernoulli'
    """
    low, high = value_range(xs)
    whole = all(not x.is_floating_point() or bool((x == x.round()).all()) for x in xs)

    if whole and low >= 0 and high <= 1:
        return Bernoulli()
    if all(x.dtype == torch.uint8 for x in xs):
        return Binomial(255)
    if whole and low >= 0:
        return Poisson()
    if low >= 0 and high <= 1:
        return ContinuousBernoulli()
    return NormalLearnedScale()


def value_range(xs: Sequence[Tensor], likelihood: Likelihood | None = None) -> tuple[float, float]:
    r"""The bounds of a likelihood's support, or where it has none those of the values."""
    match likelihood:
        case Bernoulli() | ContinuousBernoulli():
            return 0.0, 1.0
        case Binomial():
            return 0.0, float(likelihood.total_count)
        case Poisson():
            return 0.0, max(float(x.max()) for x in xs)
        case _:
            return min(float(x.min()) for x in xs), max(float(x.max()) for x in xs)
