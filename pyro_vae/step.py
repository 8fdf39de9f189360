r"""A whole step as one graph: the loss, its gradients, and the optimiser's update."""

__all__ = ["Step"]

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments import Substitute
from pyro_vae.graph import Graph
from pyro_vae.loss import Loss, clipped
from pyro_vae.pair import Plan
from pyro_vae.programs import Program
from pyro_vae.update import Update


class Step:
    r"""A step on batches of one kind, captured at its first call.

    Where the loss is not finite, parameters and the optimiser's state stay as they are.

    Arguments:
        loss: What is differentiated.
        plan: What is known of the pair on such batches.
        trained: The parameters, in the order of the loss's gradients, by name.
        update: The optimiser's.
        clip_norm: The greatest norm of the gradients together, if any.
        free: The tensors that the loss uses.
        programs: The model and the guide, and what else runs.
        keeps_gradients: Whether gradients are returned.
        sizes, compiling: As for :class:`pyro_vae.graph.Graph`.
    """

    def __init__(
        self,
        loss: Loss,
        plan: Plan,
        trained: Mapping[str, Tensor],
        update: Update,
        clip_norm: float | None,
        free: Iterable[Tensor],
        programs: Mapping[str, Program],
        keeps_gradients: bool = False,
        sizes: Sequence[Sequence[int]] = (),
        **compiling: Any,
    ) -> None:
        self.loss, self.plan, self.trained, self.update = loss, plan, trained, update
        self.clip_norm, self.keeps_gradients = clip_norm, keeps_gradients
        self._names: list[str] = []
        self._kept: list[str] = []
        used = (*free, *trained.values(), *update.written, *update.read)
        self.graph = Graph(self._take, used, programs, sizes=sizes, **compiling)

    def __call__(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        r"""Takes a step; returns the loss before it, metrics, and gradients, if they are kept."""
        self.update.refresh()
        try:
            loss, *values = self.graph(*args, **kwargs)
        except BaseException:  # the same step, taken again or eagerly, refreshes, too
            self.update.undo()
            raise
        metrics = dict(zip(self._names, values, strict=False))
        gradients = dict(zip(self._kept, values[len(metrics) :], strict=True))
        return loss, metrics, gradients

    def again(self, args: tuple[Any, ...]) -> Tensor | None:
        r"""Takes the step right after another one; None if it has to be called.

        Nothing but the contents of tensors may have changed in between.
        """
        if self.keeps_gradients:
            return None
        self.update.refresh()
        try:
            found = self.graph.again(list(args))
        except BaseException:
            self.update.undo()
            raise
        if found is None:
            self.update.undo()
            return None
        return found[0]

    def _take(self, swap: Substitute, *args: Any, **kwargs: Any) -> list[Tensor]:
        with torch.enable_grad():
            loss, found, metrics = self.loss.gradients(self.plan, args, kwargs)
        gradients = clipped(dict(zip(self.trained, found, strict=True)), self.clip_norm)
        with torch.no_grad():
            self._update(swap, gradients, loss.isfinite())
        kept = {n: g for n, g in gradients.items() if g is not None and self.keeps_gradients}
        self._names, self._kept = list(metrics), list(kept)
        return [loss, *metrics.values(), *kept.values()]

    def _update(
        self, swap: Substitute, gradients: Mapping[str, Tensor | None], finite: Tensor
    ) -> None:
        written = [swap(tensor) for tensor in (*self.trained.values(), *self.update.written)]
        before = [tensor.clone() for tensor in written]
        self.update(swap, {self.trained[name]: g for name, g in gradients.items()})
        for tensor, value in zip(written, before, strict=True):
            tensor.copy_(torch.where(finite, tensor, value))
