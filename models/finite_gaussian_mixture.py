r"""The finite mixture of Gaussians with full covariances."""

__all__ = ["FiniteGaussianMixture"]

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.counts import check_counts
from pyro_vae.distributions import Reshaped
from pyro_vae.nn import check_event_shape, plate_size


class FiniteGaussianMixture(PyroModule):
    r"""A mixture of Gaussians, each with a mean and a covariance of its own.

    .. math::
        k_n & \sim \text{Categorical}(\pi) \\
        x_n \mid k_n & \sim \mathcal{N}(\mu_{k_n}, L_{k_n} L_{k_n}^T)

    The component is summed out, so that the bound is the evidence: its guide is
    :class:`pyro_vae.guides.Empty`. EM fits such mixtures faster
    (:func:`pyro_vae.mixtures.program_of`, ``pyro-vae em``). Mixtures whose features are
    independent given the component are a
    :class:`~pyro_vae.models.FiniteMixture` with a normal likelihood.

    Sites: ``component``, enumerated, and ``x``, with event shape ``event_shape``, in plate
    ``data``, of size :math:`N`, at dim -1.

    Arguments:
        event_shape: The shape of one datum :math:`x_n`, with :math:`F` features in all.
        n_components: The number of components :math:`K`.

    Raises:
        ValueError: If a size is not positive.

    References:
        | Pattern Recognition and Machine Learning, section 9.2 (Bishop, 2006)
        | https://www.microsoft.com/en-us/research/people/cmbishop/prml-book/

    Example:
        >>> model = FiniteGaussianMixture(event_shape=(2,), n_components=3)
        >>> model(n=5).shape, model.scale_trils.shape
        (torch.Size([5, 2]), torch.Size([3, 2, 2]))
    """

    def __init__(self, event_shape: Sequence[int], n_components: int = 10) -> None:
        super().__init__()
        check_counts(n_components=n_components)

        self.event_shape = check_event_shape(event_shape)
        features = self.event_shape.numel()
        self.logits = nn.Parameter(torch.zeros(n_components))
        self.locs = nn.Parameter(torch.randn(n_components, features))  # equal ones would stay equal
        identities = torch.eye(features).repeat(n_components, 1, 1)
        self.scale_trils: Any = PyroParam(identities, constraints.lower_cholesky)

    @property
    def means(self) -> Tensor:
        r"""The mean of each component, with shape :math:`(K, \text{event\_shape})`."""
        return self.locs.unflatten(-1, self.event_shape)

    def forward(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        r"""Observes ``x``, with shape :math:`(N, *)`, or else draws ``n`` samples of it.

        Raises:
            ValueError: If the shape of ``x`` does not end in :math:`N` and ``event_shape``.
        """
        size = n if x is None else plate_size(x, self.event_shape)
        locs, scale_trils = self.locs, self.scale_trils
        with pyro.plate("data", size, dim=-1):
            weights = dist.Categorical(logits=self.logits)
            k = pyro.sample("component", weights, infer={"enumerate": "parallel"})
            fn = dist.MultivariateNormal(locs[k], scale_tril=scale_trils[k])
            return pyro.sample("x", Reshaped(fn, self.event_shape), obs=x)
