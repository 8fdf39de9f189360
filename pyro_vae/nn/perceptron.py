r"""Perceptrons."""

__all__ = ["mlp"]

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn


def mlp(
    inputs: int,
    outputs: int,
    hidden: Sequence[int] = (256,),
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Sequential:
    r"""A perceptron with shape :math:`(*, \text{inputs}) \to (*, \text{outputs})`.

    Arguments:
        inputs: The number of input features.
        outputs: The number of output features.
        hidden: The widths of the hidden layers; with none the map is affine.
        activation: Makes the module that follows each hidden layer.

    Example:
        >>> mlp(64, 2, hidden=(32, 16), activation=nn.Tanh)
        Sequential(
          (0): Linear(in_features=64, out_features=32, bias=True)
          (1): Tanh()
          (2): Linear(in_features=32, out_features=16, bias=True)
          (3): Tanh()
          (4): Linear(in_features=16, out_features=2, bias=True)
        )
    """
    widths = (inputs, *hidden)
    layers: list[nn.Module] = []
    for width, next_width in pairwise(widths):
        layers += [nn.Linear(width, next_width), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
