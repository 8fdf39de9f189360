r"""A distribution over features of which some are missing."""

__all__ = ["PartlyObserved", "missing_values", "or_missing"]

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints, transform_to
from torch.distributions.constraints import Constraint


class or_missing(Constraint):  # noqa: N801 (as torch's constraints are called)
    r"""Values that satisfy another constraint, or are missing: NaN.

    It counts as continuous, since bits per dimension would count what is missing.

    Arguments:
        base_constraint: The other constraint, of single numbers.
    """

    def __init__(self, base_constraint: Any) -> None:
        self.base_constraint = base_constraint
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        r"""Returns where a value is sound."""
        found: Tensor = self.base_constraint.check(_filled(value, self.base_constraint))
        return found


class PartlyObserved(TorchDistribution):
    r"""A distribution of independent numbers of which those that are NaN are missing.

    .. math::
        \log p(x) = \begin{cases} \log p_0(x) & \text{if } x \text{ is observed} \\
            0 & \text{if it is missing} \end{cases}

    Thus a sum over features is the log-density of the observed ones. Draws have all features.

    Arguments:
        base: The distribution :math:`p_0` of single numbers, with any batch shape.

    Raises:
        ValueError: If it is one of vectors.

    Example:
        >>> import math
        >>> import pyro.distributions as dist
        >>> fn = PartlyObserved(dist.Normal(torch.zeros(3), 1.0)).to_event(1)
        >>> fn.log_prob(torch.tensor([0.0, math.nan, 0.0]))
        tensor(-1.8379)
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, base: TorchDistribution) -> None:
        if base.event_shape:
            raise ValueError(
                f"expected a distribution of single numbers, got {type(base).__name__} with event "
                f"shape {tuple(base.event_shape)}: of a vector, no part alone can be missing"
            )
        self.base_dist, self.has_rsample = base, base.has_rsample
        super().__init__(base.batch_shape, validate_args=False)  # the base looks at what it gets

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Constraint:
        return or_missing(self.base_dist.support)

    @property
    def mean(self) -> Tensor:
        return self.base_dist.mean

    @property
    def mode(self) -> Tensor:
        return self.base_dist.mode

    @property
    def variance(self) -> Tensor:
        return self.base_dist.variance

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "PartlyObserved":
        r"""Returns the same distribution with batch shape ``batch_shape``."""
        return PartlyObserved(self.base_dist.expand(Size(batch_shape)))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws numbers, of which none is missing, without a gradient."""
        return self.base_dist.sample(Size(sample_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws numbers, of which none is missing."""
        return self.base_dist.rsample(Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns :math:`\log p(x)`, zero where ``value`` is NaN."""
        # a gradient of zero times NaN would be NaN: the base sees no NaN at all
        log_prob = self.base_dist.log_prob(_filled(value, self.base_dist.support))
        return torch.where(value.isnan(), 0.0, log_prob)


def missing_values(fn: Any, value: Tensor) -> Tensor:
    r"""Which of a site's values are missing, in a tensor of truth values of their shape.

    Arguments:
        fn: The distribution at the site.
        value: What is observed there.

    Example:
        >>> import pyro.distributions as dist
        >>> x = torch.tensor([1.0, float("nan")])
        >>> missing_values(PartlyObserved(dist.Normal(torch.zeros(2), 1.0)).to_event(1), x)
        tensor([False,  True])
        >>> missing_values(dist.Normal(torch.zeros(2), 1.0).to_event(1), x)
        tensor([False, False])
    """
    while hasattr(fn, "base_dist") and not isinstance(fn, PartlyObserved):
        fn = fn.base_dist
    found = value.isnan()
    return found if isinstance(fn, PartlyObserved) else torch.zeros_like(found)


def _filled(value: Tensor, support: Any) -> Tensor:
    r"""The values, with one that has a density in place of those that are missing."""
    if support.is_discrete:
        inside = torch.as_tensor(getattr(support, "lower_bound", 0), device=value.device)
    else:
        inside = transform_to(support)(value.new_zeros(()))
    return torch.where(value.isnan(), inside.to(value), value)
