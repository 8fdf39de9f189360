r"""The thermodynamic bound, an integral from the guide to the posterior."""

__all__ = ["TVO"]

from itertools import pairwise

import torch
from torch import Tensor, nn

from pyro_vae.counts import check_counts
from pyro_vae.draws import Draw
from pyro_vae.objectives.bound import Bound
from pyro_vae.objectives.pathwise import check_scored
from pyro_vae.objectives.weights import columns, log_weights, shared_out
from pyro_vae.schedules import Schedule, as_schedule, ends


class TVO(nn.Module):
    r"""The thermodynamic variational objective: a lower sum of the integral that is the evidence.

    .. math::
        \log p(x_n) = \int_0^1 \mathbb{E}_{\pi_\beta}[\log w] \, d\beta
            \geq \sum_{j=0}^{P-1} (\beta_{j+1} - \beta_j) \, \mathbb{E}_{\pi_{\beta_j}}[\log w],
            \qquad \pi_\beta(z) \propto q(z \mid x_n)^{1-\beta} \, p(x_n, z)^\beta

    Expectations under :math:`\pi_\beta` are those of :math:`K` particles of the guide, with
    weights in proportion to :math:`w^\beta`. With :math:`0 = \beta_0 < \ldots < \beta_P = 1`
    it starts as the evidence lower bound (:math:`P = 1`); each draw of it lies below that of
    :class:`IWAE` with as many particles, to which it rises with :math:`P`.

    Gradients need no reparametrisation, so that latents may be discrete:

    .. math::
        \nabla \mathbb{E}_{\pi_\beta}[\log w] = \mathbb{E}_{\pi_\beta}[\nabla \log w]
            + \text{Cov}_{\pi_\beta}[\nabla \log q^{1-\beta} p^\beta, \log w]

    Bias:
        Biased in value and gradient for finite :math:`K`, but at :math:`\beta_0 = 0`, where weights
        are equal: with :math:`P = 1` it is the evidence lower bound, unbiased.

    Arguments:
        k: The number of particles :math:`K \geq 2`.
        partitions: The number of intervals :math:`P`.
        first: The point :math:`\beta_1`, or its schedule; those between it and one are evenly
            spaced in logarithms.

    Raises:
        ValueError: If an argument is out of range; when called, if the guide has points or
            auxiliary sites, or if weights are none (a ``poutine.scale``, global latents of more
            data than the batch holds).

    References:
        | The Thermodynamic Variational Objective (Masrani et al., 2019)
        | https://arxiv.org/abs/1907.00031

    Example:
        >>> import torch
        >>> from pyro_vae import SVI
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> SVI(model, guide, torch.optim.Adam, TVO(k=10)).step(torch.ones(3, 4)).shape
        torch.Size([])
        >>> TVO(partitions=3, first=0.25).points
        tensor([0.0000, 0.2500, 0.5000, 1.0000], dtype=torch.float64)
    """

    pathwise = False

    def __init__(
        self, k: int = 10, partitions: int = 5, first: float | Tensor | Schedule = 0.1
    ) -> None:
        super().__init__()
        check_counts(k=k, partitions=partitions)
        if k < 2:
            raise ValueError(f"expected k of at least 2, of which a covariance is taken, got {k}")
        self.first = as_schedule(first, "first")
        if wrong := [end for end in ends(self.first) if not 0 < end < 1]:
            raise ValueError(
                f"expected first to lie between 0 and 1, ends excluded, got {wrong[0]}"
            )
        self.k = self.particles = k
        self.partitions = partitions

    @property
    def points(self) -> Tensor:
        r"""The :math:`\beta_0, \ldots, \beta_P`, with shape :math:`(P + 1)`."""
        first = self.first()
        steps = range(self.partitions - 1)
        between = [first ** (1 - j / (self.partitions - 1)) for j in steps]
        return torch.stack([torch.zeros_like(first), *between, torch.ones_like(first)])

    def forward(self, draw: Draw) -> Bound:
        r"""Bounds the evidence of each datum of a draw."""
        check_scored(draw)
        log_w = log_weights(draw).detach()
        value, on_model, on_guide = self._coefficients(log_w)
        log_joint = columns(draw, draw.log_joint)
        log_guide = columns(draw, draw.combine(draw.log_guide.items()))
        surrogate = (on_model * log_joint + on_guide * log_guide).sum(0)
        mean = shared_out(draw, surrogate).mean()
        return Bound(shared_out(draw, value), model=mean, guide=mean)

    def _coefficients(self, log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""The sum, and what each particle's two log-densities count in its gradient."""
        value, on_model, on_guide = log_w.new_zeros(()), log_w.new_zeros(()), log_w.new_zeros(())
        points = self.points.to(log_w.dtype).unbind()
        for j, (beta, end) in enumerate(pairwise(points)):
            w = (beta * log_w).softmax(0)
            mean = (w * log_w).sum(0)
            # as in a sample's covariance, which is unbiased where weights are equal
            deviation = self.k / (self.k - 1) * w * (log_w - mean)
            value = value + (end - beta) * mean
            on_model = on_model + (end - beta) * (w + beta * deviation)
            on_guide = on_guide + (end - beta) * (1 - beta) * deviation
            if j > 0:  # under the guide itself its score has mean zero: only noise
                on_guide = on_guide - (end - beta) * w
        return value, on_model, on_guide
