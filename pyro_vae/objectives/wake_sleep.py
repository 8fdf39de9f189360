r"""Wake-sleep: the guide learns from densities at values that count as given."""

__all__ = ["ReweightedWakeSleep", "WakeSleep"]

from torch import Tensor, nn

from pyro_vae.counts import check_counts
from pyro_vae.draws import Draw
from pyro_vae.dreams import dream
from pyro_vae.objectives.bound import Bound
from pyro_vae.objectives.importance import log_mean
from pyro_vae.objectives.pathwise import check_scored
from pyro_vae.objectives.weights import log_weights, shared_out
from pyro_vae.schedules import Schedule, as_schedule


class WakeSleep:
    r"""The model learns from what the guide draws, the guide from what the model dreams.

    .. math::
        \text{wake: } \nabla_\theta \frac{1}{K} \sum_{k=1}^K \log p_\theta(x_n, z_{nk}),
            \quad z_{nk} \sim q_\phi(z \mid x_n) \qquad
        \text{sleep: } \nabla_\phi \log q_\phi(z \mid x), \quad (z, x) \sim p_\theta(z, x)

    Values drawn count as given, so that latents may be discrete. The model climbs the evidence
    lower bound, which is the value. The guide does not: it lowers :math:`\text{KL}(p(z \mid x) \|
    q(z \mid x))` over the model's own data, and there is no one function that both climb.

    A dream replaces what the model observes among the batch's arguments; others stay. A model that
    reads what it observes in another place as well, as an autoregressive decoder does, would not
    dream data of its own.

    Bias:
        Unbiased for the model's gradient, that of the :class:`ELBO`. The guide's is biased for that
        bound: it is unbiased for :math:`-\text{KL}(p(z \mid x) \| q(z \mid x))` on the model's own
        data.

    Arguments:
        particles: The number of particles :math:`K`.

    Raises:
        ValueError: If an argument is out of range; when called, if a guide site is a point or
            auxiliary, or the model cannot dream (:func:`pyro_vae.dreams.dream`); if other sites
            depend on the unobserved part of a discrete ``obs_mask`` site; if model and guide
            share a parameter.

    References:
        | The Wake-Sleep Algorithm for Unsupervised Neural Networks (Hinton et al., 1995)
        | https://doi.org/10.1126/science.7761831

    Example:
        >>> import torch
        >>> from pyro_vae import SVI
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> svi = SVI(model, guide, torch.optim.Adam, WakeSleep())
        >>> svi.step(torch.ones(3, 4)).shape
        torch.Size([])
    """

    pathwise = False

    def __init__(self, particles: int = 1) -> None:
        check_counts(particles=particles)
        self.particles = particles

    def __call__(self, draw: Draw) -> Bound:
        r"""Bounds the evidence of each datum of a draw."""
        check_scored(draw)
        return Bound(draw.log_weights.mean(0), model=draw.log_joint.mean(), guide=_dreamed(draw))


class ReweightedWakeSleep(nn.Module):
    r"""Wake-sleep with particles that are weighed by importance.

    .. math::
        \theta: \; \nabla \sum_{k=1}^K \tilde w_{nk} \log p_\theta(x_n, z_{nk}) \qquad
        \phi: \; a \nabla \sum_{k=1}^K \tilde w_{nk} \log q_\phi(z_{nk} \mid x_n)
            + b \nabla \log q_\phi(z' \mid x'), \quad (z', x') \sim p_\theta(z, x)

    with :math:`w_{nk} = p(x_n, z_{nk}) / q(z_{nk} \mid x_n)` and :math:`\tilde w = w / \sum w`, for
    each datum. Values drawn count as given, so that latents may be discrete.

    The value is the importance-weighted bound of :class:`IWAE`.

    Bias:
        Unbiased for the model's gradient, that of :class:`IWAE`. The guide's wake gradient is
        biased for that of :math:`-\text{KL}(p(z \mid x_n) \| q(z \mid x_n))`, by
        :math:`O(1 / K)`, and is nothing but noise where :math:`K = 1`; the sleep gradient is
        unbiased for the same on the model's own data.

    Arguments:
        k: The number of particles :math:`K`.
        wake: The weight :math:`a \geq 0`, or its schedule (:mod:`pyro_vae.schedules`).
        sleep: The weight :math:`b \geq 0`, or its schedule. If it is the number 0, nothing is
            dreamt.

    Raises:
        ValueError: If an argument is out of range; when called, if a guide site is a point or
            auxiliary; if weights are none (a ``poutine.scale``, global latents of more data than
            the batch holds); if other sites depend on the unobserved part of a discrete
            ``obs_mask`` site; if the model shall dream and cannot (:func:`pyro_vae.dreams.dream`);
            if model and guide share a parameter.

    References:
        | Reweighted Wake-Sleep (Bornschein & Bengio, 2015)
        | https://arxiv.org/abs/1406.2751
        | Revisiting Reweighted Wake-Sleep (Le et al., 2019)
        | https://arxiv.org/abs/1805.10469

    Example:
        >>> import torch
        >>> from pyro_vae import SVI
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> svi = SVI(model, guide, torch.optim.Adam, ReweightedWakeSleep(k=10))
        >>> svi.step(torch.ones(3, 4)).shape
        torch.Size([])
    """

    pathwise = False

    def __init__(
        self,
        k: int = 5,
        wake: float | Tensor | Schedule = 1.0,
        sleep: float | Tensor | Schedule = 0.0,
    ) -> None:
        super().__init__()
        check_counts(k=k)

        self.k = self.particles = k
        self.wake = as_schedule(wake, "wake", least=0)
        self.sleep = as_schedule(sleep, "sleep", least=0)
        self.dreams = not (isinstance(sleep, int | float) and sleep == 0)

    def forward(self, draw: Draw) -> Bound:
        r"""Bounds the evidence of each datum of a draw."""
        check_scored(draw)
        log_w = log_weights(draw)
        w = log_w.softmax(0).detach()
        log_guide = draw.combine(draw.log_guide.items())
        guide = self.wake() * (w * log_guide).sum(0).mean()
        if self.dreams:
            guide = guide + self.sleep() * _dreamed(draw)
        model = (w * draw.log_joint).sum(0).mean()
        return Bound(shared_out(draw, log_mean(log_w)), model=model, guide=guide)


def _dreamed(draw: Draw) -> Tensor:
    r"""How likely the guide finds the latents of dreams, as a mean over them."""
    return draw.combine(dream(draw).items()).mean()
