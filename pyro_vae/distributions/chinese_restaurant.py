r"""The Chinese restaurant process: a distribution over partitions."""

__all__ = ["ChineseRestaurant", "canonical"]

from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.distributions.utils import broadcast_all

from pyro_vae.counts import check_counts


class _Partition(Constraint):
    r"""Labels in the order in which they appear first: each is at most one above all before."""

    is_discrete = True
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        r"""Returns which rows are partitions."""
        top = value.cummax(-1).values
        first = torch.full_like(top[..., :1], -1)
        allowed = torch.cat([first, top[..., :-1]], -1) + 1
        return ((value >= 0) & (value <= allowed) & (value == value.round())).all(-1)


class ChineseRestaurant(TorchDistribution):
    r"""The partition of guests who sit down, one by one, at tables: each joins others, or does not.

    .. math::
        p(c_i = t \mid c_{<i}) \propto \begin{cases}
            n_t & \text{the number of guests at table } t \\
            \alpha & \text{for a new table} \end{cases}
        \qquad
        p(c) = \alpha^T \frac{\Gamma(\alpha)}{\Gamma(\alpha + N)} \prod_{t=1}^T \Gamma(n_t)

    It is the partition of :math:`N` draws of a Dirichlet process by what they are equal to, and
    does not depend on the order of guests. A partition is the vector of their labels, tables being
    numbered from 0 in the order in which they were opened; :func:`canonical` makes it of others.

    Arguments:
        concentration: The :math:`\alpha > 0`, a number or a tensor of any shape.
        size: The number of guests :math:`N`.

    Raises:
        TypeError: If ``size`` is no integer.
        ValueError: If it is not positive.

    References:
        | Exchangeability and related topics (Aldous, 1985)
        | https://doi.org/10.1007/BFb0099421
        | The sampling theory of selectively neutral alleles (Ewens, 1972)
        | https://doi.org/10.1016/0040-5809(72)90035-4

    Example:
        >>> seats = ChineseRestaurant(torch.tensor(1.0), size=3)
        >>> seats.log_prob(torch.tensor([0, 1, 0])).exp()
        tensor(0.1667)
        >>> seats.expected_tables  # 1 + 1/2 + 1/3
        tensor(1.8333)
        >>> seats.sample((5,)).shape
        torch.Size([5, 3])
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {"concentration": constraints.positive}
    support = _Partition()

    def __init__(
        self, concentration: Tensor | float, size: int, validate_args: bool | None = None
    ) -> None:
        check_counts(size=size)
        (self.concentration,), self.size = broadcast_all(concentration), size
        super().__init__(self.concentration.shape, Size([size]), validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "ChineseRestaurant":
        r"""Returns the same distribution with batch shape ``batch_shape``."""
        concentration = self.concentration.expand(Size(batch_shape))
        return ChineseRestaurant(concentration, self.size, self._validate_args)

    @property
    def expected_tables(self) -> Tensor:
        r"""The expected number of tables, :math:`\sum_{i=0}^{N-1} \alpha / (\alpha + i)`."""
        a = self.concentration[..., None]
        seated = torch.arange(self.size, device=a.device)
        return (a / (a + seated)).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns :math:`\log p(c)` of labels with shape :math:`(*, N)`."""
        if self._validate_args:
            self._validate_sample(value)

        a, N = self.concentration, self.size
        counts = a.new_zeros(value.shape).scatter_add(
            -1, value.long(), a.new_ones(()).expand(value.shape)
        )
        tables = (counts > 0).sum(-1)
        # of an empty table there is no factor, Γ(1) in its place
        inside = torch.where(counts > 0, counts, 1).lgamma().sum(-1)
        return tables * a.log() + a.lgamma() - (a + N).lgamma() + inside

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws labels: whoever opens no table joins a guest, each with the same probability."""
        shape, a = self._extended_shape(Size(sample_shape)), self.concentration
        labels = torch.zeros(shape, dtype=torch.long, device=a.device)
        tables = torch.ones(shape[:-1], dtype=torch.long, device=a.device)
        with torch.no_grad():
            for i in range(1, self.size):
                alone = torch.rand(shape[:-1], dtype=a.dtype, device=a.device) < a / (a + i)
                other = torch.randint(i, (*shape[:-1], 1), device=a.device)
                joined = labels.gather(-1, other).squeeze(-1)
                labels[..., i] = torch.where(alone, tables, joined)
                tables = tables + alone
        return labels


def canonical(labels: Tensor) -> Tensor:
    r"""The same partitions with labels 0, 1, … in the order in which they appear first.

    Arguments:
        labels: Any numbers, with shape :math:`(*, N)`, of which equal ones are one part.

    Example:
        >>> canonical(torch.tensor([7, 3, 7, 0]))
        tensor([0, 1, 0, 2])
    """
    values, order = labels.sort(dim=-1, stable=True)
    places = torch.arange(labels.shape[-1], device=labels.device)
    fresh = values.diff(dim=-1, prepend=values[..., :1] - 1) != 0
    starts = torch.where(fresh, places, 0).cummax(-1).values
    leaders = torch.zeros_like(order).scatter(-1, order, order.gather(-1, starts))
    opened = leaders == places  # the first of each part
    return (opened.cumsum(-1) - 1).gather(-1, leaders)
