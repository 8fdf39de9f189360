r"""Which steps run as compiled graphs."""

__all__ = ["Call", "Capture"]

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.arguments import Substitute, flatten
from pyro_vae.capturable import Mode, examine
from pyro_vae.lines import warn_user
from pyro_vae.loss import Loss
from pyro_vae.pair import Plan
from pyro_vae.programs import Program
from pyro_vae.step import Step
from pyro_vae.uncapturable import StateMissing, Uncapturable
from pyro_vae.update import Update
from pyro_vae.watch import Watch

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Result = tuple[Tensor, dict[str, Tensor]]

# planned steps below which eager ones are done before a graph is compiled
_WORTH = 4000
# steps that are eager where nobody said how many there will be
_PATIENCE = 500
# steps of other sizes than the first that are eager before all sizes get a graph
_RARE = 100
# kinds of steps that get graphs: what changes at every step would be compiled at every step
_KINDS = 8


class Call(NamedTuple):
    r"""What a step is taken with.

    Arguments:
        plan: What is known of the pair on such batches.
        parameters: Those of the pair and of the objective, by name.
        optimizer: What holds them all.
        args: The batch.
        kwargs: What of it comes by keyword.
        clip_norm: The greatest norm of the gradients together, if any.
    """

    plan: Plan
    parameters: Mapping[str, Tensor]
    optimizer: Optimizer
    args: Args
    kwargs: Kwargs
    clip_norm: float | None


@dataclass
class _Kind:
    r"""Steps that differ in sizes only: those of the first, and graphs for these and others."""

    sizes: list[list[int]]
    steps: dict[bool, Step | None] = field(default_factory=dict)  # None: the compiler refused
    is_new: bool = False  # whether the optimiser's state was missing before


class Capture:
    r"""Takes steps as graphs, one for each kind of step, where that pays.

    A kind is what a trace depends on: the structure of the batch, training modes, frozen
    parameters, options of the optimiser, and the values in Python that programs read. The sizes
    of its first batch have a graph of their own; all others share one, once they are not rare.

    What is captured depends on the steps that were taken and those planned only, so that a run
    that goes on from a checkpoint repeats what it did.

    Arguments:
        loss: What is differentiated.
        mode: Whether steps are captured; ``"auto"``: where there will be many.
        steps: The number of steps planned, if it is known.
    """

    def __init__(self, loss: Loss, mode: Mode, steps: int | None) -> None:
        self.loss, self.mode = loss, mode
        self.start = _start(mode, steps)
        self.count = self.others = 0
        self.kinds: dict[str, list[list[int]]] = {}  # by digest, the first sizes
        self.compilations = 0
        self.reason: str | None = None  # why steps are eager although graphs are wanted
        self.announce: Callable[[str], Any] = lambda text: None
        self.compiling: dict[str, Any] = {}  # what torch.compile is told besides
        self.keeps_gradients = False
        self._checked = False
        self._said: set[str] = set()
        self._kinds: dict[Hashable, _Kind | None] = {}
        self._watches: dict[int, tuple[Plan, Watch]] = {}  # plans stay, so that no id comes twice
        self._alike = Counter[str]()
        self._update: Update | None = None
        self._last: Step | None = None  # what took the last step, if it was captured

    @property
    def _programs(self) -> dict[str, Program]:
        return {"model": self.loss.pair.model, "guide": self.loss.pair.guide}

    def step(self, call: Call) -> Result | None:
        r"""Takes a step as a graph; None if it is to be taken eagerly.

        Raises:
            Uncapturable: If it cannot be captured, and must be.
        """
        self._last = None
        if self.start == math.inf:
            return None
        try:
            if self.count < self.start:
                if self.mode is True and not self._checked:
                    self.check(call.plan, call.args, call.kwargs)
                return None
            return self._captured(call)
        except Uncapturable as error:
            self._refuse(error)
            return None

    def again(self, args: Args) -> Tensor | None:
        r"""Takes the last step's graph again, and returns the loss; None if that cannot be.

        Nothing but the contents of tensors may have changed in between.
        """
        return None if self._last is None else self._last.again(args)

    def check(self, plan: Plan, args: Args, kwargs: Kwargs) -> list[Tensor]:
        r"""Finds the tensors that a step uses.

        Raises:
            Uncapturable: If something stands in the way of a graph.
        """
        objective = self.loss.objective
        if isinstance(objective, ELBO) and not hasattr(objective, "differentiable_loss"):
            raise Uncapturable(
                f"expected a loss that is differentiated here, got {type(objective).__name__}, "
                "which calls backward itself: use an objective of pyro_vae.objectives, or "
                "Trace_ELBO, TraceMeanField_ELBO or TraceEnum_ELBO"
            )

        def gradients(swap: Substitute, *args: Any, **kwargs: Any) -> Any:
            with torch.enable_grad():
                return self.loss.gradients(plan, args, kwargs)

        self._checked = True
        return examine(gradients, self._programs, args, kwargs)

    def decide(self, plan: Plan, args: Args, kwargs: Kwargs) -> bool:
        r"""Whether steps will be captured, as far as it can be known before the first.

        Raises:
            Uncapturable: If they cannot be captured, and must be.
        """
        try:
            if self.start != math.inf:
                self.check(plan, args, kwargs)
        except Uncapturable as error:
            self._refuse(error)
        return self.start != math.inf

    def undo(self) -> None:
        r"""Takes back what the last step did in Python, where its loss was not finite."""
        if self._update is not None:
            self._update.undo()

    def took(self) -> None:
        r"""Counts a step; says why it was eager, if graphs are wanted, once."""
        self.count += 1
        if self.reason is not None:
            self._say(f"steps are not captured, but taken eagerly: {self.reason}")

    def state_dict(self) -> dict[str, Any]:
        r"""What decides which steps are captured."""
        start = None if self.start == math.inf else self.start
        return {
            "start": start,
            "count": self.count,
            "others": self.others,
            "kinds": self.kinds,
            "reason": self.reason,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        r"""Takes up what :meth:`state_dict` returned."""
        if self.mode == "auto" or state["reason"]:
            self.start = math.inf if state["start"] is None else state["start"]
            self.reason = state["reason"]
        self.count, self.others = state["count"], state["others"]
        self.kinds = dict(state["kinds"])
        self._update = None

    def _captured(self, call: Call) -> Result | None:
        if self._update is None or self._update.stale():
            self._update = Update(call.optimizer)
            self._kinds.clear()
            self._alike.clear()
        if any(parameter._backward_hooks for parameter in call.parameters.values()):
            raise Uncapturable(
                "expected parameters without hooks, which a graph would pass over, got some: "
                "remove them, or do to the gradient in the optimiser what they do"
            )
        leaves, _ = flatten(call.args, call.kwargs)
        sizes = [list(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)]
        kind = self._kind(call, leaves, sizes)
        if kind is None or (kind.sizes != sizes and not self._is_frequent(sizes)):
            return None
        first = kind.sizes == sizes
        if first not in kind.steps:
            kind.steps[first] = self._build(call, kind.sizes)
        step = kind.steps[first]
        if step is None:
            return None
        try:
            return self._run(step, call)
        except StateMissing:
            if kind.is_new:
                raise
            kind.is_new = True  # an eager step makes what is missing, once
            del kind.steps[first]
            return None
        except Uncapturable as error:
            if first:
                raise
            kind.steps[first] = None
            self._say(f"batches of other sizes than the first are not captured: {error}")
            return None

    def _kind(self, call: Call, leaves: list[Any], sizes: list[list[int]]) -> _Kind | None:
        r"""The kind of a step; None if there are too many of them."""
        assert self._update is not None
        plan = call.plan
        if id(plan) not in self._watches:
            self._watches[id(plan)] = plan, Watch(**self._programs, objective=self.loss.objective)
        watch = self._watches[id(plan)][1]
        constants = tuple(leaf for leaf in leaves if not isinstance(leaf, Tensor))
        key = id(plan), (constants, call.clip_norm), self._update.options, watch.values()
        if key not in self._kinds:
            what = plan.structure, *key[1:3], watch.plain()
            self._kinds[key] = self._enter(what, sizes, watch.difference or "arguments")
        return self._kinds[key]

    def _enter(self, what: Any, sizes: list[list[int]], changed: str) -> _Kind | None:
        r"""A new kind, or one that an earlier process knew."""
        text = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
        self._alike[text] += 1  # kinds that differ in the identity of objects only
        digest = f"{text}-{self._alike[text]}"
        if digest not in self.kinds and len(self.kinds) >= _KINDS:
            self._say(
                f"expected steps of at most {_KINDS} kinds, each of which is compiled, got more, "
                f"which are taken eagerly (what changed: {changed}): pass what "
                "changes as a tensor, or change a tensor's value in place"
            )
            return None
        return _Kind(self.kinds.setdefault(digest, sizes))

    def _is_frequent(self, sizes: list[list[int]]) -> bool:
        self.others += 1
        return self.others > _RARE and not any(0 in size for size in sizes)

    def _build(self, call: Call, sizes: list[list[int]]) -> Step:
        assert self._update is not None
        return Step(
            self.loss,
            call.plan,
            self.loss.trained(call.plan, call.parameters),
            self._update,
            call.clip_norm,
            self.check(call.plan, call.args, call.kwargs),
            self._programs,
            self.keeps_gradients,
            sizes,
            **self.compiling,
        )

    def _run(self, step: Step, call: Call) -> Result:
        traces = step.graph.traces
        if not traces:
            self.announce(f"compiling the step ({self.compilations + 1})")
        loss, metrics, gradients = step(call.args, call.kwargs)
        self.compilations += traces != step.graph.traces
        for name, parameter in call.parameters.items():
            parameter.grad = gradients.get(name)
        self._last = step
        return loss, metrics

    def _refuse(self, error: Uncapturable) -> None:
        r"""Has all steps taken eagerly from now on, unless they must be captured."""
        if self.mode is True:
            raise error
        self.start, self.reason = math.inf, str(error)

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            warn_user(text)


def _start(mode: Mode, steps: int | None) -> float:
    r"""The number of steps before the first that is captured."""
    if mode != "auto":
        return 1 if mode else math.inf
    if steps is None:
        return _PATIENCE
    return 1 if steps >= _WORTH else math.inf
