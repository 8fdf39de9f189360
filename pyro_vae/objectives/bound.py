r"""What an objective makes of a draw."""

__all__ = ["Bound", "Objective"]

from typing import NamedTuple, Protocol

from torch import Tensor

from pyro_vae.draws import Draw


class Bound(NamedTuple):
    r"""A bound on the evidence, and what is differentiated to raise it.

    Arguments:
        value: The bound of each datum, with shape :math:`(N)`, in nats.
        model: The scalar that is differentiated for the model's parameters.
        guide: The scalar that is differentiated for the guide's.
        own: The scalar that is differentiated for the objective's own parameters, if any.
    """

    value: Tensor
    model: Tensor
    guide: Tensor
    own: Tensor | None = None


class Objective(Protocol):
    r"""A map from a draw of ``particles`` particles to a bound per datum."""

    particles: int

    def __call__(self, draw: Draw) -> Bound: ...
