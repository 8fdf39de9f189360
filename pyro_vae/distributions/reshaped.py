r"""A distribution over vectors, as one over what they are reshaped to."""

__all__ = ["Reshaped"]

import math
from collections.abc import Sequence
from typing import ClassVar

from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint


class Reshaped(TorchDistribution):
    r"""A distribution over vectors of real numbers whose values have another shape.

    Unlike a ``TransformedDistribution`` it knows its mean and its variances.

    Arguments:
        base: The distribution over vectors, with event shape :math:`(F)`.
        event_shape: The other shape, with :math:`F` features in all.

    Raises:
        ValueError: If it has another number of features.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> fn = Reshaped(dist.MultivariateNormal(torch.zeros(64), torch.eye(64)), (1, 8, 8))
        >>> fn.sample((3,)).shape, fn.mean.shape
        (torch.Size([3, 1, 8, 8]), torch.Size([1, 8, 8]))
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, base: TorchDistribution, event_shape: Sequence[int]) -> None:
        if tuple(base.event_shape) != (math.prod(event_shape),):
            raise ValueError(
                f"expected a distribution over vectors of {math.prod(event_shape)} features, got "
                f"one with event shape {tuple(base.event_shape)}"
            )
        self.vectors, self.has_rsample = base, base.has_rsample
        super().__init__(base.batch_shape, Size(event_shape), validate_args=False)

    @property
    def support(self) -> Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return self.vectors.mean.unflatten(-1, self.event_shape)

    @property
    def variance(self) -> Tensor:
        return self.vectors.variance.unflatten(-1, self.event_shape)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "Reshaped":
        r"""Returns the same distribution with batch shape ``batch_shape``."""
        return Reshaped(self.vectors.expand(Size(batch_shape)), self.event_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws values, without a gradient."""
        return self.vectors.sample(Size(sample_shape)).unflatten(-1, self.event_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws values."""
        return self.vectors.rsample(Size(sample_shape)).unflatten(-1, self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns :math:`\log p(x)`, with the batch's shape."""
        flat = value.reshape(*value.shape[: value.dim() - len(self.event_shape)], -1)
        return self.vectors.log_prob(flat)
