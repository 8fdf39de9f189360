r"""Networks of data with missing features."""

__all__ = ["Filled", "masked_mlp"]

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyro_vae.nn.perceptron import mlp


class Filled(nn.Module):
    r"""A network that gets zeros in place of what is missing, which is NaN.

    Arguments:
        network: The network, with shape :math:`(*, F) \to (*, \text{outputs})`.

    Example:
        >>> Filled(nn.Identity())(torch.tensor([1.0, torch.nan]))
        tensor([1., 0.])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        r"""Applies the network to ``x``, with shape :math:`(*, F)`."""
        found: Tensor = self.network(_zero_filled(x))
        return found


def masked_mlp(
    inputs: int,
    outputs: int,
    hidden: Sequence[int] = (256,),
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Sequential:
    r"""A perceptron that gets zeros in place of NaN, and beside which features are observed.

    Unlike :class:`Filled`, it can tell a zero from what is missing.

    Arguments:
        inputs: The number of features, some of which may be missing.
        outputs: The number of output features.
        hidden: The widths of the hidden layers; with none the map is affine.
        activation: Makes the module that follows each hidden layer.

    References:
        | Handling Incomplete Heterogeneous Data using VAEs (Nazábal et al., 2020)
        | https://arxiv.org/abs/1807.03653

    Example:
        >>> network = masked_mlp(4, 2)
        >>> network(torch.tensor([0.0, 1.0, torch.nan, torch.nan])).shape
        torch.Size([2])
    """
    return nn.Sequential(_Indicated(), *mlp(2 * inputs, outputs, hidden, activation))


class _Indicated(nn.Module):
    r"""Features with zeros for NaN, and after them which are observed: ``(*, F) -> (*, 2 F)``."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([_zero_filled(x), (~x.isnan()).to(x)], dim=-1)


def _zero_filled(x: Tensor) -> Tensor:
    # unlike nan_to_num this leaves infinities, which are an error
    return torch.where(x.isnan(), 0.0, x)
