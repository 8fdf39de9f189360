r"""The evidence lower bound."""

__all__ = ["ELBO", "kl_terms"]

from typing import Literal, get_args

import torch
from torch import Tensor

from pyro_vae.draws import Draw
from pyro_vae.layout import latent_sites, sample_sites
from pyro_vae.objectives.bound import Bound

KL = Literal["auto", "analytic", "sampled"]


class ELBO:
    r"""The evidence lower bound, with the divergence weighted by :math:`\beta`.

    .. math::
        \mathcal{L}(x_n) = \frac{1}{K} \sum_{k=1}^K \left[ \log p(x_n \mid z_k)
            - \beta \log \frac{q(z_k \mid x_n)}{p(z_k)} \right],
            \qquad z_k \sim q(z \mid x_n)

    Gradients are pathwise: every site of the guide must be reparametrised. With
    :math:`\beta = 1` value and gradient are unbiased for the bound of the literature; with
    another :math:`\beta` it is the objective of the beta-VAE, which bounds the evidence from
    below if :math:`\beta \geq 1`.

    Arguments:
        kl: ``"auto"`` takes the closed form of :math:`\text{KL}(q \| p)` at each site where it
            exists and is right, ``"sampled"`` nowhere, ``"analytic"`` raises where it is not.
        particles: The number of particles :math:`K`.
        beta: The weight :math:`\beta \geq 0`; kept as a tensor, so that it may change between
            steps (``objective.beta.fill_(0.5)``).

    Raises:
        ValueError: If an argument is out of range; when called, if a guide site is not
            reparametrised, or has no closed form and ``kl="analytic"``; if other sites depend on
            the unobserved part of a discrete ``obs_mask`` site whose parameters are trained.

    References:
        | Auto-Encoding Variational Bayes (Kingma & Welling, 2014)
        | https://arxiv.org/abs/1312.6114
        | beta-VAE (Higgins et al., 2017)
        | https://openreview.net/forum?id=Sy2fzU9gl

    Example:
        >>> from pyro_vae import SVI
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> svi = SVI(model, guide, torch.optim.Adam, ELBO(kl="analytic", particles=5))
        >>> svi.step(torch.ones(3, 4)).shape
        torch.Size([])
    """

    def __init__(self, kl: KL = "auto", particles: int = 1, beta: float | Tensor = 1.0) -> None:
        if kl not in get_args(KL):
            raise ValueError(f"expected kl to be one of {get_args(KL)}, got {kl!r}")
        if particles < 1:
            raise ValueError(f"expected at least one particle, got {particles}")
        if not 0 <= float(beta) < float("inf"):
            raise ValueError(f"expected a finite weight beta >= 0, got {float(beta)}")

        self.kl: KL = kl
        self.particles = particles
        self.beta = beta if isinstance(beta, Tensor) else torch.tensor(float(beta))

    def __call__(self, draw: Draw) -> Bound:
        r"""Bounds the evidence of each datum of a draw."""
        _check_pathwise(draw)
        divergence = draw.combine(kl_terms(draw, self.kl).items())
        value = (draw.log_likelihood - self.beta * divergence).mean(0)
        mean = value.mean()
        return Bound(value, model=mean, guide=mean)


def kl_terms(draw: Draw, kl: KL = "auto") -> dict[str, Tensor]:
    r"""The divergence of guide from prior by site, with shape :math:`(K, N)`.

    Their sum, each with its share (:meth:`Draw.combine`), is an unbiased estimate of
    :math:`\text{KL}(q \| p)`. Sites of the guide that share a prior term stand together.
    """
    analytic = {} if kl == "sampled" else dict(draw.kl)
    if kl == "analytic" and (rest := sorted(set(draw.log_guide) - set(analytic))):
        raise ValueError(
            f"expected a closed form of KL(q || p) at every guide site, got none that is right at "
            f'{rest}: use kl="auto", which samples there'
        )
    terms = dict(analytic)
    for name in draw.log_guide:
        if name not in analytic:
            key = _group(draw, name)
            terms[key] = terms.get(key, 0.0) + draw.log_guide[name]
    for name in draw.log_prior:
        if name not in analytic:
            terms[name] = terms.get(name, 0.0) - draw.log_prior[name]
    return terms


def _group(draw: Draw, name: str) -> str:
    return "+".join(draw.coupled_latents) if name in draw.coupled_latents else name


def _check_pathwise(draw: Draw) -> None:
    for name, site in sample_sites(draw.guide_trace).items():
        if not site["fn"].has_rsample:
            family = type(site["fn"]).__name__
            raise ValueError(
                f"expected reparametrised guide sites, got {family} at {name!r}, through which no "
                "gradient passes: use pyro.infer.Trace_ELBO(), which needs none, or mark the site "
                'infer={"enumerate": "parallel"} in the model and leave it out of the guide'
            )
    imputed = latent_sites(draw.model_trace)
    for name in sorted(draw.layout.passed_on):
        fn, value = imputed[name]["fn"], imputed[name]["value"]
        # of a constant prior no gradient is lost
        if not fn.has_rsample and fn.log_prob(value).requires_grad:
            raise ValueError(
                f"expected reparametrised unobserved parts of obs_mask, got {type(fn).__name__} at "
                f"{name!r}, through which no gradient passes from the sites that depend on it: "
                'sum it out with pyro.infer.config_enumerate(model, "parallel"), since Pyro drops '
                "infer= where obs_mask is given, or draw it in the guide"
            )
