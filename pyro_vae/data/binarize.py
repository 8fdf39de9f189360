r"""Binarisation: probabilities from levels, and draws from them."""

__all__ = ["binarize", "probabilities"]

from functools import partial

import torch
from torch import Generator, Tensor

from pyro_vae.data.lazy import Lazy, each
from pyro_vae.data.mapped import Packed
from pyro_vae.data.survey import survey
from pyro_vae.likelihoods import Bernoulli, Binomial, ContinuousBernoulli, Likelihood

_NONE = "give binarization='none' (--data.binarization none)"


def probabilities(x: Tensor, likelihood: Likelihood, origin: str) -> Tensor:
    r"""The probability that a feature is 1: its level, as a share of the highest level.

    .. math:: p_{nf} = x_{nf} / L

    Arguments:
        x: Counts out of :math:`L`, or numbers in :math:`[0, 1]`, with shape :math:`(N, *)`.
        likelihood: The natural likelihood of ``x``.
        origin: What an error calls the data.

    Raises:
        ValueError: If the data have no highest level, or are binary.

    References:
        | On the Quantitative Analysis of Deep Belief Networks (Salakhutdinov & Murray, 2008)
        | https://www.cs.toronto.edu/~rsalakhu/papers/dbn_ais.pdf
    """
    if isinstance(likelihood, Binomial):
        # a worker that is started anew has another default
        share = partial(_share, total=likelihood.total_count, dtype=torch.get_default_dtype())
        return each(x, share)
    if isinstance(likelihood, ContinuousBernoulli):
        return x
    if isinstance(likelihood, Bernoulli):
        raise ValueError(f"{origin}: the data are binary already; {_NONE}")

    found = survey(x)
    low, high = found.low.min(), found.high.max()
    raise ValueError(
        f"{origin}: expected levels (uint8) or numbers in [0, 1] to binarize, got values in "
        f"[{low:g}, {high:g}]; divide by the highest one or {_NONE}"
    )


def binarize(p: Tensor, generator: Generator) -> Tensor:
    r"""Draws :math:`x_{nf} \sim \text{Bernoulli}(p_{nf})`, the same in single and double."""
    if isinstance(p, Lazy):
        return Packed.draw(p, partial(binarize, generator=generator))
    uniform = torch.rand(p.shape, dtype=torch.float32, device="cpu", generator=generator)
    return (uniform.to(p.device) < p.float()).to(p)


def _share(x: Tensor, total: int, dtype: torch.dtype) -> Tensor:
    x = x if x.is_floating_point() else x.to(dtype)
    # an accelerator multiplies by the inverse of a mere number, which rounds otherwise
    return x / torch.full((), total, dtype=x.dtype, device=x.device)
