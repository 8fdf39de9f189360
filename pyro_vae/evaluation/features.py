r"""Single features of latents: their distributions, and how far a guide moves each."""

__all__ = ["Feature", "feature_kl", "marginals", "quantiles"]

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
)

from pyro_vae.distributions import has_kl, kl_divergence, unwrapped

_DRAWS = 4096


@dataclass(frozen=True)
class Feature:
    r"""A latent feature: its site, its index there, and its divergence from the prior in nats.

    Example:
        >>> print(Feature("z", 3, kl=2.1))
        z[3]
    """

    site: str
    index: int
    kl: float

    def __str__(self) -> str:
        return f"{self.site}[{self.index}]"


def marginals(fn: TorchDistribution) -> TorchDistribution | None:
    r"""The distribution of each feature on its own; ``None`` where only draws could tell.

    Arguments:
        fn: The distribution of draws with shape :math:`(*, D)`.

    Returns:
        A distribution over numbers with batch shape :math:`(*, D)`, up to broadcasting.
    """
    fn = unwrapped(fn, Independent, dist.MaskedDistribution)
    if isinstance(fn, MultivariateNormal | LowRankMultivariateNormal):
        return dist.Normal(fn.loc, fn.variance.sqrt())
    if isinstance(fn, dist.Delta):
        return dist.Delta(fn.v)
    return None if fn.event_shape else fn


def feature_kl(
    q: TorchDistribution, p: TorchDistribution, z: Tensor, analytic: bool = True
) -> Tensor:
    r"""The divergence of each feature's marginal from its prior's, or an estimate of it.

    .. math::
        \text{KL}(q_d \| p_d), \quad \text{or else} \quad \log q_d(z_d) - \log p_d(z_d)

    Of distributions that tell no marginals, such as flows, the divergence is that of normal ones
    with the moments of 4096 draws; of a point, whose divergence is infinite, it is
    :math:`-\log p_d(z_d)`.

    Arguments:
        q: The posterior.
        p: The prior.
        z: A draw of the posterior, with shape :math:`(*, D)`.
        analytic: Whether the closed form may stand for the estimate, where there is one.

    Returns:
        The divergences, with the shape of ``z``.

    Example:
        >>> p = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> q = dist.MultivariateNormal(torch.tensor([0.0, 2.0]), torch.eye(2))
        >>> feature_kl(q, p, q.sample())
        tensor([0., 2.])
    """
    a, b = marginals(q), marginals(p)
    if a is None or b is None:
        a, b, analytic = _matched(q), _matched(p), True
    if analytic and has_kl(a, b):
        return kl_divergence(a, b).expand_as(z)
    return (a.log_prob(z) - b.log_prob(z)).expand_as(z)


def _matched(fn: TorchDistribution) -> TorchDistribution:
    draws = fn.sample(torch.Size([_DRAWS]))
    return dist.Normal(draws.mean(0), draws.std(0))


def quantiles(fn: TorchDistribution, positions: Tensor) -> Tensor:
    r"""What each feature is at the quantiles that a standard normal has at some positions.

    .. math:: F_d^{-1}(\Phi(t)), \quad \text{which is} \quad \mu_d + \sigma_d t
        \quad \text{for a normal}

    Where no inverse of :math:`F_d` is known, it is that of 4096 draws.

    Arguments:
        fn: The distribution of draws with shape :math:`(*, D)`.
        positions: The positions :math:`t`, with shape :math:`(S)`.

    Returns:
        The quantiles, with shape :math:`(S, *, D)`.

    Example:
        >>> fn = dist.Normal(torch.tensor([0.0, 5.0]), 2.0).to_event(1)
        >>> quantiles(fn, torch.tensor([-1.0, 0.0, 3.0]))
        tensor([[-2.,  3.],
                [ 0.,  5.],
                [ 6., 11.]])
    """
    shape = fn.shape()
    t = positions.reshape(-1, *(1 for _ in shape))
    each = marginals(fn)
    if isinstance(each, Normal):
        return (each.loc + each.scale * t).expand(-1, *shape)
    below = Normal(0.0, 1.0).cdf(t)
    if each is not None:
        try:
            return each.icdf(below).expand(-1, *shape)
        except NotImplementedError:
            pass
    draws = fn.sample(torch.Size([_DRAWS]))
    return draws.quantile(below.flatten().to(draws.dtype), dim=0)
