r"""An optimiser's step as tensor code, for a compiled graph."""

__all__ = ["Update"]

import inspect
import operator
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim import optimizer as torch_optimizer
from torch.utils._pytree import tree_leaves, tree_map_only

from pyro_vae.arguments import Substitute
from pyro_vae.clips import Clip
from pyro_vae.only_tensors import OnlyTensors
from pyro_vae.uncapturable import StateMissing, Uncapturable

_COUNTS = frozenset({"step", "mu_product", "eta", "mu"})  # numbers that torch keeps as tensors
_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
_OWN = frozenset({"defaults", "param_groups", "state", "step"})  # of an optimiser's attributes


class Update:
    r"""An optimiser's step on the tensors that stand for its parameters, to be captured.

    What may change from step to step without a new graph is a tensor: gradients, state, learning
    rates, and Adam's :math:`\beta` where a schedule such as ``OneCycleLR`` cycles them. One eager
    step, which makes the optimiser's state, comes first. Before each run of the graph
    :meth:`refresh` does what the step does in Python.

    Arguments:
        optimizer: What :func:`pyro_vae.optimizers.make_optimizer` made.

    Attributes:
        written: The state's tensors, which a step changes besides the parameters.
        read: The tensors that stand for rates.

    Raises:
        Uncapturable: If the optimiser has hooks, tensors, or optimisers that its class does not
            tell of, or a ``step`` of its own; when called, if its step looks at a tensor's value,
            makes state, or changes anything but tensors.

    Example:
        >>> from pyro_vae.graph import Graph
        >>> x = torch.ones(2, requires_grad=True)
        >>> optimizer = torch.optim.Adam([x], lr=0.5)
        >>> x.grad = x.detach().clone()
        >>> optimizer.step()
        >>> update = Update(optimizer)
        >>> def step(swap):
        ...     loss = swap(x).detach().square().sum() / 2
        ...     update(swap, {x: swap(x).detach().clone()})
        ...     return loss
        >>> free = [x, *update.written, *update.read]
        >>> graph = Graph(step, free, backend="aot_eager")
        >>> for rate in (0.5, 0.25):
        ...     optimizer.param_groups[0]["lr"] = rate
        ...     update.refresh()
        ...     loss = graph()
        >>> x.detach()
        tensor([-0.1510, -0.1510])
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._name = type(optimizer).__name__
        self._step = self._own_step()
        self._clips = self._own_clips()
        self._check_holdings()
        # by group: each option that may change, and the tensors that stand for its numbers
        self._rates = [
            {key: _tensors(optimizer, group, key) for key in self._scheduled(group)}
            for group in optimizer.param_groups
        ]
        self._values: dict[int, float] = {}
        self._seen: list[dict[str, Any]] = []
        self._moving: list[set[str]] = []
        self._theirs: list[Tensor] = []
        self._look()
        mine = (t for rates in self._rates for tensors in rates.values() for t in tensors)
        self.read = _distinct((*mine, *self._theirs))
        states = optimizer.state.values()
        self.written = _distinct(v for s in states for v in s.values() if isinstance(v, Tensor))
        self._held = self._objects()
        self._options_before: list[dict[str, Any]] = [{} for _ in optimizer.param_groups]

    @property
    def options(self) -> Hashable:
        r"""All options that the graph holds as constants, by value: it is valid for these only."""
        self._look()
        return self._options

    def undo(self) -> None:
        r"""Takes back what :meth:`refresh` did to the options, for a step that was not taken."""
        for group, options in zip(self.optimizer.param_groups, self._options_before, strict=True):
            group.update(options)

    def refresh(self) -> None:
        r"""Does a step's Python: decays rates, puts them into tensors; once before each run."""
        groups = self.optimizer.param_groups
        self._options_before = [dict(group) if self._clips else {} for group in groups]
        for clip in self._clips:
            clip.decay(groups)
        for group, rates in zip(groups, self._rates, strict=True):
            for key, tensors in rates.items():
                for tensor, number in zip(tensors, _numbers(group[key]), strict=True):
                    if number is not tensor and self._values.get(id(tensor)) != number:
                        self._values[id(tensor)] = number
                        tensor.fill_(number)
        # a scheduler warns where it saw no step before its own
        vars(self.optimizer)["_opt_called"] = True

    def stale(self) -> bool:
        r"""Whether parameters, state or hooks are other objects now: then a new one is needed.

        To be asked before :meth:`refresh`.
        """
        self._look()
        now = self._objects()
        same = len(now) == len(self._held) and all(map(operator.is_, now, self._held))
        return not same or self._scheduled_now != [list(rates) for rates in self._rates]

    def _look(self) -> None:
        r"""Reads the options, where one that the graph holds is another than when last read."""
        groups = self.optimizer.param_groups
        if len(self._seen) == len(groups) and not self._theirs:  # tensors are equal to others
            for group, seen, moving in zip(groups, self._seen, self._moving, strict=True):
                for key in moving:
                    if key in group and not isinstance(group[key], Tensor):
                        seen[key] = group[key]
            if groups == self._seen:
                return
        self._scheduled_now = [self._scheduled(group) for group in groups]
        own = {"params", "param_names"}.union(*(clip.changing for clip in self._clips))
        self._moving = [own.union(names) for names in self._scheduled_now]
        self._seen = [dict(group) for group in groups]
        self._theirs = [t for group in groups for t in _options(group)]
        self._options = tuple(
            tuple((key, _frozen(value)) for key, value in group.items() if key not in moving)
            for group, moving in zip(groups, self._moving, strict=True)
        )

    @torch.no_grad()
    def __call__(self, swap: Substitute, gradients: Mapping[Tensor, Tensor | None]) -> None:
        r"""Takes the step inside the graph.

        Arguments:
            swap: From a tensor to the one that stands for it; must know the parameters,
                :attr:`written` and :attr:`read`.
            gradients: By parameter; one without is not trained. They are clipped in place.
        """
        shadow = self._shadow(swap)
        before = self._python(shadow)
        for key, group in zip(self.optimizer.param_groups, shadow.param_groups, strict=True):
            for original, parameter in zip(key["params"], group["params"], strict=True):
                parameter.grad = gradients.get(original)
        # only torch's code for compilers takes tensors for rates
        compiling = mock.patch("torch.compiler.is_compiling", return_value=True)
        with compiling, OnlyTensors(self._name):
            for clip in self._clips:
                clip.clip(shadow.param_groups, swap)
            self._step(shadow)
        after = self._python(shadow)
        self._put_back(shadow, swap)
        self._check_same(before, after)

    def _shadow(self, swap: Substitute) -> Optimizer:
        r"""An optimiser of the same class, on the tensors that stand for parameters and state."""
        optimizer = self.optimizer
        shadow: Optimizer = object.__new__(type(optimizer))
        vars(shadow).update(vars(optimizer))
        vars(shadow).update({name: OrderedDict() for name in _HOOKS})
        shadow.param_groups = [
            {**tree_map_only(Tensor, swap, group), **_stands(group, rates, swap), **_flags(group)}
            for group, rates in zip(optimizer.param_groups, self._rates, strict=True)
        ]
        shadow.state = defaultdict(dict)
        for key, state in optimizer.state.items():
            shadow.state[swap(key)] = {
                k: _precise(k, swap(v)) if isinstance(v, Tensor) else v for k, v in state.items()
            }
        return shadow

    def _put_back(self, shadow: Optimizer, swap: Substitute) -> None:
        r"""Writes what the step put elsewhere into the state's own tensors."""
        known = {id(swap(key)): state for key, state in self.optimizer.state.items()}
        moved: list[tuple[Tensor, Tensor]] = []
        for parameter, state in shadow.state.items():
            for key, new in state.items():
                old = known.get(id(parameter), {}).get(key)
                if not isinstance(new, Tensor):
                    continue
                if not isinstance(old, Tensor) or old.shape != new.shape:
                    raise StateMissing(
                        f"expected the state of {self._name} to be there from an eager step with "
                        f"the same gradients, found no {key!r} of shape {tuple(new.shape)} for a "
                        f"parameter of shape {tuple(parameter.shape)}: take such a step first"
                    )
                if new is not swap(old):
                    moved.append((swap(old), new.clone()))  # two may have changed places
        for target, value in moved:
            target.copy_(value)

    def _python(self, shadow: Optimizer) -> dict[str, Any]:
        r"""All that a step may change and a graph cannot: what is no tensor, or only read."""
        found: dict[str, Any] = {}
        for i, (parameter, state) in enumerate(shadow.state.items()):
            for key, value in state.items():
                name = f"state {key!r} of parameter {i}, of shape {tuple(parameter.shape)}"
                found[name] = Tensor if isinstance(value, Tensor) else value
        for i, group in enumerate(shadow.param_groups):
            for key, value in group.items():
                if key != "params":
                    found[f"option {key!r} of group {i}"] = _versions(value) or value
        for key, value in vars(shadow).items():
            if key not in _OWN and key not in _HOOKS:
                seen = repr(value) if isinstance(value, dict | list | set) else value
                found[f"attribute {key!r}"] = seen
        return found

    def _check_same(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        pairs = {k: (before.get(k), after.get(k)) for k in {**before, **after}}
        changed = [k for k, (old, new) in pairs.items() if old is not new and old != new]
        if changed:
            raise Uncapturable(
                f"expected an optimiser whose step changes tensors only, got {self._name}, whose "
                f"step changes its {changed[0]}: a graph would keep what that was when it was "
                "traced; use one that keeps it in a tensor, such as torch.optim.Adam"
            )

    def _check_holdings(self) -> None:
        r"""Raises for tensors that are neither parameters nor state nor options."""
        state = [(f"state {k!r}", v) for s in self.optimizer.state.values() for k, v in s.items()]
        held = [(what, value) for what, value in state if not isinstance(value, Tensor)]
        held += [(f"attribute {k!r}", v) for k, v in vars(self.optimizer).items() if k not in _OWN]
        for what, value in held:
            if any(isinstance(leaf, Tensor | Optimizer) for leaf in tree_leaves(value)):
                raise Uncapturable(
                    "expected an optimiser whose tensors are each an entry of its state, got "
                    f"{self._name}, whose {what} holds some in a {type(value).__name__}: use one "
                    "of torch.optim, such as torch.optim.Adam"
                )

    def _own_step(self) -> Callable[[Optimizer], Any]:
        r"""The step of the optimiser's class, without what torch puts around it."""
        theirs, here = type(self.optimizer).step, self.optimizer.step
        if inspect.unwrap(getattr(here, "__func__", here)) is not inspect.unwrap(theirs):
            raise Uncapturable(
                f"expected the step of {self._name}'s class, got another on the optimiser itself: "
                "write a subclass with it"
            )
        return inspect.unwrap(theirs, stop=_foreign)

    def _own_clips(self) -> list[Clip]:
        hooks = _hooks(self.optimizer)
        if unknown := [hook for hook in hooks if not isinstance(hook, Clip)]:
            raise Uncapturable(
                f"expected {self._name} without hooks, got {unknown[0]!r}: a captured step would "
                "pass over it; remove it, or write a subclass whose step does the same"
            )
        return hooks

    def _scheduled(self, group: Mapping[str, Any]) -> list[str]:
        r"""The options of a group that may change every step."""
        names = ["lr"] if "lr" in group else []
        names += [name for clip in self._clips for name in clip.scheduled if name not in names]
        # the only ones whose code takes tensors there; a schedule that cycles them leaves its mark
        if type(self.optimizer) in (Adam, AdamW) and "base_momentum" in group:
            names.append("betas")
        return names

    def _objects(self) -> list[Any]:
        r"""Whatever this holds on to, or was built from."""
        optimizer, groups = self.optimizer, self.optimizer.param_groups
        objects = [optimizer.state, groups, *groups, *_hooks(optimizer), *optimizer.state]
        for group in groups:
            objects += group["params"]
        for state in optimizer.state.values():
            objects += state.values()
        return objects + self._theirs


def _hooks(optimizer: Optimizer) -> list[Any]:
    return [
        *torch_optimizer._global_optimizer_pre_hooks.values(),
        *optimizer._optimizer_step_pre_hooks.values(),
        *optimizer._optimizer_step_post_hooks.values(),
        *torch_optimizer._global_optimizer_post_hooks.values(),
    ]


def _numbers(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _options(group: Mapping[str, Any]) -> list[Tensor]:
    r"""The tensors among a group's options."""
    options = (v for key, v in group.items() if key != "params")
    return [t for v in options for t in _numbers(v) if isinstance(t, Tensor)]


def _tensors(optimizer: Optimizer, group: Mapping[str, Any], key: str) -> list[Tensor]:
    r"""The tensors that stand for the numbers of an option: the user's own, or new ones."""
    states = [optimizer.state.get(parameter, {}) for parameter in group["params"]]
    # a rate meets the counts, which torch may keep on the CPU, before it meets parameters
    counts = [v for s in states for k, v in s.items() if k in _COUNTS and isinstance(v, Tensor)]
    device = (*counts, *group["params"])[0].device
    dtype = torch.float32 if device.type == "mps" else torch.float64  # which has no float64
    return [
        v if isinstance(v, Tensor) else torch.tensor(v, dtype=dtype, device=device)
        for v in _numbers(group[key])
    ]


def _stands(
    group: Mapping[str, Any], rates: Mapping[str, list[Tensor]], swap: Substitute
) -> dict[str, Any]:
    swapped = {key: tuple(map(swap, tensors)) for key, tensors in rates.items()}
    return {k: v if isinstance(group[k], tuple) else v[0] for k, v in swapped.items()}


def _flags(group: Mapping[str, Any]) -> dict[str, Any]:
    r"""Has torch take its code for compilers, which is that for lists of tensors."""
    flags = {"foreach": True, "capturable": True, "fused": None}
    return {key: value for key, value in flags.items() if key in group}


def _precise(key: str, tensor: Tensor) -> Tensor:
    r"""A count in float64: in float32, :math:`1 - \beta^t` has four digits at first."""
    wide = key in _COUNTS and tensor.is_floating_point() and tensor.device.type != "mps"
    return tensor.to(torch.float64) if wide else tensor


def _versions(value: Any) -> list[tuple[int, int]]:
    r"""What changes if a tensor does: one written in place stays the same object."""
    return [(id(leaf), leaf._version) for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _foreign(function: Any) -> bool:
    r"""Whether a function that wraps another is not torch's."""
    return not getattr(function, "__globals__", {}).get("__name__", "").startswith("torch.")


def _frozen(value: Any) -> Hashable:
    r"""Something to compare an option by: its value, or for tensors nothing."""
    if isinstance(value, Tensor):
        return None
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple((k, _frozen(v)) for k, v in value.items())
    return value if isinstance(value, Hashable) else repr(value)
