r"""Objectives that hold one term at a target while they optimise the other."""

__all__ = ["GECO", "Capacity"]

import math

import torch
from torch import Tensor, nn

from pyro_vae.counts import check_counts
from pyro_vae.draws import Draw
from pyro_vae.objectives.average import Average
from pyro_vae.objectives.bound import Bound
from pyro_vae.objectives.divergence import KL, check_kl, kl_terms
from pyro_vae.objectives.pathwise import check_pathwise
from pyro_vae.schedules import Schedule, as_schedule


class GECO(nn.Module):
    r"""The least divergence at which data are reconstructed well enough.

    .. math::
        \min \; \text{KL}(q(z \mid x) \,\|\, p(z)) \quad \text{such that} \quad
        C = \mathbb{E}_{q}[-\log p(x \mid z)] - \delta \leq 0

    in the mean over the data. What is maximised is
    :math:`-\text{KL} - \lambda C`, and after each step

    .. math::
        \lambda \leftarrow \lambda \, \exp(\eta \, \bar C),

    where :math:`\bar C` is a moving average of the batches' :math:`C`: the multiplier
    :math:`\lambda` grows while the constraint is violated, and falls while it is met. In the
    paper's straight-through form the value of :math:`C` is replaced by :math:`\bar C`, which
    has the same gradient.

    Where the optimum touches the constraint it is that of the beta-VAE with
    :math:`\beta = 1 / \lambda`, a point of the rate-distortion curve. Gradients are pathwise:
    every site of the guide must be reparametrised. ``objective.multiplier`` and
    ``objective.violation.mean``, :math:`\bar C`, are logged.

    Bias:
        Unbiased for the Lagrangian, given its multiplier; it is no bound on the evidence.

    Arguments:
        delta: The greatest negative log-likelihood :math:`\delta` of a datum, in nats, or its
            schedule. Of densities it may be negative; of standardised data it is that of the
            numbers that the model sees, while ``log_likelihood`` is logged in the data's own
            units, which adds the mean of ``data.log_jacobians``.
        initial: The first :math:`\lambda > 0`.
        rate: How fast the multiplier follows, :math:`\eta \geq 0`, for a nat and a step, or its
            schedule.
        decay: The decay of the moving average, in :math:`[0, 1)`.
        limits: The least and the greatest multiplier.
        kl: As for :class:`pyro_vae.objectives.ELBO`.
        particles: The number of particles.

    Raises:
        ValueError: If an argument is out of range; when called, if a guide site is not
            reparametrised, or has no closed form and ``kl="analytic"``.

    References:
        | Taming VAEs (Rezende & Viola, 2018)
        | https://arxiv.org/abs/1810.00597

    Example:
        >>> from pyro_vae import SVI
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> objective = GECO(delta=0.5)
        >>> svi = SVI(model, guide, torch.optim.Adam, objective)
        >>> before = objective.multiplier.item()
        >>> loss = svi.step(torch.ones(3, 4))
        >>> objective.multiplier.item() > before
        True
    """

    pathwise = True
    multiplier: Tensor

    def __init__(
        self,
        delta: float | Tensor | Schedule,
        initial: float = 1.0,
        rate: float | Tensor | Schedule = 1e-3,
        decay: float = 0.99,
        limits: tuple[float, float] = (1e-4, 1e4),
        kl: KL = "auto",
        particles: int = 1,
    ) -> None:
        super().__init__()
        check_kl(kl)
        check_counts(particles=particles)
        least, most = limits
        if not 0 < least <= initial <= most < math.inf:
            raise ValueError(
                f"expected a multiplier within limits that are positive, got initial={initial} and "
                f"limits={tuple(limits)}"
            )

        self.delta = as_schedule(delta, "delta")
        self.register_buffer("multiplier", torch.tensor(float(initial), dtype=torch.float64))
        self.rate = as_schedule(rate, "rate", least=0)
        self.initial, self.decay, self.limits = initial, decay, (least, most)
        self.violation = Average(decay)
        self.kl: KL = kl
        self.particles = particles

    def forward(self, draw: Draw) -> Bound:
        r"""The Lagrangian of each datum of a draw."""
        check_pathwise(draw)
        divergence = draw.combine(kl_terms(draw, self.kl).items())
        # a copy, since the buffer is written to before a captured step ends
        violation = self.multiplier.clone() * self._violation(draw)
        return Bound.of(-(divergence + violation).mean(0))

    def update(self, draw: Draw, bound: Bound) -> None:
        r"""Has the multiplier follow the constraint."""
        self.violation.update(self._violation(draw).mean().to(self.violation.mean.dtype))
        step = (self.rate().double() * self.violation().double()).exp()
        self.multiplier.mul_(step).clamp_(*self.limits)

    def _violation(self, draw: Draw) -> Tensor:
        return -draw.log_likelihood - self.delta()


class Capacity(nn.Module):
    r"""The likelihood, with the divergence held at a capacity.

    .. math::
        \mathcal{L}(x_n) = \mathbb{E}_q[\log p(x_n \mid z)]
            - \gamma \left| \text{KL}(q(z \mid x_n) \,\|\, p(z)) - C \right|

    As in the paper the capacity :math:`C` is that of each datum, not of their mean; it grows
    from zero, so that the latents find one after another what tells most about the data.

    Gradients are pathwise: every site of the guide must be reparametrised.

    Bias:
        Unbiased where the divergence has a closed form; where it is sampled, the absolute value
        of a noisy number is biased, the less the more particles. It is no bound on the evidence.

    Arguments:
        gamma: The weight :math:`\gamma \geq 0`, or its schedule.
        capacity: The :math:`C \geq 0` in nats, or its schedule.
        kl: As for :class:`pyro_vae.objectives.ELBO`.
        particles: The number of particles.

    Raises:
        ValueError: If an argument is out of range; when called, if a guide site is not
            reparametrised, or has no closed form and ``kl="analytic"``.

    References:
        | Understanding disentangling in beta-VAE (Burgess et al., 2018)
        | https://arxiv.org/abs/1804.03599

    Example:
        >>> from pyro_vae import SVI
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> from pyro_vae.schedules import Linear
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> objective = Capacity(gamma=30, capacity=Linear(0, 25, length=1000))
        >>> SVI(model, guide, torch.optim.Adam, objective).step(torch.ones(3, 4)).shape
        torch.Size([])
    """

    pathwise = True

    def __init__(
        self,
        gamma: float | Tensor | Schedule = 1000.0,
        capacity: float | Tensor | Schedule = 25.0,
        kl: KL = "auto",
        particles: int = 1,
    ) -> None:
        super().__init__()
        check_kl(kl)
        check_counts(particles=particles)

        self.gamma = as_schedule(gamma, "gamma", least=0)
        self.capacity = as_schedule(capacity, "capacity", least=0)
        self.kl: KL = kl
        self.particles = particles

    def forward(self, draw: Draw) -> Bound:
        r"""The objective of each datum of a draw."""
        check_pathwise(draw)
        divergence = draw.combine(kl_terms(draw, self.kl).items()).mean(0)
        excess = (divergence - self.capacity()).abs()
        return Bound.of(draw.log_likelihood.mean(0) - self.gamma() * excess)
