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
        guide: The scalar that is differentiated for the guide's; if it is the same tensor as
            that of the model, one pass will do, and parameters may be shared.
        own: The scalar that is differentiated for the objective's own parameters, if any.
    """

    value: Tensor
    model: Tensor
    guide: Tensor
    own: Tensor | None = None

    @classmethod
    def of(cls, value: Tensor) -> "Bound":
        r"""A bound that is raised along its own gradient."""
        mean = value.mean()
        return cls(value, model=mean, guide=mean)


class Objective(Protocol):
    r"""A map from a draw of ``particles`` particles to a bound per datum.

    It looks at no value and has no effect, so that a step can be captured: what may change is a
    tensor. One that remembers something is an ``nn.Module``, with a method ``update(draw, bound)``
    that writes to its buffers and is called once a training step.

    Arguments:
        particles: The number of particles that a draw has.
        pathwise: Whether gradients pass through the values drawn; ``False`` where densities are
            differentiated at values that count as given.
    """

    particles: int
    pathwise: bool

    def __call__(self, draw: Draw) -> Bound: ...
