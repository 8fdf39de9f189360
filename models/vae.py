r"""The variational autoencoder."""

__all__ = ["VAE"]

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.nn import Network, check_event_shape, check_sites, make_decoder, plate_size


class VAE(PyroModule):
    r"""A latent Gaussian model whose likelihood is parametrised by a network.

    .. math::
        z_n & \sim \mathcal{N}(0, I_D) \\
        x_n \mid z_n & \sim p(x_n \mid f_\theta(z_n))

    Sites: ``z``, with event shape :math:`(D)`, and ``x``, with event shape ``event_shape``,
    in plate ``data``, of size :math:`N`, at dim -1.

    Arguments:
        event_shape: The shape of one datum :math:`x_n`, with :math:`F` features in all.
        latents: The number of latent features :math:`D`.
        likelihood: Maps the decoder's output to a distribution over :math:`x_n`.
        decoder: The network :math:`f_\theta`, with shape :math:`(*, D) \to (*, P F)`, where
            :math:`P` is the number of parameters per feature of the likelihood; or a function
            that makes it (:func:`pyro_vae.nn.make_network`), by default ``mlp``.

    Raises:
        TypeError: If ``decoder`` is no network, and makes none.
        ValueError: If a size is not positive.

    References:
        | Auto-Encoding Variational Bayes (Kingma & Welling, 2014)
        | https://arxiv.org/abs/1312.6114

    Example:
        >>> model = VAE(event_shape=(1, 8, 8), latents=2)
        >>> model(n=3).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latents: int = 16,
        likelihood: Likelihood | None = None,
        decoder: Network | None = None,
    ) -> None:
        super().__init__()
        check_sites({"z": latents})

        self.event_shape = check_event_shape(event_shape)
        self.likelihood = likelihood or Bernoulli()
        parameters = self.likelihood.parameters_per_feature
        self.decoder = make_decoder(decoder, latents, self.event_shape, parameters)
        self.register_buffer("zeros", torch.zeros(latents))
        self.register_buffer("ones", torch.ones(latents))

    def forward(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        r"""Observes ``x``, with shape :math:`(N, *)`, or else draws ``n`` samples of it.

        Raises:
            ValueError: If the shape of ``x`` does not end in :math:`N` and ``event_shape``, or
                if the decoder's output is not of width :math:`P F`.
        """
        size = n if x is None else plate_size(x, self.event_shape)
        with pyro.plate("data", size, dim=-1):
            z = pyro.sample("z", dist.Normal(self.zeros, self.ones).to_event(1))
            return pyro.sample("x", self.likelihood(self.decoder(z), self.event_shape), obs=x)
