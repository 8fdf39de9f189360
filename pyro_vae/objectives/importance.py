r"""Importance-weighted bounds."""

__all__ = ["IWAE"]

import math
from typing import Literal, get_args

from torch import Tensor

from pyro_vae.counts import check_counts
from pyro_vae.draws import Draw
from pyro_vae.objectives.bound import Bound
from pyro_vae.objectives.pathwise import check_pathwise, check_stopped
from pyro_vae.objectives.weights import log_weights, shared_out

Gradient = Literal["standard", "stl", "dreg"]


class IWAE:
    r"""The importance-weighted bound.

    .. math::
        \mathcal{L}_K(x_n) = \log \frac{1}{K} \sum_{k=1}^K w_{nk}, \qquad
        w_{nk} = \frac{p(x_n, z_{nk})}{q(z_{nk} \mid x_n)}, \quad z_{nk} \sim q(z \mid x_n)

    It lies below the evidence, the less the more particles. The gradient of the model's
    parameters is always the bound's own; that of the guide's may be had in three ways:

    - ``"standard"``: the bound's own. The more particles, the more it is noise.
    - ``"stl"``: without the derivative of :math:`\log q` by its parameters; little noise, but
      biased where :math:`K > 1`.
    - ``"dreg"``: :math:`\sum_k \tilde w_k^2 \nabla \log w_k` on that path, with
      :math:`\tilde w = w / \sum w`; unbiased, and better the more particles.

    Gradients are pathwise: every site of the guide must be reparametrised.

    Bias:
        Unbiased for the bound of :math:`K` particles; ``"stl"`` is biased for the guide's gradient
        where :math:`K > 1`. For the evidence, too low.

    Arguments:
        k: The number of particles :math:`K`.
        gradient: The estimator of the guide's gradient. With ``"stl"`` and ``"dreg"`` a guide
            whose sites depend on one another runs twice.

    Raises:
        ValueError: If an argument is out of range; when called, if a guide site is not
            reparametrised, if weights are none (a ``poutine.scale``, global latents of more data
            than the batch holds), or if parameters cannot be stopped.

    References:
        | Importance Weighted Autoencoders (Burda et al., 2016)
        | https://arxiv.org/abs/1509.00519
        | Sticking the Landing (Roeder et al., 2017)
        | https://arxiv.org/abs/1703.09194
        | Doubly Reparameterized Gradient Estimators (Tucker et al., 2019)
        | https://arxiv.org/abs/1810.04152

    Example:
        >>> import torch
        >>> from pyro_vae import SVI
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> svi = SVI(model, guide, torch.optim.Adam, IWAE(k=50, gradient="dreg"))
        >>> svi.step(torch.ones(3, 4)).shape
        torch.Size([])
    """

    pathwise = True

    def __init__(self, k: int = 5, gradient: Gradient = "standard") -> None:
        if gradient not in get_args(Gradient):
            raise ValueError(
                f"expected gradient to be one of {get_args(Gradient)}, got {gradient!r}"
            )
        check_counts(k=k)

        self.k, self.gradient = k, gradient
        self.particles = k

    def __call__(self, draw: Draw) -> Bound:
        r"""Bounds the evidence of each datum of a draw."""
        check_pathwise(draw)
        stopped = self.gradient != "standard"
        if stopped:
            check_stopped(draw, self.gradient)
        log_w = log_weights(draw, stopped)
        value = shared_out(draw, log_mean(log_w))
        if self.gradient != "dreg":
            return Bound(value, model=value.mean(), guide=value.mean())
        w = log_w.softmax(0).detach()
        return Bound(
            value,
            model=shared_out(draw, (w * log_w).sum(0)).mean(),
            guide=shared_out(draw, (w.square() * log_w).sum(0)).mean(),
        )


def log_mean(log_w: Tensor) -> Tensor:
    r""":math:`\log \frac{1}{K} \sum_k w_k` of log-weights with shape :math:`(K, *)`."""
    return log_w.logsumexp(0) - math.log(log_w.shape[0])
