r"""What Pyro's optimisers do to gradients and rates before a step."""

__all__ = ["ByGroup", "ByParameter", "Clip", "to_torch"]

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Adam, Optimizer

from pyro_vae.arguments import Substitute

Group = Mapping[str, Any]


class Clip(ABC):
    r"""What an optimiser does before each step, its Python apart from its tensors.

    A hook for :meth:`torch.optim.Optimizer.register_step_pre_hook` that does both; a captured
    step takes only :meth:`clip` into its graph.

    Attributes:
        scheduled: The options that :meth:`decay` changes and a step reads.
        changing: Those that it changes for itself.
    """

    scheduled: tuple[str, ...] = ()
    changing: tuple[str, ...] = ()

    def __call__(self, optimizer: Optimizer, *_: Any) -> None:
        self.decay(optimizer.param_groups)
        self.clip(optimizer.param_groups, lambda tensor: tensor)

    @abstractmethod
    def decay(self, groups: Sequence[dict[str, Any]]) -> None:
        r"""Changes the groups' options, once before each step."""

    @abstractmethod
    def clip(self, groups: Sequence[Group], swap: Substitute) -> None:
        r"""Changes the gradients in place.

        Arguments:
            groups: The optimiser's, or others with tensors in their parameters' place.
            swap: From a parameter to the tensor that stands in its place.
        """


class ByParameter(Clip):
    r"""Pyro's ``clip_args``: the greatest norm and the greatest entries of each gradient.

    Arguments:
        clips: Parameters, each with its ``clip_norm``, its ``clip_value``, or both.
    """

    def __init__(self, clips: Sequence[tuple[Tensor, Mapping[str, float]]]) -> None:
        self.clips = clips

    def decay(self, groups: Sequence[dict[str, Any]]) -> None:
        pass

    def clip(self, groups: Sequence[Group], swap: Substitute) -> None:
        for original, clip in self.clips:
            parameter = swap(original)
            if parameter.grad is None:  # torch fails where there is nothing to clip
                continue
            if "clip_norm" in clip:
                clip_grad_norm_(parameter, clip["clip_norm"])
            if "clip_value" in clip:
                clip_grad_value_(parameter, clip["clip_value"])


class ByGroup(Clip):
    r"""What Pyro's ``ClippedAdam`` does otherwise than Adam, by the options of each group.

    .. math:: \eta \leftarrow \mathrm{lrd} \cdot \eta, \quad
        g \leftarrow \min(\max(g, -c), c), \quad
        \epsilon_t = \epsilon \,/ \sqrt{1 - \beta_2^t}

    Pyro adds its :math:`\epsilon` before it corrects the second moment's bias; :math:`\epsilon_t`
    does the same to Adam, which adds it after. :math:`t` counts a group's steps.
    """

    scheduled = ("lr", "eps")
    changing = ("steps",)

    def decay(self, groups: Sequence[dict[str, Any]]) -> None:
        for group in groups:
            group["lr"] *= group["lrd"]
            group["steps"] += 1
            group["eps"] = group["pyro_eps"] / sqrt(1 - group["betas"][1] ** group["steps"])

    def clip(self, groups: Sequence[Group], swap: Substitute) -> None:
        for group in groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.clamp_(-group["clip_norm"], group["clip_norm"])


def to_torch(optimizer: Optimizer) -> Optimizer:
    r"""Pyro's ``ClippedAdam`` as torch's Adam with a :class:`ByGroup`; others as they are.

    Pyro's counts steps in Python, which no graph can hold. One with ``centered_variance``, which
    torch's has not, stays Pyro's.
    """
    groups = optimizer.param_groups
    if type(optimizer) is not ClippedAdam or any(g["centered_variance"] for g in groups):
        return optimizer
    adam = Adam([_as_adams(group) for group in groups])
    adam.defaults |= _as_adams(optimizer.defaults)  # for groups that are added
    adam.register_step_pre_hook(ByGroup())
    return adam


def _as_adams(options: Group) -> dict[str, Any]:
    kept = {key: value for key, value in options.items() if key != "centered_variance"}
    return {**kept, "pyro_eps": options["eps"], "steps": 0}
