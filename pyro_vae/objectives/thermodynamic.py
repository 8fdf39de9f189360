r"""The thermodynamic bound, an integral from the guide to the posterior."""

__all__ = ["TVO"]

from torch import Tensor

from pyro_vae.counts import check_counts
from pyro_vae.draws import Draw
from pyro_vae.objectives.bound import Bound
from pyro_vae.objectives.pathwise import check_scored
from pyro_vae.objectives.weights import columns, log_weights, shared_out


class TVO:
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
        first: The point :math:`\beta_1`; those between it and one are evenly spaced in logarithms.

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
        [0.0, 0.25, 0.5, 1.0]
    """

    pathwise = False

    def __init__(self, k: int = 10, partitions: int = 5, first: float = 0.1) -> None:
        check_counts(k=k, partitions=partitions)
        if k < 2:
            raise ValueError(f"expected k of at least 2, of which a covariance is taken, got {k}")
        if not 0 < first < 1:
            raise ValueError(f"expected first to lie between 0 and 1, ends excluded, got {first}")
        self.k, self.partitions, self.first = k, partitions, first
        self.particles = k
        between = [first ** (1 - j / (partitions - 1)) for j in range(partitions - 1)]
        self.points = [0.0, *between, 1.0]

    def __call__(self, draw: Draw) -> Bound:
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
        for beta, end in zip(self.points[:-1], self.points[1:], strict=True):
            w = (beta * log_w).softmax(0)
            mean = (w * log_w).sum(0)
            # as in a sample's covariance, which is unbiased where weights are equal
            deviation = self.k / (self.k - 1) * w * (log_w - mean)
            value = value + (end - beta) * mean
            on_model = on_model + (end - beta) * (w + beta * deviation)
            on_guide = on_guide + (end - beta) * (1 - beta) * deviation
            if beta > 0:  # under the guide itself its score has mean zero: only noise
                on_guide = on_guide - (end - beta) * w
        return value, on_model, on_guide
