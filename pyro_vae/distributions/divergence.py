r"""Kullback-Leibler divergences in closed form."""

__all__ = ["has_kl", "kl_divergence"]

import torch
from pyro.distributions import Independent, MaskedDistribution, MultivariateNormal, Normal
from torch import Tensor
from torch.distributions import Distribution


def kl_divergence(q: Distribution, p: Distribution) -> Tensor:
    r"""The divergence :math:`\text{KL}(q \| p) = \mathbb{E}_q[\log q(z) - \log p(z)]`.

    What torch and Pyro know, and from a full to a diagonal normal, where with
    :math:`q = \mathcal{N}(m, L L^\top)` and :math:`p = \mathcal{N}(\mu, \text{diag} \, \sigma^2)`

    .. math::
        \text{KL}(q \| p) = \sum_i \log \frac{\sigma_i}{L_{ii}} - \frac{1}{2}
            + \frac{\sum_j L_{ij}^2 + (m_i - \mu_i)^2}{2 \sigma_i^2} .

    Arguments:
        q: The distribution of which the expectation is taken, with batch shape :math:`(*)`.
        p: The other distribution, with the same shapes.

    Raises:
        NotImplementedError: If there is no closed form for these two families.

    Example:
        >>> import pyro.distributions as dist
        >>> p = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> kl_divergence(dist.MultivariateNormal(torch.ones(2), torch.eye(2)), p)
        tensor(1.)
    """
    if isinstance(q, MultivariateNormal) and (diagonal := _diagonal_normal(p)) is not None:
        loc, scale = diagonal.loc, diagonal.scale
        square = q.scale_tril.square().sum(-1) + (q.loc - loc).square()
        log_diagonal = q.scale_tril.diagonal(dim1=-2, dim2=-1).log()
        return (scale.log() - log_diagonal + (square / scale.square() - 1) / 2).sum(-1)
    # torch's of two Bernoulli does not broadcast, and looks at a single number's value
    shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    if not shape:
        return torch.distributions.kl_divergence(q.expand((1,)), p.expand((1,))).squeeze(0)
    if q.batch_shape != p.batch_shape:
        q, p = q.expand(shape), p.expand(shape)
    return torch.distributions.kl_divergence(q, p)


def has_kl(q: Distribution, p: Distribution) -> bool:
    r"""Whether :func:`kl_divergence` knows these two, over the same events and unmasked."""
    if _is_masked(q) or _is_masked(p) or q.event_shape != p.event_shape:
        return False
    try:
        kl_divergence(q, p)
    except NotImplementedError:
        return False
    return True


def _is_masked(d: Distribution) -> bool:
    if isinstance(d, MaskedDistribution):
        return True
    return hasattr(d, "base_dist") and _is_masked(d.base_dist)


def _diagonal_normal(p: Distribution) -> Normal | None:
    if isinstance(p, Independent) and p.reinterpreted_batch_ndims == 1:
        return p.base_dist if isinstance(p.base_dist, Normal) else None
    return None
