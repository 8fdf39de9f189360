r"""Bounds whose gradient needs no reparametrised latents."""

__all__ = ["VIMCO", "ScoreFunction"]

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pyro_vae.counts import check_counts
from pyro_vae.draws import Draw
from pyro_vae.nn import Network, check_event_shape, flatten_event, make_network
from pyro_vae.objectives.average import Average
from pyro_vae.objectives.bound import Bound
from pyro_vae.objectives.divergence import KL, kl_terms
from pyro_vae.objectives.importance import log_mean
from pyro_vae.objectives.pathwise import check_imputed
from pyro_vae.objectives.scores import scores
from pyro_vae.objectives.weights import log_weights, shared_out
from pyro_vae.schedules import Schedule, as_schedule

Baseline = Literal["none", "average", "leave_one_out", "network"]


class ScoreFunction(nn.Module):
    r"""The evidence lower bound, for a guide with discrete latents.

    .. math::
        \nabla_\phi \mathcal{L}(x_n) = \mathbb{E}_q\left[ \nabla_\phi f(x_n, z)
            + (f(x_n, z) - b) \, \nabla_\phi \log q_\phi(z \mid x_n) \right], \quad
        f(x_n, z) = \log p(x_n \mid z) - \beta \log \frac{q(z \mid x_n)}{p(z)}

    The second term, the score function's, is there for the guide's sites that are not
    reparametrised; at the others the gradient is pathwise. Sites in the data plate learn from
    their own datum, those outside from all data.

    The baseline :math:`b` only lowers the variance:

    - ``"none"``: 0.
    - ``"average"``: the moving average of :math:`f`.
    - ``"leave_one_out"``: the mean of :math:`f` over the datum's other particles.
    - ``"network"``: the moving average, and a network of :math:`x_n` that learns by least squares
      what is left of :math:`f`.

    With ``normalize`` the signal :math:`f - b` is divided by its standard deviation where that is
    above 1, so that the steps of the guide's discrete part are shorter than its gradient.

    Bias:
        Unbiased in value and gradient, whatever the baseline; with ``normalize`` the score
        function's part of the gradient is shortened.

    Arguments:
        particles: The number of particles :math:`K`.
        baseline: The kind of baseline.
        kl: As in :class:`ELBO`: where a divergence may be taken in closed form.
        beta: The weight :math:`\beta \geq 0`, or its schedule (:mod:`pyro_vae.schedules`).
        decay: The decay of the moving averages.
        normalize: Whether the signal is divided by its standard deviation.
        network: With ``baseline="network"``, a network from the first tensor of the batch to a
            number a datum, with shape :math:`(N)` or :math:`(N, 1)`; or a function that makes it
            (:func:`pyro_vae.nn.make_network`), by default ``mlp``.
        event_shape: The shape of one datum :math:`x_n`, which the network is given flat; without
            it, the network must be a module, and is given :math:`x` as it is.

    Raises:
        ValueError: If an argument is out of range, or lacks another; when called, if the network
            does not return a number a datum; if a site has no closed form and ``kl="analytic"``;
            if other sites depend on the unobserved part of a discrete ``obs_mask`` site whose
            parameters are trained.

    References:
        | Simple Statistical Gradient-Following Algorithms (Williams, 1992)
        | https://doi.org/10.1007/BF00992696
        | Neural Variational Inference and Learning in Belief Networks (Mnih & Gregor, 2014)
        | https://arxiv.org/abs/1402.0030
        | Buy 4 REINFORCE Samples, Get a Baseline for Free! (Kool et al., 2019)
        | https://openreview.net/forum?id=r1lgTGL5DE

    Example:
        >>> from pyro_vae import SVI
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> objective = ScoreFunction(baseline="network", event_shape=(4,))
        >>> svi = SVI(model, guide, torch.optim.Adam, objective)
        >>> svi.step(torch.ones(3, 4)).shape
        torch.Size([])
    """

    pathwise = True

    def __init__(
        self,
        particles: int = 1,
        baseline: Baseline = "average",
        kl: KL = "auto",
        beta: float | Tensor | Schedule = 1.0,
        decay: float = 0.9,
        normalize: bool = False,
        network: Network | None = None,
        event_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        for name, value, kinds in (("baseline", baseline, Baseline), ("kl", kl, KL)):
            if value not in get_args(kinds):
                raise ValueError(f"expected {name} to be one of {get_args(kinds)}, got {value!r}")
        check_counts(particles=particles)
        if baseline == "leave_one_out" and particles == 1:
            raise ValueError(
                "expected particles of at least 2 for baseline='leave_one_out', the mean over the "
                "others, got 1"
            )
        if baseline != "network" and network is not None:
            raise ValueError(
                f"expected baseline='network' where a network is given, got baseline={baseline!r}"
            )

        self.particles, self.baseline = particles, baseline
        self.decay, self.normalize = decay, normalize
        self.kl: KL = kl
        self.beta = as_schedule(beta, "beta", least=0)
        self.event_shape = None if event_shape is None else check_event_shape(event_shape)
        self.signal = Average(decay) if baseline in ("average", "network") else None
        self.variance = Average(decay) if normalize else None
        self.network = self._made(network) if baseline == "network" else None

    def forward(self, draw: Draw) -> Bound:
        r"""Bounds the evidence of each datum of a draw."""
        check_imputed(draw)
        terms = self._terms(draw)
        rest = self._rest(draw, terms)
        signal = rest.detach()
        if self.variance is not None:
            signal = signal / self.variance().sqrt().clamp(min=1)
        local, shared = scores(draw)
        pooled = signal.mean(1, keepdim=True)
        surrogate = terms.mean() + (signal * local).mean() + (pooled * shared).mean()
        own = None if self.network is None else -rest.square().mean()
        return Bound(terms.mean(0), model=surrogate, guide=surrogate, own=own)

    def update(self, draw: Draw, bound: Bound) -> None:
        r"""Takes in the bound, and how far the signal was off."""
        if self.variance is not None:
            self.variance.update(self._rest(draw, self._terms(draw)).square().mean())
        if self.signal is not None:
            self.signal.update(bound.value.mean())

    def _terms(self, draw: Draw) -> Tensor:
        divergence = draw.combine(kl_terms(draw, self.kl).items())
        return draw.log_likelihood - self.beta() * divergence  # (K, N)

    def _rest(self, draw: Draw, terms: Tensor) -> Tensor:
        r"""The terms without their gradient and their baseline, which has one, if any."""
        rest = terms.detach()
        if self.baseline == "leave_one_out":
            return rest - _mean_of_others(rest)
        if self.signal is not None:
            rest = rest - self.signal()
        return rest if self.network is None else rest - self._predicted(draw)

    def _made(self, network: Network | None) -> nn.Module:
        if isinstance(network, nn.Module):
            return network
        if self.event_shape is None:
            raise ValueError(
                "expected event_shape, of which the baseline's network is made, or a network that "
                "is a module, got neither"
            )
        inputs = self.event_shape.numel()
        return make_network(network, inputs=inputs, outputs=1, event_shape=self.event_shape)

    def _predicted(self, draw: Draw) -> Tensor:
        assert self.network is not None
        given = (*draw.args, *draw.kwargs.values())
        x = next((part for part in given if isinstance(part, Tensor)), None)
        if x is None:
            raise ValueError(
                "expected a tensor among the batch's arguments for the baseline's network, got "
                f"{[type(part).__name__ for part in given]}: use another baseline"
            )
        found = self.network(x if self.event_shape is None else flatten_event(x, self.event_shape))
        size = draw.batch_size
        if found.shape not in ((size,), (size, 1)):
            raise ValueError(
                f"expected the baseline's network to return a number a datum: shape ({size},) or "
                f"({size}, 1), got shape {tuple(found.shape)}"
            )
        return found.reshape(size)


class VIMCO:
    r"""The importance-weighted bound, for a guide with discrete latents.

    .. math::
        \nabla_\phi \mathcal{L}_K(x_n) = \mathbb{E}_q\left[ \nabla_\phi \hat{\mathcal{L}}_K
            + \sum_{k=1}^K (\hat{\mathcal{L}}_K - \hat{\mathcal{L}}_{-k}) \,
            \nabla_\phi \log q_\phi(z_{nk} \mid x_n) \right], \quad
        \hat{\mathcal{L}}_K = \log \frac{1}{K} \sum_{k=1}^K w_{nk}

    In :math:`\hat{\mathcal{L}}_{-k}` the geometric mean of the other weights takes the place of
    :math:`w_{nk}`, so that each particle learns from what it added. Score terms are there for the
    guide's sites that are not reparametrised; at the others the gradient is pathwise.

    Bias:
        Unbiased in value and gradient for the bound of :math:`K` particles. For the evidence, too
        low.

    Arguments:
        k: The number of particles :math:`K`, at least 2.

    Raises:
        ValueError: If there are fewer particles; when called, if weights are none (a
            ``poutine.scale``, global latents of more data than the batch holds); if other sites
            depend on the unobserved part of a discrete ``obs_mask`` site whose parameters are
            trained.

    References:
        | Variational Inference for Monte Carlo Objectives (Mnih & Rezende, 2016)
        | https://arxiv.org/abs/1602.06725

    Example:
        >>> from pyro_vae import SVI
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> svi = SVI(model, guide, torch.optim.Adam, VIMCO(k=5))
        >>> svi.step(torch.ones(3, 4)).shape
        torch.Size([])
    """

    pathwise = True

    def __init__(self, k: int = 5) -> None:
        check_counts(k=k)
        if k == 1:
            raise ValueError(
                "expected k of at least 2, since each particle is compared with the others, got "
                "1: use ScoreFunction()"
            )
        self.k = self.particles = k

    def __call__(self, draw: Draw) -> Bound:
        r"""Bounds the evidence of each datum of a draw."""
        check_imputed(draw)
        log_w = log_weights(draw)
        bound = log_mean(log_w)
        signal = (bound - _without_each(log_w)).detach()
        local, shared = scores(draw)
        value = shared_out(draw, bound)
        # where latents are shared there is one signal for all data, which it is a sum over
        scored = (signal * local).sum(0).mean() + (signal * shared).sum(0).mean() / draw.batch_size
        surrogate = value.mean() + scored
        return Bound(value, model=surrogate, guide=surrogate)


def _mean_of_others(terms: Tensor) -> Tensor:
    r"""At each particle the mean over the other ones, with shape :math:`(K, *)`."""
    particles = terms.shape[0]
    return (terms.sum(0) - terms) / (particles - 1)


def _without_each(log_w: Tensor) -> Tensor:
    r"""The bound with the others' geometric mean in the place of each weight, :math:`(K, *)`."""
    itself = torch.eye(log_w.shape[0], dtype=torch.bool, device=log_w.device).unsqueeze(-1)
    replaced = torch.where(itself, _mean_of_others(log_w), log_w.unsqueeze(1))
    return log_mean(replaced)
