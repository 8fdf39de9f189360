r"""What a program does besides its sample statements, with the user's lines."""

__all__ = ["Witness"]

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from pyro_vae.checks.graph import leaves
from pyro_vae.checks.trial import users_line

_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout"}
_DRAWS = {
    *("bernoulli", "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_"),
    *("multinomial", "normal", "normal_", "poisson", "rand", "rand_like", "randint"),
    *("randint_like", "randn", "randn_like", "random_", "randperm", "uniform_"),
}
_CUTS = {"detach", "detach_", "item", "numpy", "tolist"}


class Witness(TorchFunctionMode):
    r"""Notes where a program cuts gradients off, draws numbers, and makes tensors.

    Each list holds pairs of a tensor and the user's line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cut: list[tuple[Tensor, str]] = []
        self.drawn: list[tuple[Tensor, str]] = []
        self.made: list[tuple[Tensor, str]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        traced = [tensor for tensor in given if tensor.requires_grad]
        data = name == "__get__" and getattr(func, "__self__", None) is Tensor.data
        if traced and (name in _CUTS or data or not torch.is_grad_enabled()):
            self._note(self.cut, traced)
        if isinstance(result, Tensor):
            if name in _DRAWS or (name in _DROPOUTS and _drops(args, kwargs)):
                self._note(self.drawn, [result])
            if not given:
                self._note(self.made, [result])
        return result

    def cutting(self, parameter: Tensor) -> str | None:
        r"""The line at which a parameter's gradient was cut off."""
        return next((line for t, line in self.cut if id(parameter) in leaves([t])), None)

    def making(self, tensor: Tensor) -> str | None:
        r"""The line at which a tensor's memory was first filled."""
        place = tensor.untyped_storage()._cdata
        return next((line for t, line in self.made if t.untyped_storage()._cdata == place), None)

    def _note(self, notes: list[tuple[Tensor, str]], tensors: Iterable[Tensor]) -> None:
        if line := users_line(sys._getframe(2)):
            notes += [(tensor, line) for tensor in tensors]


def _drops(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    r"""Whether a dropout is active: by default it is."""
    return bool(kwargs.get("training", args[2] if len(args) > 2 else True))
