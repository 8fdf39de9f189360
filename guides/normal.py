r"""Amortised normal posteriors."""

__all__ = ["AmortizedMultivariateNormal", "AmortizedNormal"]

from collections.abc import Mapping, Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.nn import (
    Network,
    check_event_shape,
    check_sites,
    check_width,
    flatten_event,
    make_network,
    plate_size,
    positive,
)


class _Amortized(PyroModule):
    r"""A posterior over each site whose locations and scales one network predicts.

    A subclass says how many numbers the scale of a site takes, and how they become a posterior.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        sites: Mapping[str, int] | None = None,
        encoder: Network | None = None,
    ) -> None:
        super().__init__()

        self.event_shape = check_event_shape(event_shape)
        self.sites = check_sites({"z": 16} if sites is None else sites)
        self.widths = [*self.sites.values(), *map(self.scales, self.sites.values())]
        self.encoder = make_network(
            encoder,
            inputs=self.event_shape.numel(),
            outputs=sum(self.widths),
            event_shape=self.event_shape,
        )

    def scales(self, latents: int) -> int:
        raise NotImplementedError

    def posterior(self, loc: Tensor, raw: Tensor) -> TorchDistribution:
        raise NotImplementedError

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        r"""Draws each site given ``x``, with shape :math:`(N, *)`.

        Raises:
            ValueError: If the shape of ``x`` does not end in :math:`N` and ``event_shape``, or
                if the encoder's output is not as wide as the sites need.
        """
        size = plate_size(x, self.event_shape)
        outputs = self.encoder(flatten_event(x, self.event_shape))
        check_width(
            outputs,
            sum(self.widths),
            f"the encoder to return locations and scales of the sites {self.sites}",
        )
        parts = outputs.split(self.widths, dim=-1)
        locs, raws = parts[: len(self.sites)], parts[len(self.sites) :]

        with pyro.plate("data", size, dim=-1):
            return {
                name: pyro.sample(name, self.posterior(loc, raw))
                for name, loc, raw in zip(self.sites, locs, raws, strict=True)
            }


class AmortizedNormal(_Amortized):
    r"""A diagonal normal posterior over each site, amortised by one network.

    .. math:: q_\phi(z_n \mid x_n) = \mathcal{N}(\mu_\phi(x_n), \text{diag} \, \sigma^2_\phi(x_n))

    The network returns :math:`(\mu, s)`, with :math:`\sigma = \log(1 + e^s) + 10^{-6}`, which
    neither overflows nor vanishes.

    Sites: those of ``sites``, with event shape :math:`(D)`, in plate ``data``, of size
    :math:`N`, at dim -1.

    Arguments:
        event_shape: The shape of one datum :math:`x_n`, with :math:`F` features in all.
        sites: The number of features :math:`D` of each latent site, by default ``{"z": 16}``.
        encoder: A network from :math:`x_n` to :math:`(\mu, s)`, first those :math:`\mu` of all
            sites, then those :math:`s`, with shape :math:`(*, F) \to (*, 2 \sum D)`; or a function
            that makes it (:func:`pyro_vae.nn.make_network`), by default ``mlp``.

    Raises:
        TypeError: If ``encoder`` is no network, and makes none.
        ValueError: If a size is not positive, or if there are no sites.

    Example:
        >>> guide = AmortizedNormal(event_shape=(1, 8, 8), sites={"z": 2})
        >>> guide(torch.zeros(3, 1, 8, 8))["z"].shape
        torch.Size([3, 2])
    """

    def scales(self, latents: int) -> int:
        r"""Returns how many numbers the scale of a site takes, :math:`D`."""
        return latents

    def posterior(self, loc: Tensor, raw: Tensor) -> TorchDistribution:
        r"""Returns the posterior with location ``loc`` and scale by ``raw``, :math:`(*, D)`."""
        return dist.Normal(loc, positive(raw)).to_event(1)


class AmortizedMultivariateNormal(_Amortized):
    r"""A normal posterior with a full covariance over each site, amortised by one network.

    .. math:: q_\phi(z_n \mid x_n) = \mathcal{N}(\mu_\phi(x_n), L_\phi(x_n) L_\phi(x_n)^\top)

    The network returns :math:`(\mu, s)`, where :math:`s` holds the diagonal of :math:`L`, through
    :math:`\log(1 + e^s) + 10^{-6}`, and then, row by row, what is below it, as it is.

    Sites: those of ``sites``, with event shape :math:`(D)`, in plate ``data``, of size
    :math:`N`, at dim -1. Sites are independent of one another.

    Arguments:
        event_shape: The shape of one datum :math:`x_n`, with :math:`F` features in all.
        sites: The number of features :math:`D` of each latent site, by default ``{"z": 16}``.
        encoder: A network from :math:`x_n` to :math:`(\mu, s)`, first those :math:`\mu` of all
            sites, then those :math:`s`, with shape
            :math:`(*, F) \to (*, \sum D + \sum D (D + 1) / 2)`; or a function that makes it
            (:func:`pyro_vae.nn.make_network`), by default ``mlp``.

    Raises:
        TypeError: If ``encoder`` is no network, and makes none.
        ValueError: If a size is not positive, or if there are no sites.

    Example:
        >>> guide = AmortizedMultivariateNormal(event_shape=(1, 8, 8), sites={"z": 2})
        >>> guide(torch.zeros(3, 1, 8, 8))["z"].shape
        torch.Size([3, 2])
    """

    def scales(self, latents: int) -> int:
        r"""Returns how many numbers the scale of a site takes, :math:`D (D + 1) / 2`."""
        return latents * (latents + 1) // 2

    def posterior(self, loc: Tensor, raw: Tensor) -> TorchDistribution:
        r"""Returns the posterior with location ``loc``, :math:`(*, D)`, and factor by ``raw``."""
        latents = loc.shape[-1]
        rows, columns = torch.tril_indices(latents, latents, offset=-1, device=raw.device)
        factor = positive(raw[..., :latents]).diag_embed()
        factor[..., rows, columns] = raw[..., latents:]

        return dist.MultivariateNormal(loc, scale_tril=factor)
