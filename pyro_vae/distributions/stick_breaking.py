r"""The weights of a Dirichlet process, of which all but the first few are one."""

__all__ = ["StickBreaking"]

from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.distributions.utils import broadcast_all

from pyro_vae.counts import check_counts


class StickBreaking(TorchDistribution):
    r"""The weights of a Dirichlet process, truncated: a stick is broken again and again.

    .. math::
        w_k = v_k \prod_{j < k} (1 - v_j), \qquad v_1, \dots, v_{K-1} \sim \text{Beta}(1, \alpha),
        \quad v_K = 1

    With what is left of the stick, :math:`r_k = w_{k+1} + \dots + w_K`, the density is

    .. math::
        p(w) = \alpha^{K-1} w_K^{\alpha - 1} \prod_{k=1}^{K-2} r_k^{-1}

    with respect to the first :math:`K - 1` weights, as that of a Dirichlet distribution. The
    last weight, what the truncation leaves over, has the mean
    :math:`(\alpha / (1 + \alpha))^{K-1}`: choose :math:`K` such that it is small.

    Arguments:
        concentration: The :math:`\alpha > 0`, a number or a tensor of any shape: the larger, the
            more weights matter.
        n_components: The number of weights :math:`K`.

    Raises:
        TypeError: If ``n_components`` is no integer.
        ValueError: If it is not positive.

    References:
        | A constructive definition of Dirichlet priors (Sethuraman, 1994)
        | https://www.jstor.org/stable/24305538
        | Gibbs Sampling Methods for Stick-Breaking Priors (Ishwaran & James, 2001)
        | https://doi.org/10.1198/016214501750332758

    Example:
        >>> weights = StickBreaking(torch.tensor(1.0), n_components=4)
        >>> weights.mean
        tensor([0.5000, 0.2500, 0.1250, 0.1250])
        >>> weights.rsample((5,)).sum(-1).shape
        torch.Size([5])
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {"concentration": constraints.positive}
    support = constraints.simplex
    has_rsample = True

    def __init__(
        self, concentration: Tensor | float, n_components: int, validate_args: bool | None = None
    ) -> None:
        check_counts(n_components=n_components)
        (self.concentration,), self.n_components = broadcast_all(concentration), n_components
        batch_shape = self.concentration.shape
        super().__init__(batch_shape, Size([n_components]), validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "StickBreaking":
        r"""Returns the same distribution with batch shape ``batch_shape``."""
        concentration = self.concentration.expand(Size(batch_shape))
        return StickBreaking(concentration, self.n_components, self._validate_args)

    @property
    def mean(self) -> Tensor:
        first = 1 / (1 + self.concentration)
        return self._products(first, 1 - first)

    @property
    def variance(self) -> Tensor:
        a = self.concentration
        second = self._products(2 / ((1 + a) * (2 + a)), a / (2 + a))
        return second - self.mean.square()

    def _products(self, broken: Tensor, left: Tensor) -> Tensor:
        r"""Products of powers of ``left`` by ``broken``, of which the last lacks it."""
        powers = left[..., None] ** torch.arange(self.n_components, device=left.device)
        return torch.cat([powers[..., :-1] * broken[..., None], powers[..., -1:]], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns :math:`\log p(w)` of weights with shape :math:`(*, K)`."""
        if self._validate_args:
            self._validate_sample(value)

        a, last = self.concentration, self.n_components - 1
        # sums of the later weights: one minus the earlier ones would lose the digits of small ones
        left = value[..., 1:].flip(-1).cumsum(-1).flip(-1)[..., : max(last - 1, 0)]
        return last * a.log() + (a - 1) * value[..., -1].log() - left.log().sum(-1)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws weights: what is left of the stick shrinks by exponential steps in logarithms."""
        a = self.concentration
        shape = (*self._extended_shape(Size(sample_shape))[:-1], self.n_components - 1)
        # log(1 - v) of a Beta(1, a) is that of a uniform number, divided by a
        steps = (-torch.rand(shape, dtype=a.dtype, device=a.device)).log1p() / a[..., None]
        ends = steps.cumsum(-1)
        starts = ends - steps
        whole = torch.cat(
            [starts, ends[..., -1:] if shape[-1] else a.new_zeros(*shape[:-1], 1)], -1
        )
        parts = torch.cat([-steps.expm1(), a.new_ones(*shape[:-1], 1)], -1)
        # no weight is zero: its density might be infinite
        w = (whole.exp() * parts).clamp(min=torch.finfo(a.dtype).tiny)
        return w / w.sum(-1, keepdim=True)
