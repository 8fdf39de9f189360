r"""The continuous Bernoulli distribution."""

__all__ = ["ContinuousBernoulli"]

from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

# Series of log((e^l - 1) / l) - l / 2, in powers l^2, l^4, …; the first term left out is below
# float64's rounding where |l| < NEAR.
SERIES = (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800, 1 / 479001600)
NEAR = 0.25


class ContinuousBernoulli(TorchDistribution):
    r"""An exponential distribution truncated to the unit interval.

    .. math:: p(x) = \frac{\ell \, e^{\ell x}}{e^\ell - 1}, \quad x \in [0, 1]

    Unlike :class:`torch.distributions.ContinuousBernoulli`, which clamps its parameter, it is
    exact for every finite :math:`\ell`.

    Arguments:
        logits: The natural parameter :math:`\ell = \log \lambda / (1 - \lambda)`, of any shape.

    References:
        | The continuous Bernoulli: fixing a pervasive error in variational autoencoders
          (Loaiza-Ganem & Cunningham, 2019)
        | https://arxiv.org/abs/1907.06845

    Example:
        >>> ContinuousBernoulli(torch.tensor([0.0, 100.0])).mean
        tensor([0.5000, 0.9900])
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {"logits": constraints.real}
    support = constraints.unit_interval

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "ContinuousBernoulli":
        r"""Returns the same distribution with batch shape ``batch_shape``."""
        return ContinuousBernoulli(self.logits.expand(batch_shape), self._validate_args)

    def _split(self) -> tuple[Tensor, Tensor]:
        r"""Returns where the series holds, and the parameter where it does not (elsewhere 1)."""
        near = self.logits.abs() < NEAR
        return near, torch.where(near, 1, self.logits)

    @property
    def mean(self) -> Tensor:
        near, far = self._split()
        square = torch.where(near, self.logits, 0).square()
        slope = sum(2 * i * c * square ** (i - 1) for i, c in enumerate(SERIES, 1))

        return torch.where(
            near,
            (1 / 2 + slope * self.logits),
            1 / 2 + 1 / (2 * (far / 2).tanh()) - 1 / far,
        )

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns :math:`\log p(x)`, with the shape that ``value`` and ``logits`` broadcast to."""
        if self._validate_args:
            self._validate_sample(value)

        near, far = self._split()
        square = torch.where(near, self.logits, 0).square()
        series = self.logits / 2 + sum(c * square**i for i, c in enumerate(SERIES, 1))
        size = far.abs()
        exact = far.clamp(min=0) + (-(-size).expm1() / size).log()

        return value * self.logits - torch.where(near, series, exact)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws by inverting the distribution function, without a gradient."""
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
            size = self.logits.abs().clamp(min=torch.finfo(u.dtype).tiny)
            x = -(u * (-size).expm1()).log1p() / size

            return torch.where(self.logits < 0, x, 1 - x).clamp(0, 1)
