r"""Stochastic variational inference: one optimisation step."""

__all__ = ["SVI"]

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from copy import deepcopy
from typing import Any, get_args

import pyro
import pyro.infer
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_vae.arguments import flatten
from pyro_vae.capturable import Mode, check_mode
from pyro_vae.capture import Call, Capture
from pyro_vae.loss import Loss, Reduction, clipped
from pyro_vae.nonfinite import first_nonfinite
from pyro_vae.objectives import ELBO, Objective
from pyro_vae.optimizers import OptimizerLike, follow, make_optimizer
from pyro_vae.pair import Pair, Plan
from pyro_vae.products import Products, multiply_in
from pyro_vae.programs import Program
from pyro_vae.threads import few_threads


class SVI:
    r"""One optimisation step at a time, with Pyro's calling convention.

    .. math:: \theta, \phi \leftarrow \arg\max \; \sum_{n=1}^N \mathcal{L}(x_n; \theta, \phi)

    Unlike ``pyro.infer.SVI`` it has one optimiser for all parameters, takes bounds per datum,
    weighs global latents rightly when a batch is not the whole data, keeps instances of one
    ``PyroModule`` class apart, and waits for no ``.item()``.

    Arguments:
        model: The generative program.
        guide: The program that draws its latents.
        optim: A ``torch.optim`` class (or ``functools.partial`` of one), a callable from
            ``(name, parameter)`` pairs to an optimiser, names being prefixed ``model.`` and
            ``guide.``, or a ``pyro.optim`` object, which is unwrapped.
        loss: An objective of :mod:`pyro_vae.objectives`, or a ``pyro.infer.ELBO`` object.
        data_plate: The name of the data plate; by default ``data``, else the only plate that
            all observed sites share, else none: then the whole batch is one datum.
        data_size: The number of data :math:`N`, where a batch is not all and the data plate
            does not say it; it decides what global latents weigh.
        reduction: ``"sum"``: the loss is that of all :math:`N` data; ``"mean"``: of one.
        clip_norm: The greatest norm that the gradient of all parameters together may have; a
            longer one is shortened to it.
        capture: Whether a step runs as one compiled graph, in which Python has no part:
            ``True`` from the second step on, or an error that says what stands in the way;
            ``False`` never; ``"auto"`` where ``steps`` are so many that compiling pays, or after
            500 steps. Programs that cannot be captured run eagerly then, and it is said why.
            Captured steps may draw other noise from the same seed (on the CPU the same, in an
            order that the compiler chooses), validate nothing, and leave no ``.grad``. Batches of
            other sizes than the first run eagerly 100 times, then share a graph; 8 kinds of
            steps (modes, frozen parameters, numbers that programs read) have graphs. A print
            runs while it is traced only, and no value that lies in an array, an iterator, an
            object of a library, or more than four levels deep is looked at again.
        steps: The number of steps that are planned, if it is known.
        products: What networks multiply in: ``"bfloat16"`` is faster, where the processor knows
            it, and rounds (:func:`pyro_vae.multiply_in`); densities, parameters and gradients
            stay in float32.

    References:
        | Stochastic Variational Inference (Hoffman et al., 2013)
        | https://arxiv.org/abs/1206.7051

    Example:
        >>> from functools import partial
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> svi = SVI(model, guide, partial(torch.optim.Adam, lr=1e-2))
        >>> losses = [svi.step(torch.eye(4)).item() for _ in range(300)]
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: OptimizerLike,
        loss: Objective | pyro.infer.ELBO | None = None,
        *,
        data_plate: str | None = None,
        data_size: int | None = None,
        reduction: Reduction = "sum",
        clip_norm: float | None = None,
        capture: Mode = "auto",
        steps: int | None = None,
        products: Products = "float32",
    ) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"expected a positive clip_norm, got {clip_norm}")
        if reduction not in get_args(Reduction):
            raise ValueError(f"expected reduction to be 'sum' or 'mean', got {reduction!r}")
        check_mode(capture)
        if steps is not None and steps < 1:
            raise ValueError(f"expected a positive number of steps, got {steps}")
        if data_size is not None and data_size < 1:
            raise ValueError(f"expected a positive number of data, got data_size={data_size}")

        model, guide = multiply_in(model, products), multiply_in(guide, products)
        self.pair = Pair(model, guide, data_plate)
        self.optim = optim
        self.loss: Objective | pyro.infer.ELBO = ELBO() if loss is None else loss
        self.data_size, self.reduction, self.clip_norm = data_size, reduction, clip_norm
        self._loss = Loss(self.pair, self.loss, data_size, reduction)
        self.capture = Capture(self._loss, capture, steps)
        self.optimizer: Optimizer | None = None
        self._begun = False
        self._held: dict[str, Tensor] = {}
        self._size = 0  # of all parameters together
        self._saved: Mapping[str, Any] | None = None
        self._restored: set[str] = set()
        self._resumed: set[str] = set()

    def prepare(self, *args: Any, **kwargs: Any) -> Optimizer:
        r"""Inspects the programs on a batch; returns the optimiser that steps will take.

        A learning-rate schedule can be built on it. A state that is to be loaded is taken up.

        Raises:
            ValueError: If the programs do not fit each other, or have no parameters.
        """
        self.pair.plan(args, kwargs)
        self._restore()
        return self._optimizer()

    def step(self, *args: Any, **kwargs: Any) -> Tensor:
        r"""Takes a gradient step and returns the loss before it, detached, with shape ``()``.

        Raises:
            ValueError: If the programs do not fit each other or the objective, if the first step
                has no gradient for any parameter, if the batch is larger than the data, or, on
                the CPU, if the loss is not finite; nothing was trained then.
            TypeError: If the optimiser needs a closure, or is none.
        """
        return self.step_with_metrics(*args, **kwargs)[0]

    def step_with_metrics(self, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        r"""Takes a step; returns the loss, and nats per datum by name.

        ``objective`` is what was optimised, ``elbo`` the bound with :math:`\beta = 1`, split
        into ``log_likelihood`` and the ``kl`` of each site. Of Pyro's objects only
        ``objective`` is known.
        """
        plan = self.pair.plan(args, kwargs)
        self._restore()
        optimizer, parameters = self._optimizer(), self._parameters()
        with torch.enable_grad(), few_threads(self._size * _rows(args, kwargs)):
            call = Call(plan, parameters, optimizer, args, kwargs, self.clip_norm)
            found = self.capture.step(call)
            if found is None:
                found = self._step(plan, parameters, optimizer, args, kwargs)
            elif found[0].device.type == "cpu":
                self._check_taken(found[0], args, kwargs)
        self.capture.took()
        return found

    def steps(self, batches: Iterable[Tensor | Sequence[Tensor]]) -> Tensor:
        r"""Takes a step on each batch in turn; returns the losses before them.

        They are the steps that :meth:`step` takes, one after another. Where these run as one
        graph on the CPU, nothing is looked at between two of them but tensors, which saves a
        quarter of the time of small networks.

        Arguments:
            batches: What the programs are called with, each time: a tensor, or several. All of
                them are made before the first step.

        Returns:
            The losses, detached, with shape :math:`(B)` for :math:`B` batches.

        Raises:
            ValueError: If there is no batch, or as :meth:`step`: then the steps on the batches
                before were taken.

        Example:
            >>> from functools import partial
            >>> from pyro_vae.guides import AmortizedNormal
            >>> from pyro_vae.models import VAE
            >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
            >>> svi = SVI(model, guide, partial(torch.optim.Adam, lr=1e-2))
            >>> svi.steps(torch.eye(4).expand(10, 4, 4)).shape
            torch.Size([10])
        """
        left = deque(tuple(b) if isinstance(b, tuple | list) else (b,) for b in batches)
        if not left:
            raise ValueError("expected at least one batch, got none")
        losses: list[Tensor] = []
        while left:
            args = left.popleft()
            losses.append(self.step(*args))
            with few_threads(self._size * _rows(args, {})):
                losses += self._again(left)
        return torch.stack(losses)

    def _again(self, left: deque[tuple[Any, ...]]) -> Iterator[Tensor]:
        r"""Steps on the batches that the last one's graph takes, which are taken away."""
        while left and (loss := self.capture.again(left[0])) is not None:
            self._check_taken(loss, left.popleft(), {})
            self.capture.took()
            yield loss

    def _check_taken(self, loss: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            self.check_finite(loss, args, kwargs)
        except ValueError:
            self.capture.undo()
            raise

    def _step(
        self,
        plan: Plan,
        parameters: dict[str, Tensor],
        optimizer: Optimizer,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        trained = self._loss.trained(plan, parameters)
        loss, found, metrics = self._loss.gradients(plan, args, kwargs)
        if loss.device.type == "cpu":  # elsewhere looking at it would wait for the device
            self.check_finite(loss, args, kwargs)
        if not self._begun:
            _check_gradients(found)
        gradients = clipped(dict(zip(trained, found, strict=True)), self.clip_norm)
        for name, parameter in parameters.items():  # those of other batches' parts stay put
            parameter.grad = _laid_out(gradients.get(name), parameter)
        optimizer.step()
        self._begun = True
        return loss, metrics

    @torch.no_grad()
    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        r"""The loss on a batch, with shape ``()``; nothing is trained."""
        plan = self.pair.plan(args, kwargs)
        self._restore()
        return self._loss.value(plan, args, kwargs)

    def gradients(
        self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, list[Tensor | None], dict[str, Tensor]]:
        r"""The loss, its gradients, and metrics: nothing is changed but the random state."""
        return self._loss.gradients(plan, args, kwargs)

    def check_finite(self, loss: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        r"""Raises for a loss that is not finite, naming where that began.

        Raises:
            ValueError: If it is not.
        """
        if math.isfinite(loss.item()):
            return
        with torch.no_grad(), pyro.validation_enabled(False):  # which would not name the cause
            cause = first_nonfinite(self.pair.draw(args, kwargs), self.pair.parameters)
        raise ValueError(
            f"expected a finite loss, got {loss.item()}: {cause or 'all is finite in a new draw'}; "
            "look at the data's scale and at logarithms and divisions in the programs, lower the "
            "learning rate, or clip gradients"
        )

    def state_dict(self) -> dict[str, Any]:
        r"""All that is needed to go on: tensors by name, and the optimiser's state by name."""
        # what no batch has used yet since it was loaded is handed on
        waiting = self._saved or {"tensors": {}, "state": {}, "groups": []}
        tensors = {name: tensor.detach().clone() for name, tensor in self.tensors().items()}
        tensors |= {n: t for n, t in waiting["tensors"].items() if n not in self._restored}
        if self.optimizer is None:
            return {**waiting, "tensors": tensors, "capture": self.capture.state_dict()}
        packed, names = self._optimizer().state_dict(), self._names()
        state = {names[i]: deepcopy(value) for i, value in packed["state"].items()}
        left = {n: s for n, s in waiting["state"].items() if n not in self._resumed}
        groups = [
            {**group, "params": [names[i] for i in group["params"]]}
            for group in packed["param_groups"]
        ]
        absent = [{**g, "params": [n for n in g["params"] if n in left]} for g in waiting["groups"]]
        groups += [group for group in absent if group["params"]]
        return {
            "tensors": tensors,
            "state": {**left, **state},
            "groups": groups,
            "capture": self.capture.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        r"""Takes up what :meth:`state_dict` returned, when the next batch comes.

        Until then nobody knows the parameters of plain functions and autoguides.

        Raises:
            ValueError: At the next step, if a tensor is missing or has another shape.
        """
        self._saved, self._restored, self._resumed = state_dict, set(), set()
        self._begun = bool(state_dict["groups"])
        if "capture" in state_dict:
            self.capture.load_state_dict(state_dict["capture"])

    def _restore(self) -> None:
        if (saved := self._saved) is None:
            return
        # a later batch may use parameters that nobody knew of until then
        tensors = {n: t for n, t in self.tensors().items() if n not in self._restored}
        if self._restored:
            tensors = {n: t for n, t in tensors.items() if n in saved["tensors"]}
        expected = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        found = {name: tuple(tensor.shape) for name, tensor in saved["tensors"].items()}
        if wrong := {n: shape for n, shape in expected.items() if found.get(n) != shape}:
            raise ValueError(
                f"expected tensors of shapes {wrong}, got {found}: the saved state is that of "
                "another model or guide"
            )
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(saved["tensors"][name])
        self._restored |= tensors.keys()
        joined = self._parameters().keys() - self._resumed
        if saved["groups"] and joined:
            self._restore_optimizer(saved, joined)
            self._resumed |= joined
        if self._restored >= saved["tensors"].keys() and self._resumed >= saved["state"].keys():
            self._saved = None

    def _restore_optimizer(self, saved: Mapping[str, Any], new: Set[str]) -> None:
        optimizer = self._optimizer()
        packed, names = optimizer.state_dict(), self._names()
        groups = {n: group for group in saved["groups"] for n in group["params"] if n in new}
        first = [next((names[i] for i in g["params"]), "") for g in packed["param_groups"]]
        state = {i: saved["state"][n] for i, n in names.items() if n in saved["state"] and n in new}
        packed["state"] |= state
        packed["param_groups"] = [
            {**group, **groups.get(name, {}), "params": group["params"]}
            for name, group in zip(first, packed["param_groups"], strict=True)
        ]
        optimizer.load_state_dict(packed)

    def _names(self) -> dict[int, str]:
        r"""The name of each parameter by its place in the optimiser's ``state_dict``."""
        assert self.optimizer is not None
        known = {id(tensor): name for name, tensor in self._parameters().items()}
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        return {i: known[id(p)] for i, p in enumerate(held)}

    def tensors(self) -> dict[str, Tensor]:
        r"""Every tensor that must be kept to have the programs again, by prefixed name."""
        own = self.loss.state_dict(keep_vars=True) if isinstance(self.loss, nn.Module) else {}
        return {**self.pair.state(), **{f"objective.{name}": t for name, t in own.items()}}

    def _parameters(self) -> dict[str, Tensor]:
        own = {f"objective.{name}": parameter for name, parameter in self._loss.own().items()}
        return {**self.pair.parameters, **own}

    def _optimizer(self) -> Optimizer:
        r"""The one optimiser, with what an earlier batch did not use, without what is gone."""
        parameters = self._parameters()
        if not parameters:
            raise ValueError(
                "expected model and guide to use parameters, got none that requires a gradient: "
                "use nn.Parameter, PyroParam or pyro.param, and freeze not all of them"
            )
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.optim, list(parameters.items()))
        elif list(map(id, parameters.values())) != list(map(id, self._held.values())):
            follow(self.optimizer, self.optim, self._held, parameters)
        if parameters.keys() != self._held.keys() or not self._size:
            self._size = sum(parameter.numel() for parameter in parameters.values())
        self._held = parameters
        return self.optimizer


def _rows(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    r"""The size of the batch, or what is likely to be that."""
    leaves, _ = flatten(args, kwargs)
    return next((len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()), 1)


def _laid_out(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    # fused optimisers walk through both memories alike: an expanded sum's gradient is one number
    if gradient is None or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _check_gradients(gradients: Sequence[Tensor | None]) -> None:
    if gradients and not any(g is not None and bool(g.any()) for g in gradients):
        raise ValueError(
            "expected a gradient at the first step, got none or zero for every parameter: look "
            "for .detach(), .data, .item() or torch.no_grad() between parameters and sites, or "
            "a mask or scale of zero at all observed sites"
        )
