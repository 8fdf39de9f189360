r"""The variational autoencoder with a Gaussian mixture as its prior."""

__all__ = ["MixtureVAE"]

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from numpy.typing import ArrayLike
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.counts import check_counts
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.nn import Network, check_event_shape, check_sites, make_decoder, plate_size


class MixtureVAE(PyroModule):
    r"""A latent mixture of Gaussians, learned beside the network that decodes it.

    .. math::
        c_n & \sim \text{Categorical}(\pi) \\
        z_n \mid c_n & \sim \mathcal{N}(\mu_{c_n}, \text{diag} \, \sigma^2_{c_n}) \\
        x_n \mid z_n & \sim p(x_n \mid f_\theta(z_n))

    The component is summed out, so that any guide of ``z`` will do, and the prior of ``z`` in the
    bound is the density of the mixture: the bound is at least VaDE's, whatever the
    :math:`q(c \mid x)` there. Clusters are found best from where a plain :class:`VAE` ends:

    1. fit a :class:`VAE` and its guide, and draw latents of the data,
       ``z = encode(vae, guide, x, draws=1)["z"][0]``;
    2. fit ``mixture = GaussianMixture(n_components, covariance_type="diag").fit(z)``;
    3. make ``model = MixtureVAE(event_shape, latents, n_components, decoder=vae.decoder)``, have it
       ``model.begin_at(mixture.weights_, mixture.means_, mixture.covariances_)``, and fit it with
       the same guide.

    Without that, equal weights, standard normal means and unit scales are where it begins. Which
    cluster a datum is in says :func:`pyro_vae.responsibilities`; a cluster generates data under
    ``poutine.condition(model, data={"component": torch.full((n,), k)})``.

    Sites: ``component``, from 0 to :math:`K - 1`, enumerated; ``z``, with event shape :math:`(D)`;
    and ``x``, with event shape ``event_shape``, in plate ``data``, of size :math:`N`, at dim -1.

    Arguments:
        event_shape: The shape of one datum :math:`x_n`, with :math:`F` features in all.
        latents: The number of latent features :math:`D`.
        n_components: The number of components :math:`K`.
        likelihood: Maps the decoder's output to a distribution over :math:`x_n`.
        decoder: The network :math:`f_\theta`, with shape :math:`(*, D) \to (*, P F)`, or a
            function that makes it, as for :class:`VAE`.

    Raises:
        TypeError: If ``decoder`` is no network, and makes none, or a size is no integer.
        ValueError: If a size is not positive.

    References:
        | Variational Deep Embedding (Jiang et al., 2017)
        | https://arxiv.org/abs/1611.05148
        | Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders
          (Dilokthanakul et al., 2016)
        | https://arxiv.org/abs/1611.02648

    Example:
        >>> model = MixtureVAE(event_shape=(1, 8, 8), latents=2, n_components=3)
        >>> model(n=5).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latents: int = 16,
        n_components: int = 10,
        likelihood: Likelihood | None = None,
        decoder: Network | None = None,
    ) -> None:
        super().__init__()
        check_sites({"z": latents})
        check_counts(n_components=n_components)

        self.event_shape = check_event_shape(event_shape)
        self.likelihood = likelihood or Bernoulli()
        parameters = self.likelihood.parameters_per_feature
        self.decoder = make_decoder(decoder, latents, self.event_shape, parameters)
        self.logits = nn.Parameter(torch.zeros(n_components))
        self.locs = nn.Parameter(torch.randn(n_components, latents))
        self.log_scales = nn.Parameter(torch.zeros(n_components, latents))

    def forward(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        r"""Observes ``x``, with shape :math:`(N, *)`, or else draws ``n`` samples of it.

        Raises:
            ValueError: If the shape of ``x`` does not end in :math:`N` and ``event_shape``, or
                if the decoder's output is not of width :math:`P F`.
        """
        size = n if x is None else plate_size(x, self.event_shape)
        with pyro.plate("data", size, dim=-1):
            c = pyro.sample(
                "component", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"}
            )
            loc, scale = self.locs[c], self.log_scales[c].exp()
            z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            return pyro.sample("x", self.likelihood(self.decoder(z), self.event_shape), obs=x)

    @torch.no_grad()
    def begin_at(self, weights: ArrayLike, means: ArrayLike, variances: ArrayLike) -> None:
        r"""Makes the prior a mixture that is known, as from :class:`pyro_vae.em.GaussianMixture`.

        Arguments:
            weights: The :math:`\pi`, with shape :math:`(K)`.
            means: The :math:`\mu`, with shape :math:`(K, D)`.
            variances: The :math:`\sigma^2`, with shape :math:`(K, D)`.

        Raises:
            ValueError: If one has another shape, is not finite, or, but for means, not positive.
        """
        logits = _read("weights", weights, self.logits, positive=True).log()
        locs = _read("means", means, self.locs)
        log_scales = _read("variances", variances, self.log_scales, positive=True).log() / 2
        self.logits.copy_(logits)
        self.locs.copy_(locs)
        self.log_scales.copy_(log_scales)


def _read(name: str, given: ArrayLike, target: Tensor, positive: bool = False) -> Tensor:
    r"""A parameter that was given, as a tensor like the one that takes it."""
    tensor = torch.as_tensor(given).to(target)
    if tensor.shape != target.shape:
        raise ValueError(
            f"expected {name} with shape {tuple(target.shape)}, got {tuple(tensor.shape)}: fit a "
            f"mixture with n_components={len(target)} and covariance_type='diag'"
        )
    if not bool(tensor.isfinite().all()) or (positive and not bool((tensor > 0).all())):
        wanted = "positive and finite" if positive else "finite"
        raise ValueError(
            f"expected {name} that are {wanted}, got {tensor}: fit a mixture without empty "
            "components or values that are missing"
        )
    return tensor
