r"""The loss of a pair: what an objective, or a Pyro object, makes of a batch."""

__all__ = ["Loss", "Reduction", "clipped"]

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyro.infer
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from pyro_vae.draws import Draw
from pyro_vae.objectives import Bound, Objective
from pyro_vae.objectives.divergence import kl_terms
from pyro_vae.objectives.pyro_elbo import PyroLoss
from pyro_vae.pair import Pair, Plan
from pyro_vae.schedules import Constant, Schedule

Reduction = Literal["sum", "mean"]


class Loss:
    r"""The negative bound of the whole data, or of one datum, and its gradients.

    All of it is a function of tensors, without looking at a value, so that it can be captured.

    Arguments:
        pair: The model and the guide.
        objective: An objective, or a ``pyro.infer.ELBO`` object.
        data_size: The number of data :math:`N`, where the data plate does not say it.
        reduction: Whether it is the loss of all data, or their mean.
    """

    def __init__(
        self,
        pair: Pair,
        objective: Objective | pyro.infer.ELBO,
        data_size: int | None,
        reduction: Reduction,
    ) -> None:
        self.pair, self.objective = pair, objective
        self.data_size, self.reduction = data_size, reduction

    def gradients(
        self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, list[Tensor | None], dict[str, Tensor]]:
        r"""The loss, its gradients, and metrics: nothing is changed but the random state."""
        if isinstance(self.objective, pyro.infer.ELBO):
            return self._pyro_gradients(plan, args, kwargs)
        draw = self._draw(plan, args, kwargs)
        _check_size(draw.batch_size, draw.data_size)
        bound = self.objective(draw)
        factor = self._factor(draw.data_size)
        gradients = _differentiate(bound, plan, tuple(self.own().values()), factor)
        loss = -factor * bound.value.detach().mean()
        metrics = _metrics(draw, bound, self.objective)
        self._update(draw, bound, loss)
        return loss, gradients, metrics

    def value(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        r"""The loss alone."""
        if isinstance(self.objective, pyro.infer.ELBO):
            return self._pyro_loss(plan, "loss", args, kwargs)[0]
        draw = self._draw(plan, args, kwargs)
        return -self.objective(draw).value.mean() * self._factor(draw.data_size)

    def own(self) -> dict[str, Tensor]:
        r"""The parameters of the objective itself, by name."""
        objective = self.objective
        return dict(objective.named_parameters()) if isinstance(objective, nn.Module) else {}

    def trained(self, plan: Plan, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        r"""What :meth:`gradients` gives gradients of, in its order, by the names that they have."""
        names = {id(tensor): name for name, tensor in parameters.items()}
        return {names[id(t)]: t for t in (*plan.model, *plan.guide, *self.own().values())}

    def _draw(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Draw:
        assert not isinstance(self.objective, pyro.infer.ELBO)
        return Draw(
            self.pair.model,
            self.pair.guide,
            args,
            kwargs,
            plan.layout,
            self.objective.particles,
            self.data_size,
            self.objective.pathwise,
        )

    @torch.no_grad()
    def _update(self, draw: Draw, bound: Bound, loss: Tensor) -> None:
        r"""Has the objective remember what it must, unless the loss is not finite."""
        objective = self.objective
        if not isinstance(objective, nn.Module):
            return
        update: Any = getattr(objective, "update", None)
        moving = [m for m in objective.modules() if not isinstance(m, Constant)]
        before = [(b, b.clone()) for module in moving for b in module.buffers(recurse=False)]
        if update is not None:  # at the schedules' values that the bound was made with
            update(draw, bound)
        for module in moving:
            if isinstance(module, Schedule):
                module.advance(draw.batch_size / draw.data_size)
        finite = loss.isfinite()
        for buffer, value in before:
            buffer.copy_(torch.where(finite, buffer, value))

    def _factor(self, data_size: int) -> int:
        return data_size if self.reduction == "sum" else 1

    def _pyro_loss(
        self, plan: Plan, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, float, int]:
        r"""The loss of a ``pyro.infer.ELBO`` object, the factor put into it, the data's size."""
        assert isinstance(self.objective, pyro.infer.ELBO)
        loss = PyroLoss(self.objective, plan.layout, self.data_size)
        result, factor, batch, size = loss(method, self.pair.model, self.pair.guide, args, kwargs)
        if method != "loss":
            _check_size(batch, size)
        factor = factor * self._factor(size) / size
        # wake-sleep gives two, the model's first
        value = result[0] if isinstance(result, tuple) else result
        return torch.as_tensor(value) * factor, factor, size

    def _pyro_gradients(
        self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, list[Tensor | None], dict[str, Tensor]]:
        trained = (*plan.model, *plan.guide)
        gradients: list[Tensor | None]
        if hasattr(self.objective, "differentiable_loss"):
            loss, _, size = self._pyro_loss(plan, "differentiable_loss", args, kwargs)
            gradients = list(torch.autograd.grad(loss, trained, allow_unused=True))
        else:  # Pyro calls backward itself
            for parameter in trained:
                parameter.grad = None
            loss, factor, size = self._pyro_loss(plan, "loss_and_grads", args, kwargs)
            gradients = [None if p.grad is None else p.grad * factor for p in trained]
        loss = loss.detach()
        return loss, gradients, {"objective": -loss / self._factor(size)}


def clipped(gradients: Mapping[str, Tensor | None], norm: float | None) -> dict[str, Tensor | None]:
    r"""The gradients by name, shortened if all together are longer than a norm."""
    if norm is None:
        return dict(gradients)
    # by name: the order decides how the norm is rounded, and who joined when may differ
    found = [gradient for _, gradient in sorted(gradients.items()) if gradient is not None]
    factor = (norm / (get_total_norm(found) + 1e-6)).clamp(max=1.0)
    return {name: None if g is None else g * factor for name, g in gradients.items()}


def _differentiate(
    bound: Bound, plan: Plan, own: tuple[Tensor, ...], factor: int
) -> list[Tensor | None]:
    r"""Gradients of the surrogates, each for its parameters: one pass if they are the same."""
    if bound.guide is not bound.model and plan.shared:
        raise ValueError(
            f"expected no parameter in both programs, got {list(plan.shared)}: this objective "
            "trains model and guide towards different ends; give each its own"
        )
    if bound.guide is bound.model:
        parts = [(bound.model, (*plan.model, *plan.guide))]
    else:
        parts = [(bound.model, plan.model), (bound.guide, plan.guide)]
    if bound.own is not None:
        parts.append((bound.own, own))
    gradients: list[Tensor | None] = []
    for left, (surrogate, tensors) in zip(range(len(parts) - 1, -1, -1), parts, strict=True):
        gradients += _grad(-factor * surrogate, tensors, retain=left > 0)
    return gradients if bound.own is not None else [*gradients, *(None for _ in own)]


def _grad(loss: Tensor, tensors: Sequence[Tensor], retain: bool) -> Sequence[Tensor | None]:
    if not tensors or not loss.requires_grad:
        return [None] * len(tensors)
    return torch.autograd.grad(loss, tensors, retain_graph=retain, allow_unused=True)


@torch.no_grad()
def _metrics(draw: Draw, bound: Bound, objective: Objective) -> dict[str, Tensor]:
    terms = kl_terms(draw, getattr(objective, "kl", "auto"))
    divergences = {f"kl.{name}": draw.combine([(name, t)]).mean() for name, t in terms.items()}
    log_likelihood = draw.log_likelihood.detach().mean()
    total = sum(divergences.values(), torch.zeros_like(log_likelihood))
    return {
        "objective": bound.value.detach().mean(),
        "elbo": log_likelihood - total,
        "log_likelihood": log_likelihood,
        "kl": total,
        **divergences,
        **_scalars(objective),
    }


def _scalars(objective: Objective) -> dict[str, Tensor]:
    r"""The numbers of an objective that change: schedules, and what it keeps between steps."""
    if not isinstance(objective, nn.Module):
        return {}
    schedules = {n: m for n, m in objective.named_modules() if isinstance(m, Schedule)}
    found = {n: m() for n, m in schedules.items() if not isinstance(m, Constant)}
    inner = {id(buffer) for schedule in schedules.values() for buffer in schedule.buffers()}
    for name, buffer in objective.named_buffers():
        if id(buffer) not in inner and buffer.dim() == 0 and buffer.is_floating_point():
            found[name] = buffer.clone()
    return {f"objective.{name}": value for name, value in found.items()}


def _check_size(batch: int, size: int) -> None:
    if size < batch:
        raise ValueError(
            f"expected data_size to be at least the batch's {batch} data, got {size}: it is the "
            "number of all data, of which a batch is a part"
        )
