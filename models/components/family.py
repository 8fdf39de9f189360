r"""What families of components have in common."""

__all__ = ["Components", "Family", "Observation", "Pair", "Prior", "taken"]

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from pyro.ops.indexing import Vindex
from torch import Size, Tensor

from pyro_vae.counts import check_counts

Prior = float | Sequence[float] | Tensor
Pair = float | tuple[float, float] | Tensor
Observation = Callable[[Tensor], TorchDistribution]


class Components(Protocol):
    r"""A family of components: a program that draws their parameters.

    It is called inside the plate ``components``, of size :math:`K` at dim -1, which the caller
    opens. What it returns maps indices of components, of any shape :math:`(*)` and enumerated or
    not, to a distribution over data with batch shape :math:`(*)`; particles stand left of the
    plate over data, which is at dim -1, too.

    Example:
        >>> import pyro
        >>> from pyro_vae.models.components import PoissonComponents
        >>> with pyro.plate("components", 3, dim=-1):
        ...     component = PoissonComponents(features=2)()
        >>> component(torch.tensor([0, 2, 2, 1])).shape()
        torch.Size([4, 2])
    """

    @property
    def event_shape(self) -> Size: ...

    def __call__(self) -> Observation:
        r"""Draws the parameters of :math:`K` components."""
        ...


class Family(PyroModule):
    r"""What has features, and priors that are buffers."""

    def __init__(self, features: int) -> None:
        super().__init__()
        check_counts(features=features)
        self.event_shape = Size([features])

    def _prior(self, name: str, value: Prior, *, positive: bool = False) -> None:
        r"""Keeps a number for each feature as a buffer with shape :math:`(D)`."""
        numbers = torch.as_tensor(value, dtype=torch.get_default_dtype())
        (features,) = self.event_shape
        if numbers.shape not in (Size([]), self.event_shape):
            raise ValueError(
                f"expected {name} to be a number or {features} of them, one for each feature, "
                f"got shape {tuple(numbers.shape)}"
            )
        valid = numbers.isfinite() & (numbers > 0) if positive else numbers.isfinite()
        if not valid.all():
            words = "positive finite" if positive else "finite"
            raise ValueError(f"expected {name} to be {words}, got {numbers[~valid][0]:g}")
        self.register_buffer(name, numbers.expand(self.event_shape).clone())

    def _pair(self, name: str, value: Pair) -> None:
        r"""Keeps two positive numbers, or one twice, as a buffer with shape :math:`(2, D)`."""
        pair = torch.as_tensor(value, dtype=torch.get_default_dtype())
        if pair.shape not in (Size([]), Size([2])):
            raise ValueError(f"expected {name} to be a positive number or two, got {value!r}")
        for number in pair.reshape(-1):
            self._prior(name, number, positive=True)
        self.register_buffer(name, pair.expand(2)[:, None].repeat(1, *self.event_shape))


def taken(values: Tensor, c: Tensor, event_dim: int) -> Tensor:
    r"""The parameters of components :math:`c`, with the shape of :math:`c` and the event."""
    if values.dim() > event_dim + 1:
        values = values.unsqueeze(-event_dim - 2)  # particles, left of the plate over data
    return Vindex(values)[(..., c, *[slice(None)] * event_dim)]
