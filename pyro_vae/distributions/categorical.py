r"""The categorical distribution over numbers."""

__all__ = ["Categorical"]

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Size, Tensor


class Categorical(dist.Categorical):
    r"""A categorical distribution over the levels :math:`0, \dots, L - 1`, taken as numbers.

    .. math:: \mathbb{E}[x] = \sum_l l \, p_l

    Unlike those of :class:`pyro.distributions.Categorical`, its mean exists, and samples have
    the dtype of its parameters, so that a sample can stand where data stood.

    Arguments:
        probs: The probabilities :math:`p_l`, with shape :math:`(*, L)`.
        logits: Their logarithms up to a constant, with shape :math:`(*, L)`.

    Example:
        >>> Categorical(logits=torch.zeros(256)).mean
        tensor(127.5000)
    """

    @property
    def mean(self) -> Tensor:
        levels = torch.arange(
            self.probs.shape[-1], dtype=self.probs.dtype, device=self.probs.device
        )
        return self.probs @ levels

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns :math:`\log p(x)`, with the shape that ``value`` and the batch broadcast to."""
        # Pyro's compares the identities of tensors, which a compiler cannot follow.
        return torch.distributions.Categorical.log_prob(self, value)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws levels, as numbers with the dtype of the parameters."""
        return dist.Categorical.sample(self, Size(sample_shape)).to(self._param.dtype)
