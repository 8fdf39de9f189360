r"""The finite mixture of a likelihood's components."""

__all__ = ["FiniteMixture"]

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.counts import check_counts
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.nn import check_event_shape, plate_size


class FiniteMixture(PyroModule):
    r"""A mixture of a number of components, each with the likelihood's parameters of its own.

    .. math::
        k_n & \sim \text{Categorical}(\pi) \\
        x_n \mid k_n & \sim p(x_n \mid \theta_{k_n})

    It is a VAE whose latent is discrete and whose decoder is a table. The component is summed
    out, so that the bound is the evidence: its guide is :class:`pyro_vae.guides.Empty`. EM fits
    such mixtures faster (:func:`pyro_vae.mixtures.program_of`, ``pyro-vae em``).

    Sites: ``component``, enumerated, and ``x``, with event shape ``event_shape``, in plate
    ``data``, of size :math:`N`, at dim -1.

    Arguments:
        event_shape: The shape of one datum :math:`x_n`, with :math:`F` features in all.
        n_components: The number of components :math:`K`.
        likelihood: Maps the parameters of a component, with shape :math:`(*, P F)`, to a
            distribution over :math:`x_n`.

    Raises:
        ValueError: If a size is not positive.

    References:
        | Finite Mixture Models (McLachlan & Peel, 2000)
        | https://doi.org/10.1002/0471721182

    Example:
        >>> model = FiniteMixture(event_shape=(1, 8, 8), n_components=3)
        >>> model(n=5).shape, model.means.shape
        (torch.Size([5, 1, 8, 8]), torch.Size([3, 1, 8, 8]))
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        n_components: int = 10,
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__()
        check_counts(n_components=n_components)

        self.event_shape = check_event_shape(event_shape)
        self.likelihood = likelihood or Bernoulli()
        width = self.likelihood.parameters_per_feature * self.event_shape.numel()
        self.logits = nn.Parameter(torch.zeros(n_components))
        self.outputs = nn.Parameter(torch.randn(n_components, width))  # equal ones would stay equal

    @property
    def means(self) -> Tensor:
        r"""The mean of each component, with shape :math:`(K, \text{event\_shape})`."""
        return self.likelihood(self.outputs, self.event_shape).mean

    def forward(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        r"""Observes ``x``, with shape :math:`(N, *)`, or else draws ``n`` samples of it.

        Raises:
            ValueError: If the shape of ``x`` does not end in :math:`N` and ``event_shape``.
        """
        size = n if x is None else plate_size(x, self.event_shape)
        with pyro.plate("data", size, dim=-1):
            weights = dist.Categorical(logits=self.logits)
            k = pyro.sample("component", weights, infer={"enumerate": "parallel"})
            return pyro.sample("x", self.likelihood(self.outputs[k], self.event_shape), obs=x)
