r"""The Rényi bound, which leads from one bound to another."""

__all__ = ["Renyi"]

import torch
from torch import Tensor, nn

from pyro_vae.counts import check_counts
from pyro_vae.draws import Draw
from pyro_vae.objectives.bound import Bound
from pyro_vae.objectives.importance import log_mean
from pyro_vae.objectives.pathwise import check_pathwise
from pyro_vae.objectives.weights import log_weights, shared_out
from pyro_vae.schedules import Schedule, as_schedule


class Renyi(nn.Module):
    r"""The bound by Rényi's :math:`\alpha`-divergence.

    .. math::
        \mathcal{L}_{\alpha, K}(x_n) = \frac{1}{1 - \alpha} \log \frac{1}{K} \sum_{k=1}^K
            w_{nk}^{1 - \alpha}, \qquad
            w_{nk} = \frac{p(x_n, z_{nk})}{q(z_{nk} \mid x_n)}, \quad z_{nk} \sim q(z \mid x_n)

    With :math:`\alpha \to 1` it is the evidence lower bound, with :math:`\alpha = 0` that of
    :class:`IWAE`; the larger :math:`\alpha`, the lower. For :math:`\alpha \geq 0` its mean lies
    below the evidence; with :math:`\alpha < 0` and many particles it may lie above.

    Gradients are pathwise: every site of the guide must be reparametrised.

    Bias:
        Unbiased for its value with :math:`K` particles, of which the gradient is its own; biased,
        but where :math:`\alpha = 1`, for that of infinitely many, which the divergence defines.

    Arguments:
        alpha: The order :math:`\alpha`, or its schedule (:mod:`pyro_vae.schedules`).
        k: The number of particles :math:`K`.

    Raises:
        ValueError: If an argument is out of range; when called, if a guide site is not
            reparametrised, or if weights are none (a ``poutine.scale``, global latents of more
            data than the batch holds).

    References:
        | Rényi Divergence Variational Inference (Li & Turner, 2016)
        | https://arxiv.org/abs/1602.02311

    Example:
        >>> from pyro_vae import SVI
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> SVI(model, guide, torch.optim.Adam, Renyi(alpha=0.5, k=8)).step(torch.ones(3, 4)).shape
        torch.Size([])
    """

    pathwise = True

    def __init__(self, alpha: float | Tensor | Schedule = 0.5, k: int = 5) -> None:
        super().__init__()
        check_counts(k=k)
        self.alpha = as_schedule(alpha, "alpha")
        self.k = self.particles = k

    def forward(self, draw: Draw) -> Bound:
        r"""Bounds the evidence of each datum of a draw."""
        check_pathwise(draw)
        return Bound.of(shared_out(draw, _power_mean(log_weights(draw), 1 - self.alpha())))


def _power_mean(log_w: Tensor, power: Tensor) -> Tensor:
    r""":math:`\frac{1}{s} \log \frac{1}{K} \sum_k w_k^s`, the mean of logarithms at zero."""
    mean = log_w.mean(0)
    exponent = power * (log_w - mean)
    # around zero a logarithm near that of one, divided by next to nothing, would be rounding only
    near = exponent.abs().amax(0) < 1
    small = torch.where(near, exponent, torch.zeros_like(exponent)).expm1().mean(0).log1p()
    divisor = torch.where(power == 0, 1.0, power)
    return torch.where(near, mean + small / divisor, log_mean(power * log_w) / divisor)
