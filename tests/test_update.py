r"""An optimiser's step inside a graph equals its eager step."""

import warnings
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pyro.optim
import pyro.optim.clipped_adam
import pytest
import torch
from quadratic import Problem, assert_captured, scaled
from torch.optim import Optimizer

from pyro_vae.update import Update

pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler's own


def groups(first: dict[str, Any], second: dict[str, Any]) -> Callable[[Any], list[Any]]:
    return lambda named: [{"params": named[:1], **first}, {"params": named[1:], **second}]


def grouped(kind: Any, first: dict[str, Any], second: dict[str, Any]) -> Any:
    return lambda named: kind(groups(first, second)(named), lr=0.1)


def by_parameter(module: str, parameter: str) -> dict[str, float]:
    return {"clip_norm": 0.2} if parameter == "p0" else {"clip_value": 0.1, "clip_norm": 3.0}


MATRICES = ((3, 4), (4, 3))  # the only parameters that Muon takes
o, p = torch.optim, pyro.optim
CLIPPED = {"lr": 0.1, "lrd": 0.9, "clip_norm": 0.3, "weight_decay": 0.1}
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "Adadelta": lambda: partial(o.Adadelta, lr=1.0, weight_decay=0.1),
    "Adagrad": lambda: partial(o.Adagrad, lr=0.1, lr_decay=0.1, weight_decay=0.1),
    "Adagrad, begun": lambda: partial(o.Adagrad, initial_accumulator_value=0.3, maximize=True),
    "Adam": lambda: partial(o.Adam, lr=0.1),
    "Adam, amsgrad": lambda: partial(o.Adam, amsgrad=True, weight_decay=0.1, maximize=True),
    "Adam, foreach": lambda: partial(o.Adam, lr=0.1, foreach=True),
    "Adam, one by one": lambda: partial(o.Adam, lr=0.1, foreach=False),
    "Adam, groups": lambda: grouped(
        o.Adam, {"betas": (0.5, 0.9)}, {"amsgrad": True, "weight_decay": 0.1, "lr": 0.3}
    ),
    "AdamW": lambda: partial(o.AdamW, lr=0.1, weight_decay=0.3),
    "Adamax": lambda: partial(o.Adamax, lr=0.1, weight_decay=0.1),
    "ASGD": lambda: partial(o.ASGD, lr=0.1, t0=4, weight_decay=0.1),
    "NAdam": lambda: partial(o.NAdam, lr=0.1, weight_decay=0.1),
    "NAdam, decoupled": lambda: partial(
        o.NAdam, lr=0.1, weight_decay=0.1, decoupled_weight_decay=True
    ),
    "RAdam": lambda: partial(o.RAdam, lr=0.1, weight_decay=0.1),  # rectified from step 6 on
    "RMSprop": lambda: partial(o.RMSprop, lr=0.1),
    "RMSprop, centered": lambda: partial(
        o.RMSprop, lr=0.1, centered=True, momentum=0.9, weight_decay=0.1
    ),
    "Rprop": lambda: partial(o.Rprop, lr=0.1),
    "SGD": lambda: partial(o.SGD, lr=0.1, maximize=True),
    "SGD, momentum": lambda: partial(o.SGD, lr=0.1, momentum=0.9, dampening=0.1),
    "SGD, Nesterov": lambda: partial(o.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "SGD, groups": lambda: grouped(o.SGD, {"momentum": 0.9}, {"weight_decay": 0.1, "lr": 0.3}),
    "ClippedAdam": lambda: p.ClippedAdam(dict(CLIPPED)),
    "Pyro's, clipped": lambda: p.SGD({"lr": 0.1}, {"clip_norm": 0.3, "clip_value": 0.1}),
    "Pyro's, by parameter": lambda: p.Adam({"lr": 0.1}, by_parameter),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_captured_equals_eager_in_one_graph(name: str) -> None:
    assert assert_captured(OPTIMIZERS[name]).graphs == 1


COMPILED = ("Adam", "SGD, momentum", "ClippedAdam")


@pytest.mark.parametrize("name", COMPILED)
def test_so_it_does_through_the_compiler(name: str) -> None:
    assert assert_captured(OPTIMIZERS[name], backend="inductor").graphs == 1


def test_every_optimiser_of_torch_is_tried() -> None:
    tried = {name.partition(",")[0] for name in OPTIMIZERS} | {"Muon"}
    tried.add("Adafactor")  # which cannot be captured: see test_uncapturable.py
    refused = {"LBFGS", "SparseAdam", "Optimizer"}  # by make_optimizer
    kinds = (k for k in vars(o).values() if isinstance(k, type) and issubclass(k, Optimizer))
    assert {k.__name__ for k in kinds} <= tried | refused


def cycled(optimizer: Optimizer, i: int) -> None:
    r"""As ``OneCycleLR`` does: rates and the first of Adam's betas, with its mark."""
    scaled(optimizer, i)
    for group in optimizer.param_groups:
        group["base_momentum"] = 0.8
        group["betas"] = (0.9 - 0.01 * i, *group["betas"][1:])


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", ["Adam, amsgrad", "AdamW", "ClippedAdam"])
def test_adams_betas_may_change_every_step(name: str, backend: str) -> None:
    assert assert_captured(OPTIMIZERS[name], cycled, backend=backend).graphs == 1


def cycled_momentum(optimizer: Optimizer, i: int) -> None:
    scaled(optimizer, i)
    optimizer.param_groups[0]["momentum"] = 0.9 - 0.1 * (i // 4)


def test_another_option_that_changes_makes_another_graph() -> None:
    assert assert_captured(OPTIMIZERS["SGD, momentum"], cycled_momentum).graphs == 2


def test_rates_of_the_users_own_may_be_tensors() -> None:
    def make() -> Any:
        rate, betas = torch.tensor(0.1), (torch.tensor(0.9), torch.tensor(0.99))
        return partial(o.Adam, lr=rate, betas=betas, foreach=False)

    def schedule(optimizer: Optimizer, i: int) -> None:
        optimizer.param_groups[0]["lr"].fill_(0.1 / (1 + i))

    assert assert_captured(make, schedule).graphs == 1


def test_muon_is_the_same_step_but_for_bfloat16() -> None:
    ours, theirs = (Problem(partial(o.Muon, lr=0.1), MATRICES) for _ in range(2))
    for problem in (ours, theirs):
        problem.eager(torch.tensor(1.0))
    update = Update(ours.optimizer)
    for i in range(3):
        scaled(ours.optimizer, i), scaled(theirs.optimizer, i)
        theirs.eager(torch.tensor(1.0))
        update.refresh()
        update(lambda t: t, ours.gradients(torch.tensor(1.0)))  # not compiled
    ours.assert_equals(theirs)
    # a graph rounds elsewhere: to 2⁻⁸ of a matrix with entries up to 1, times rate and steps
    assert_captured(lambda: partial(o.Muon, lr=0.1), shapes=MATRICES, tolerance=0.1 * 6 / 2**8)


def test_counts_in_float32_lose_no_digits() -> None:
    torch.set_default_dtype(torch.float32)  # then torch counts in it

    def doubled(named: Any) -> Optimizer:
        return o.Adam([q for _, q in named], lr=0.1, weight_decay=0.1)

    problems = [Problem(doubled) for _ in range(2)]
    for problem in problems:
        for tensor in (*problem.parameters, *problem.targets):
            tensor.data = tensor.data.double()
    ours, theirs = problems
    for i in range(8):
        theirs.eager(torch.tensor(1.0))
        (ours.eager if i == 0 else ours.captured)(torch.tensor(1.0))
    assert {s["step"].dtype for s in ours.optimizer.state.values()} == {torch.float32}
    ours.assert_equals(theirs)


def test_parameters_of_float32_are_trained_as_eagerly() -> None:
    torch.set_default_dtype(torch.float32)
    for name in ("Adam", "NAdam", "RAdam", "Adagrad", "ClippedAdam"):
        assert_captured(OPTIMIZERS[name], tolerance=1e-5)


class Replacing(o.Optimizer):
    r"""Puts new tensors into its state in place of the old, and has two change places."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for q in (q for q in group["params"] if q.grad is not None):
                state = self.state[q]
                state["now"] = state.get("now", torch.zeros_like(q)) + q.grad
                state["a"], state["b"] = state.get("b", q.clone()), state.get("a", q.grad.clone())
                q.add_(state["now"] + state["a"], alpha=-group["lr"])


class Twice(o.Adam):
    r"""Does something of its own around another's step."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for q in self.param_groups[0]["params"]:
            if q.grad is not None:
                q.grad.sign_()
        super().step()


def signed(step: Any) -> Any:
    r"""Wraps a step as libraries do that change gradients."""

    @wraps(step)
    def wrapped(self: Optimizer, closure: Any = None) -> Any:
        for q in self.param_groups[0]["params"]:
            if q.grad is not None:
                q.grad.sign_()
        return step(self)

    return wrapped


class Wrapped(o.SGD):
    r"""Its step is not the innermost one."""

    @signed
    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for q in self.param_groups[0]["params"]:
            if q.grad is not None:
                q.sub_(q.grad * self.param_groups[0]["lr"])


@pytest.mark.parametrize("kind", [Replacing, Twice, Wrapped])
def test_optimisers_of_others_are_captured_where_they_are_tensor_code(kind: Any) -> None:
    assert assert_captured(lambda: kind).graphs == 1


def test_loading_goes_on_from_what_was_loaded() -> None:
    for make in (OPTIMIZERS["Adam"], OPTIMIZERS["ClippedAdam"]):
        ours, theirs = Problem(make()), Problem(make())
        for i in range(8):
            theirs.eager(torch.tensor(1.0))
            if i == 4:
                again = Problem(make())
                for new, old in zip(again.parameters, ours.parameters, strict=True):
                    new.data.copy_(old.data)
                again.optimizer.load_state_dict(ours.optimizer.state_dict())
                ours = again
            (ours.eager if i < 1 else ours.captured)(torch.tensor(1.0))
        ours.assert_equals(theirs)


S = torch.optim.lr_scheduler
SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "ExponentialLR": lambda a: S.ExponentialLR(a, 0.8),
    "OneCycleLR": lambda a: S.OneCycleLR(a, 0.5, total_steps=12),
    "CyclicLR": lambda a: S.CyclicLR(a, 0.01, 0.3, step_size_up=3),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_of_torch_make_one_graph(name: str) -> None:
    ours, theirs = Problem(OPTIMIZERS["Adam"]()), Problem(OPTIMIZERS["Adam"]())
    ours.eager(torch.tensor(1.0))
    theirs.eager(torch.tensor(1.0))
    schedules = [SCHEDULES[name](problem.optimizer) for problem in (ours, theirs)]
    for _ in range(8):
        theirs.eager(torch.tensor(1.0))
        ours.captured(torch.tensor(1.0))
        with warnings.catch_warnings():  # torch's, where it saw no step before its own
            warnings.simplefilter("error")
            for schedule in schedules:
                schedule.step()
    ours.assert_equals(theirs)
    assert ours.graphs == 1


@pytest.mark.parametrize("kind", [o.SGD, pyro.optim.clipped_adam.ClippedAdam])
def test_schedules_of_pyro_make_one_graph(kind: Any) -> None:
    def optim() -> pyro.optim.PyroLRScheduler:
        clips = {"clip_norm": 0.5}
        return p.ExponentialLR({"optimizer": kind, "optim_args": {"lr": 0.2}, "gamma": 0.8}, clips)

    optims = [optim(), optim()]
    ours, theirs = (Problem(optim) for optim in optims)
    for i in range(6):
        theirs.eager(torch.tensor(1.0))
        (ours.eager if i < 1 else ours.captured)(torch.tensor(1.0))
        for each in optims:
            each.step()
    ours.assert_equals(theirs)
    assert ours.graphs == 1
    assert ours.optimizer.param_groups[0]["lr"] == pytest.approx(0.2 * 0.8**6)
