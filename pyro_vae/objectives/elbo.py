r"""The evidence lower bound."""

__all__ = ["ELBO"]

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pyro_vae.counts import check_counts
from pyro_vae.draws import Draw
from pyro_vae.objectives.bound import Bound
from pyro_vae.objectives.divergence import KL, check_kl, kl_dimensions, kl_terms
from pyro_vae.objectives.pathwise import check_pathwise, check_stopped
from pyro_vae.schedules import Schedule, as_schedule

Gradient = Literal["pathwise", "stl"]
Groups = Literal["site", "dimension"]


class ELBO(nn.Module):
    r"""The evidence lower bound, with the divergence weighted by :math:`\beta`.

    .. math::
        \mathcal{L}(x_n) = \frac{1}{K} \sum_{k=1}^K \left[ \log p(x_n \mid z_k)
            - \beta \log \frac{q(z_k \mid x_n)}{p(z_k)} \right],
            \qquad z_k \sim q(z \mid x_n)

    With free bits :math:`\lambda`, the divergence of each group of latents counts as
    :math:`\max(\lambda, \text{KL}_g)`, where :math:`\text{KL}_g` is its mean over the batch: below
    :math:`\lambda` nothing presses it further down.

    Gradients are pathwise: every site of the guide must be reparametrised. With
    :math:`\beta = 1` it is the bound of the literature; with another :math:`\beta` the objective
    of the beta-VAE, which bounds the evidence from below if :math:`\beta \geq 1`. With free bits
    it lies below that, up to the noise of the mean.

    Bias:
        Unbiased in value and gradient for any :math:`\beta`, but for free bits, which depend on the
        batch.

    Arguments:
        kl: ``"auto"`` takes the closed form of :math:`\text{KL}(q \| p)` at each site where it
            exists and is right, ``"sampled"`` nowhere, ``"analytic"`` raises where it is not.
        particles: The number of particles :math:`K`.
        beta: The weight :math:`\beta \geq 0`, or its schedule (:mod:`pyro_vae.schedules`), as for
            a warm-up of the divergence; ``objective.beta.number.fill_(0.5)`` sets it by hand.
        free_bits: The :math:`\lambda \geq 0` in nats, or its schedule; ``None``: no free bits.
        groups: Whether each ``"site"`` is a group, or each ``"dimension"`` of each site.
        gradient: ``"pathwise"``, or ``"stl"``: also unbiased, since the derivative of
            :math:`\log q` by its parameters, which it leaves out, has mean zero; with
            :math:`\beta = 1` no noise is left where the guide is the posterior. It samples the
            divergence. A guide whose sites depend on one another runs twice.

    Raises:
        ValueError: If an argument is out of range; when called, if a guide site is not
            reparametrised, or has no closed form and ``kl="analytic"``; if other sites depend on
            the unobserved part of a discrete ``obs_mask`` site whose parameters are trained; if
            the dimensions of a site are not independent where they are groups; if parameters
            cannot be stopped.

    References:
        | Auto-Encoding Variational Bayes (Kingma & Welling, 2014)
        | https://arxiv.org/abs/1312.6114
        | beta-VAE (Higgins et al., 2017)
        | https://openreview.net/forum?id=Sy2fzU9gl
        | Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016)
        | https://arxiv.org/abs/1606.04934
        | Sticking the Landing (Roeder et al., 2017)
        | https://arxiv.org/abs/1703.09194

    Example:
        >>> from pyro_vae import SVI
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> from pyro_vae.schedules import Linear
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> objective = ELBO(particles=5, beta=Linear(0, 1, length=1000), free_bits=0.1)
        >>> svi = SVI(model, guide, torch.optim.Adam, objective)
        >>> svi.step(torch.ones(3, 4)).shape
        torch.Size([])
    """

    pathwise = True

    def __init__(
        self,
        kl: KL = "auto",
        particles: int = 1,
        beta: float | Tensor | Schedule = 1.0,
        free_bits: float | Tensor | Schedule | None = None,
        groups: Groups = "site",
        gradient: Gradient = "pathwise",
    ) -> None:
        super().__init__()
        check_kl(kl)
        if groups not in get_args(Groups):
            raise ValueError(f"expected groups to be one of {get_args(Groups)}, got {groups!r}")
        if gradient not in get_args(Gradient):
            raise ValueError(
                f"expected gradient to be one of {get_args(Gradient)}, got {gradient!r}"
            )
        if gradient == "stl" and kl == "analytic":
            raise ValueError(
                "expected kl='auto' or 'sampled' with gradient='stl', which leaves out a part of "
                "what is sampled, got kl='analytic'"
            )
        if gradient == "stl" and groups == "dimension":
            raise ValueError(
                "expected groups='site' with gradient='stl', got groups='dimension', whose "
                "divergences are not stopped"
            )
        check_counts(particles=particles)

        self.kl: KL = kl
        self.particles = particles
        self.beta = as_schedule(beta, "beta", least=0)
        self.free_bits = None if free_bits is None else as_schedule(free_bits, "free_bits", least=0)
        self.groups, self.gradient = groups, gradient

    def forward(self, draw: Draw) -> Bound:
        r"""Bounds the evidence of each datum of a draw."""
        check_pathwise(draw)
        if self.gradient == "stl":
            check_stopped(draw, "stl")
        divergence = draw.combine(self._divergences(draw).items())
        return Bound.of((draw.log_likelihood - self.beta() * divergence).mean(0))

    def _divergences(self, draw: Draw) -> dict[str, Tensor]:
        stl = self.gradient == "stl"
        terms = kl_terms(draw, "sampled" if stl else self.kl, stopped=stl)
        if self.free_bits is None:
            return terms
        least = self.free_bits()
        if self.groups == "site":
            return {name: _at_least(term, least) for name, term in terms.items()}
        dimensions = kl_dimensions(draw, "sampled" if stl else self.kl)
        return {name: _at_least(term, least).sum(0) for name, term in dimensions.items()}


def _at_least(terms: Tensor, least: Tensor) -> Tensor:
    r"""Divergences with shape :math:`(*, K, N)`, or a least one where their mean is less."""
    enough = terms.mean((-2, -1), keepdim=True) > least
    return torch.where(enough, terms, least.to(terms.dtype))
