r"""Likelihoods of real data."""

__all__ = ["ContinuousBernoulli", "Normal", "NormalLearnedScale", "NormalPredictedScale"]

import math
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn

from pyro_vae import distributions
from pyro_vae.likelihoods.protocol import check_scale, unflatten
from pyro_vae.nn import positive


@dataclass(frozen=True)
class ContinuousBernoulli:
    r"""Independent features in the unit interval, such as grey levels as fractions.

    .. math:: p(x_f) \propto e^{o_f x_f}, \quad x_f \in [0, 1]

    References:
        | The continuous Bernoulli: fixing a pervasive error in variational autoencoders
          (Loaiza-Ganem & Cunningham, 2019)
        | https://arxiv.org/abs/1907.06845

    Example:
        >>> ContinuousBernoulli()(torch.zeros(64), Size([64])).mean[0]
        tensor(0.5000)
    """

    parameters_per_feature: ClassVar[int] = 1
    discrete: ClassVar[bool] = False

    def __call__(self, outputs: Tensor, event_shape: Size) -> TorchDistribution:
        r"""Maps outputs with shape :math:`(*, F)` to a distribution over ``event_shape``."""
        logits = unflatten(outputs, 1, event_shape)[0]
        fn: TorchDistribution = distributions.ContinuousBernoulli(logits)
        return fn.to_event(len(event_shape))


@dataclass(frozen=True)
class Normal:
    r"""Independent real features with a predicted mean and a fixed scale.

    .. math:: x_f \sim \mathcal{N}(o_f, \sigma^2)

    Arguments:
        scale: The standard deviation :math:`\sigma > 0`, in the units of the data.

    Raises:
        ValueError: If ``scale`` is not a positive finite number.

    Example:
        >>> Normal(scale=0.1)(torch.zeros(64), Size([64])).variance[0]
        tensor(0.0100)
    """

    scale: float = 1.0

    parameters_per_feature: ClassVar[int] = 1
    discrete: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_scale("scale", self.scale)

    def __call__(self, outputs: Tensor, event_shape: Size) -> TorchDistribution:
        r"""Maps outputs with shape :math:`(*, F)` to a distribution over ``event_shape``."""
        loc = unflatten(outputs, 1, event_shape)[0]
        scale = torch.full_like(loc, self.scale)
        return dist.Normal(loc, scale).to_event(len(event_shape))


class NormalLearnedScale(nn.Module):
    r"""Independent real features with a predicted mean and one scale that is trained.

    .. math:: x_f \sim \mathcal{N}(o_f, e^{2 s})

    The parameter is :math:`s`, so that a step of the optimiser changes the scale by a factor,
    whatever the units of the data.

    Arguments:
        init: The scale :math:`e^s` to start from, in the units of the data.

    Raises:
        ValueError: If ``init`` is not a positive finite number.

    Example:
        >>> NormalLearnedScale(init=0.5).scale
        tensor(0.5000, grad_fn=<ExpBackward0>)
    """

    parameters_per_feature: ClassVar[int] = 1
    discrete: ClassVar[bool] = False

    def __init__(self, init: float = 1.0) -> None:
        super().__init__()
        check_scale("init", init)

        self.init = init
        self.log_scale = nn.Parameter(torch.tensor(math.log(init)))

    @property
    def scale(self) -> Tensor:
        r"""The standard deviation :math:`e^s`, of shape :math:`()`."""
        return self.log_scale.exp()

    def forward(self, outputs: Tensor, event_shape: Size) -> TorchDistribution:
        r"""Maps outputs with shape :math:`(*, F)` to a distribution over ``event_shape``."""
        loc = unflatten(outputs, 1, event_shape)[0]
        return dist.Normal(loc, self.scale).to_event(len(event_shape))


@dataclass(frozen=True)
class NormalPredictedScale:
    r"""Independent real features with a predicted mean and a predicted scale.

    .. math:: x_f \sim \mathcal{N}(o_{1 f}, \sigma_f^2), \quad
        \sigma_f = \log(1 + e^{o_{2 f}}) + \varepsilon

    Without :math:`\varepsilon`, a feature that is constant in the data has no bounded density.

    Arguments:
        floor: The least scale :math:`\varepsilon`, in the units of the data.

    Raises:
        ValueError: If ``floor`` is not a positive finite number.

    Example:
        >>> NormalPredictedScale()(torch.zeros(2 * 64), Size([64])).stddev[0]
        tensor(0.6941)
    """

    floor: float = 1e-3

    parameters_per_feature: ClassVar[int] = 2
    discrete: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_scale("floor", self.floor)

    def __call__(self, outputs: Tensor, event_shape: Size) -> TorchDistribution:
        r"""Maps outputs with shape :math:`(*, 2 F)` to a distribution over ``event_shape``."""
        loc, raw = unflatten(outputs, 2, event_shape).unbind()
        return dist.Normal(loc, positive(raw, self.floor)).to_event(len(event_shape))
