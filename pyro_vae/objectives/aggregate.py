r"""Objectives that look at the aggregate posterior, the guide's mixture over all data."""

__all__ = ["BetaTC", "InfoVAE"]

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pyro_vae.counts import check_counts
from pyro_vae.distributions import factors, is_point
from pyro_vae.draws import Draw
from pyro_vae.layout import Site, latent_sites, plate_dims
from pyro_vae.objectives.bound import Bound
from pyro_vae.objectives.discrepancy import Kernel, check_kernel, squared_mmd
from pyro_vae.objectives.divergence import KL, check_kl, kl_terms
from pyro_vae.objectives.pathwise import check_pathwise
from pyro_vae.objectives.weights import is_scaled
from pyro_vae.schedules import Schedule, as_schedule, ends

Sampling = Literal["weighted", "stratified"]


class BetaTC(nn.Module):
    r"""The evidence lower bound, with each of three parts of the divergence weighted.

    With the aggregate posterior :math:`q(z) = \frac{1}{N} \sum_n q(z \mid x_n)`

    .. math::
        \mathcal{L}(x_n) = \log p(x_n \mid z)
            - \alpha \log \frac{q(z \mid x_n)}{q(z)}
            - \beta \log \frac{q(z)}{\prod_d q(z_d)}
            - \gamma \log \frac{\prod_d q(z_d)}{p(z)}, \qquad z \sim q(z \mid x_n):

    in the mean these are the mutual information of datum and latents, the total correlation of
    the latents' dimensions, and the divergence of each from its prior. With
    :math:`\alpha = \beta = \gamma = 1` it is the evidence lower bound, sampled.

    From a batch of :math:`B` data the density :math:`q(z)` of the latents of datum :math:`n` is
    estimated as :math:`\sum_m w_{nm} \, q(z \mid x_m)`, and each :math:`q(z_d)` alike:

    - ``"weighted"``: all weights are :math:`1 / (N B)`.
    - ``"stratified"``: the datum's own is :math:`1 / N`, the others are
      :math:`(N - 1) / (N (B - 1))`, so that the estimate is unbiased for the density, and exact
      where the batch is the whole data. (The paper gives one of the others another weight, which
      one being chance; this is the mean over that choice.)

    Latents outside the data plate count with their divergence. The data's size is that of
    :class:`pyro_vae.SVI`. Gradients are pathwise.

    Bias:
        Biased unless :math:`\alpha = \beta = \gamma`, since the logarithm of an estimated density
        is: ``"stratified"`` less, the larger the batch; ``"weighted"`` also takes the density too
        small where the batch is much of the data. It is no bound where a weight is below one.

    Arguments:
        alpha: The weight :math:`\alpha \geq 0` of the mutual information, or its schedule.
        beta: The weight :math:`\beta \geq 0` of the total correlation, or its schedule.
        gamma: The weight :math:`\gamma \geq 0` of the dimensions' divergence, or its schedule.
        sampling: The estimator of densities.

    Raises:
        ValueError: If an argument is out of range; when called, if there is no data plate, or a
            local site that is no product of independent dimensions given the datum alone, in
            guide and model, or is masked or scaled: names the site.

    References:
        | Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018)
        | https://arxiv.org/abs/1802.04942

    Example:
        >>> from pyro_vae import SVI
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> svi = SVI(model, guide, torch.optim.Adam, BetaTC(beta=6), data_size=100)
        >>> svi.step(torch.ones(3, 4)).shape
        torch.Size([])
    """

    pathwise, particles = True, 1

    def __init__(
        self,
        alpha: float | Tensor | Schedule = 1.0,
        beta: float | Tensor | Schedule = 6.0,
        gamma: float | Tensor | Schedule = 1.0,
        sampling: Sampling = "stratified",
    ) -> None:
        super().__init__()
        if sampling not in get_args(Sampling):
            raise ValueError(
                f"expected sampling to be one of {get_args(Sampling)}, got {sampling!r}"
            )
        self.alpha = as_schedule(alpha, "alpha", least=0)
        self.beta = as_schedule(beta, "beta", least=0)
        self.gamma = as_schedule(gamma, "gamma", least=0)
        self.sampling: Sampling = sampling

    def forward(self, draw: Draw) -> Bound:
        r"""The objective of each datum of a draw."""
        check_pathwise(draw)
        information, correlation, divergence = self.parts(draw)
        shared = [(n, t) for n, t in kl_terms(draw).items() if draw.is_shared(n)]
        weighted = (
            self.alpha() * information + self.beta() * correlation + self.gamma() * divergence
        )
        return Bound.of((draw.log_likelihood - draw.combine(shared))[0] - weighted)

    def parts(self, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        r"""Estimates of the three parts for each datum, with shape :math:`(N)`.

        Returns:
            The mutual information, the total correlation, and the dimensions' divergence.
        """
        sites = _independent(draw)
        # (D, N, N): a latent of the first datum under the second's posterior
        pairs = torch.cat([_pairs(site, str(draw.layout.plate)) for site in sites.values()])
        own = pairs.diagonal(dim1=1, dim2=2).sum(0)
        log_w = self._log_weights(pairs[0], draw.data_size)
        joint = (log_w + pairs.sum(0)).logsumexp(-1)
        product = (log_w + pairs).logsumexp(-1).sum(0)
        prior = sum((draw.log_prior[name][0] for name in sites), torch.zeros_like(own))
        return own - joint, joint - product, product - prior

    def _log_weights(self, like: Tensor, data_size: int) -> Tensor:
        r"""The logarithms of the weights, with shape :math:`(N, N)`."""
        own = torch.ones_like(like).tril().triu()
        size = torch.full_like(like, data_size)
        if self.sampling == "weighted":
            return -(size * torch.ones_like(like).sum(1)).log()
        others = (1 - own).sum(1)
        return torch.where(own > 0, 1 / size, (size - 1) / (size * others)).log()


class InfoVAE(nn.Module):
    r"""The evidence lower bound, where the aggregate posterior is drawn to the prior instead.

    .. math::
        \mathcal{L}(x_n) = \mathbb{E}_q[\log p(x_n \mid z)]
            - (1 - \alpha) \, \text{KL}(q(z \mid x_n) \,\|\, p(z))
            - (\alpha + \lambda - 1) \, \text{MMD}^2(q(z), p(z))

    The maximum mean discrepancy between the local latents of a batch and as many draws of their
    prior is estimated without bias, with the kernel of :math:`u = \|z - z'\|^2 / (2 D h^2)`

    - ``"rbf"``: :math:`k = e^{-u}`
    - ``"imq"``: :math:`k = 1 / (1 + u)`, the inverse multiquadric one

    for latents of :math:`D` dimensions in all. With :math:`\alpha = 1` it is the MMD-VAE.
    Gradients are pathwise.

    Bias:
        Unbiased in value and gradient; it is no bound on the evidence.

    Arguments:
        alpha: The :math:`\alpha \leq 1`, by which latents may tell more about the data, or its
            schedule.
        scale: The weight :math:`\lambda`, or its schedule; :math:`\alpha + \lambda \geq 1`.
        kernel: The kernel.
        bandwidth: Its bandwidth :math:`h > 0`, in units of one latent dimension, or its schedule.
        kl: As for :class:`pyro_vae.objectives.ELBO`.
        particles: The number of particles; the discrepancy is their mean.

    Raises:
        ValueError: If an argument is out of range; when called, if there is no data plate, no
            local latent, one whose prior depends on other latents, or has trained parameters and
            draws that are not reparametrised, or a batch of one datum.

    References:
        | InfoVAE: Balancing Learning and Inference in Variational Autoencoders (Zhao et al., 2019)
        | https://arxiv.org/abs/1706.02262

    Example:
        >>> from pyro_vae import SVI
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> svi = SVI(model, guide, torch.optim.Adam, InfoVAE(alpha=1.0, scale=10.0))
        >>> svi.step(torch.ones(3, 4)).shape
        torch.Size([])
    """

    pathwise = True

    def __init__(
        self,
        alpha: float | Tensor | Schedule = 0.5,
        scale: float | Tensor | Schedule = 3.0,
        kernel: Kernel = "imq",
        bandwidth: float | Tensor | Schedule = 1.0,
        kl: KL = "auto",
        particles: int = 1,
    ) -> None:
        super().__init__()
        check_kl(kl)
        check_kernel(kernel)
        check_counts(particles=particles)

        self.alpha = as_schedule(alpha, "alpha", most=1)
        self.scale = as_schedule(scale, "scale", least=0)
        if (total := sum(min(ends(s), default=1.0) for s in (self.alpha, self.scale))) < 1:
            raise ValueError(
                f"expected alpha + scale of at least 1, got {total}: less would drive the "
                "aggregate posterior away from the prior"
            )
        self.kernel: Kernel = kernel
        self.bandwidth = as_schedule(bandwidth, "bandwidth", least=0)
        if not all(ends(self.bandwidth)):
            raise ValueError("expected a positive bandwidth, got 0")
        self.kl: KL = kl
        self.particles = particles

    def forward(self, draw: Draw) -> Bound:
        r"""The objective of each datum of a draw."""
        check_pathwise(draw)
        alpha, divergence = self.alpha(), draw.combine(kl_terms(draw, self.kl).items())
        value = (draw.log_likelihood - (1 - alpha) * divergence).mean(0)
        return Bound.of(value - (alpha + self.scale() - 1) * self.discrepancy(draw))

    def discrepancy(self, draw: Draw) -> Tensor:
        r"""The estimate of :math:`\text{MMD}^2` between latents and prior, with shape ``()``."""
        sites = _local(draw).values()
        if draw.batch_size < 2:
            raise ValueError(
                "expected batches of at least 2 data, whose latents are compared with draws of "
                "the prior, got 1: choose a batch size that leaves no single datum"
            )
        drawn = torch.cat([_rows(draw, site, site["value"]) for site, _ in sites], dim=-1)
        made = torch.cat([_rows(draw, site, _made(site, prior)) for site, prior in sites], dim=-1)
        return squared_mmd(drawn, made, self.kernel, self.bandwidth()).mean()


def _local(draw: Draw) -> dict[str, tuple[Site, Site]]:
    r"""The guide's sites inside the data plate, with the model's: each has a prior of its own."""
    plate = draw.layout.plate
    if plate is None:
        raise ValueError(
            "expected a data plate, since the aggregate posterior is a mean over data, got none: "
            'draw what belongs to a datum inside `with pyro.plate("data", x.shape[0]):`, or name '
            "the plate with data_plate="
        )
    q, p = latent_sites(draw.guide_trace), latent_sites(draw.model_trace)
    found = {n: (q[n], p[n]) for n in q if n in p and plate in plate_dims(q[n])}
    if not found:
        found_there = f"{sorted(q)} outside" if q else "none"
        raise ValueError(
            f"expected latents inside the data plate {plate!r}, of which there is an aggregate "
            f"posterior, got {found_there}: use ELBO()"
        )
    if wrong := sorted(set(found) & draw.layout.conditional):
        raise ValueError(
            f"expected priors that depend on no other latent, got those of {wrong}: their draws "
            "are no draws of one prior; use ELBO()"
        )
    return found


def _independent(draw: Draw) -> dict[str, Site]:
    r"""The guide's local sites, if they are products over dimensions given the datum alone."""
    found = _local(draw)
    for name, pair in found.items():
        product = not any(factors(site["fn"]) is None or is_point(site["fn"]) for site in pair)
        if not product or name in draw.layout.chained:
            raise ValueError(
                f"expected latents whose dimensions are independent in the model, and in the "
                f"guide given the datum alone, got {type(pair[0]['fn']).__name__} at {name!r}: use "
                "distributions such as Normal(loc, scale).to_event(1) with parameters of x, or "
                "ELBO()"
            )
        if any(site["mask"] is not None or is_scaled(draw, site) for site in pair):
            raise ValueError(
                f"expected neither mask nor poutine.scale around latents, got one at {name!r}: "
                "weigh the terms by the objective, or use ELBO()"
            )
    return {name: site for name, (site, _) in found.items()}


def _pairs(site: Site, plate: str) -> Tensor:
    r"""The log-density of each datum's latents under each datum's guide, by dimension.

    Returns:
        A tensor with shape :math:`(D, N, N)`, the latents' datum first.
    """
    q, data = factors(site["fn"]), plate_dims(site)[plate] - site["fn"].event_dim
    assert q is not None
    value: Tensor = site["value"]
    density = q.log_prob(value.movedim(data, 0).unsqueeze(data)).movedim(data, 1)
    return density.reshape(*density.shape[:2], -1).movedim(-1, 0)


def _rows(draw: Draw, site: Site, value: Tensor) -> Tensor:
    r"""Values of a site as vectors, with shape :math:`(K, N, D)`."""
    plate = draw.layout.plate
    assert plate is not None
    value = value if draw.particles > 1 else value.unsqueeze(0)
    value = value.movedim(plate_dims(site)[plate] - site["fn"].event_dim, 1)
    return value.reshape(*value.shape[:2], -1)


def _made(site: Site, prior: Site) -> Tensor:
    r"""Draws of a site's prior, one for each of the guide's; a replayed prior may have fewer."""
    fn = prior["fn"].expand(site["fn"].batch_shape)
    if fn.has_rsample:
        return fn.rsample()
    # of a constant prior no gradient is lost
    if prior["fn"].log_prob(site["value"].detach()).requires_grad:
        raise ValueError(
            f"expected a prior that is constant, or has reparametrised draws, got "
            f"{type(prior['fn']).__name__} with trained parameters at {prior['name']!r}, which "
            "would not learn from the discrepancy: use ELBO() or BetaTC()"
        )
    return fn.sample()
