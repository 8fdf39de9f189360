r"""Densities whose parameters are stopped: gradients pass through what is given to them only."""

__all__ = ["Detached", "Stop", "stopped_log_prob"]

from copy import copy
from typing import Any
from weakref import ref

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

_REQUIRES_GRAD = Tensor.requires_grad.__get__  # type: ignore[attr-defined]


class Detached(Messenger):
    r"""Cuts the gradient at each value drawn; what is drawn later sees the cut one."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and isinstance(msg["value"], Tensor):
            msg["value"] = msg["value"].detach()


class Stop(TorchFunctionMode):
    r"""Has every trained tensor used without its gradient: parameters of modules and of Pyro."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func == _REQUIRES_GRAD:  # whoever asks means the parameter itself, as Pyro's store
            return func(*args)
        args, kwargs = tree_map_only(Tensor, _stopped_leaf, (args, kwargs or {}))
        return func(*args, **kwargs)


def stopped_log_prob(fn: Any, value: Tensor) -> Tensor:
    r"""The log-density of a value under a distribution that is taken as it stands.

    .. math:: \log q_{\text{stop}(\phi)}(z_\phi)

    Arguments:
        fn: The distribution.
        value: The value, through which gradients pass; it is no cached one, so that a transform
            is inverted anew: its cache would leave out how the value depends on its parameters.
    """
    with Stop():
        density: Tensor = _stopped(fn, {}).log_prob(value.view_as(value))
    return density


def _stopped_leaf(tensor: Tensor) -> Tensor:
    return tensor.detach() if tensor.requires_grad and tensor.is_leaf else tensor


def _stopped(thing: Any, known: dict[int, Any]) -> Any:
    r"""A copy made of constants; a transform and its inverse, which hold one another, are once."""
    if isinstance(thing, Tensor):
        return thing.detach()
    if isinstance(thing, list | tuple) and type(thing) in (list, tuple):
        return type(thing)(_stopped(part, known) for part in thing)
    if isinstance(thing, ref):  # to the inverse of what was copied: it is made anew
        return None
    # the parameters of a transform that is a module are leaves
    if isinstance(thing, Distribution | Transform) and not isinstance(thing, nn.Module):
        if id(thing) not in known:
            made = known[id(thing)] = copy(thing)
            parts = {name: _stopped(part, known) for name, part in vars(thing).items()}
            made.__dict__.update(parts)
        return known[id(thing)]
    return thing
