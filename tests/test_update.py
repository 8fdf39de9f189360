r"""An optimiser's step inside a graph equals its eager step."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyro.optim
import pyro.optim.clipped_adam
import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.graph import Graph, Substitute
from pyro_vae.optimizers import make_optimizer
from pyro_vae.uncapturable import Uncapturable
from pyro_vae.update import Update

pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler's own
SHAPES = ((3, 4), (5,), (), (2,))
MATRICES = ((3, 4), (4, 3))  # the only parameters that Muon takes


class Problem:
    r"""Quadratic: the gradient of ½ c |p − t|²; the last of four parameters never has one."""

    def __init__(self, optim: Any, shapes: Sequence[tuple[int, ...]] = SHAPES) -> None:
        generator = torch.Generator().manual_seed(0)
        draws = [torch.randn(2, *shape, generator=generator) for shape in shapes]
        self.parameters = [draw[0].clone().requires_grad_() for draw in draws]
        self.targets = [draw[1].clone() for draw in draws]
        self.used = self.parameters[:3]
        names = [f"model.p{i}" for i in range(len(shapes))]
        self.optimizer = make_optimizer(optim, list(zip(names, self.parameters, strict=True)))
        self.update: Update | None = None
        self.graph: Graph | None = None
        self.graphs = 0

    def gradients(self, c: Tensor, swap: Substitute = lambda t: t) -> dict[Tensor, Tensor]:
        pairs = zip(self.used, self.targets, strict=False)
        return {p: c * (swap(p).detach() - swap(t)) for p, t in pairs}

    def eager(self, c: Tensor) -> None:
        for p, gradient in self.gradients(c).items():
            p.grad = gradient
        self.optimizer.step()

    def captured(self, c: Tensor, **options: Any) -> None:
        if self.update is None or self.update.stale():
            self.update, self.graph = Update(self.optimizer), None
        self.update.refresh()
        if self.graph is None or self.update.options != self.valid_for:
            self.graph, self.valid_for = self.compiled(self.update, **options), self.update.options
        self.graph(c)

    def compiled(self, update: Update, **options: Any) -> Graph:
        def step(swap: Substitute, c: Tensor) -> Tensor:
            gradients = self.gradients(c, swap)
            update(swap, gradients)
            return c

        self.graphs += 1
        free = [*self.parameters, *self.targets, *update.written, *update.read]
        written = [*self.parameters, *update.written]
        return Graph(step, free, written, **{"backend": "aot_eager", **options})

    def tensors(self) -> Iterator[Tensor]:
        yield from (p.detach() for p in self.parameters)
        for state in self.optimizer.state_dict()["state"].values():
            yield from (v for v in state.values() if isinstance(v, Tensor))

    def assert_equals(self, other: "Problem", tolerance: float = 1e-12) -> None:
        for ours, theirs in zip(self.tensors(), other.tensors(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
        for ours, theirs in zip(
            self.optimizer.param_groups, other.optimizer.param_groups, strict=True
        ):
            assert {**ours, "params": 0} == {**theirs, "params": 0}


def scaled(optimizer: Optimizer, i: int) -> None:
    r"""A schedule that changes every group's rate in every step."""
    for group in optimizer.param_groups:
        group.setdefault("first", group["lr"])
        group["lr"] = group["first"] * (1 + i % 3) / (1 + i)


def assert_captured(
    make: Callable[[], Any],
    schedule: Callable[[Optimizer, int], None] = scaled,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    tolerance: float = 1e-12,
    **options: Any,
) -> Problem:
    r"""Two eager steps and six captured ones do what eight eager ones do, with one graph."""
    theirs, ours = Problem(make(), shapes), Problem(make(), shapes)
    begin = [p.detach().clone() for p in ours.parameters]
    for i in range(8):
        c = torch.tensor(1.0 + i % 2)
        for problem in (theirs, ours):
            schedule(problem.optimizer, i)
        theirs.eager(c)
        ours.eager(c) if i < 2 else ours.captured(c, **options)
    ours.assert_equals(theirs, tolerance)
    moved = [not torch.equal(a, b) for a, b in zip(begin, ours.parameters, strict=True)]
    assert moved == [True, True, True, False][: len(shapes)]
    return ours


def groups(first: dict[str, Any], second: dict[str, Any]) -> Callable[[Any], list[Any]]:
    return lambda named: [{"params": named[:1], **first}, {"params": named[1:], **second}]


def grouped(kind: Any, first: dict[str, Any], second: dict[str, Any]) -> Any:
    return lambda named: kind(groups(first, second)(named), lr=0.1)


def by_parameter(module: str, parameter: str) -> dict[str, float]:
    return {"clip_norm": 0.2} if parameter == "p0" else {"clip_value": 0.1, "clip_norm": 3.0}


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
    tried = {name.partition(",")[0] for name in (*OPTIMIZERS, *UNCAPTURABLE)} | {"Muon"}
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


class Counting(o.SGD):
    r"""As optimisers outside torch do: counts in Python."""

    def __init__(self, params: Any, where: str) -> None:
        super().__init__(params, lr=0.1)
        self.where, self.count, self.seen = where, 0, [0]
        self.param_groups[0]["steps"] = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        group = self.param_groups[0]
        for q in group["params"]:
            if q.grad is not None:
                q.sub_(q.grad * group["lr"])
                if self.where == "state":
                    self.state[q]["step"] = self.state[q].get("step", 0) + 1
                if self.where == "moved":
                    self.state[q]["old"] = [q.clone()]
        if self.where == "attribute":
            self.count += 1
        if self.where == "list":
            self.seen.append(1)
        if self.where == "option":
            group["steps"] += 1
        if self.where == "rate":
            group["lr"] *= 0.9
        if self.where == "branch" and group["params"][0].grad.sum() > 0:
            group["params"][0].zero_()


class Lookahead(Counting):
    def __init__(self, params: Any) -> None:
        super().__init__(params, "")
        self.inner = o.SGD(self.param_groups[0]["params"], lr=0.1)


UNCAPTURABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "Adafactor": (lambda: o.Adafactor, r"got that of Adafactor, which calls Tensor.item at .*\.py"),
    "centered": (
        lambda: p.ClippedAdam({"lr": 0.1, "centered_variance": True}),
        r"got ClippedAdam, whose step changes its state 'step' of parameter 0, of shape \(3, 4\)",
    ),
    "AdagradRMSProp": (lambda: p.AdagradRMSProp({}), "changes its state 'step'"),
    "DCTAdam": (lambda: p.DCTAdam({"lr": 0.1}), "changes its state 'step'"),
    "state": (lambda: partial(Counting, where="state"), "changes its state 'step'"),
    "attribute": (lambda: partial(Counting, where="attribute"), "changes its attribute 'count'"),
    "list": (lambda: partial(Counting, where="list"), "changes its attribute 'seen'"),
    "option": (lambda: partial(Counting, where="option"), "changes its option 'steps' of group 0"),
    "rate": (lambda: partial(Counting, where="rate"), "changes its option 'lr' of group 0"),
    "branch": (lambda: partial(Counting, where="branch"), r"calls Tensor.__bool__ at .*test_upd"),
    "moved": (lambda: partial(Counting, where="moved"), "state 'old' holds some in a list"),
    "inner": (lambda: Lookahead, "attribute 'inner' holds some in a SGD"),
}


def causes(error: BaseException | None) -> str:
    r"""The compiler wraps what is raised while it traces."""
    while error is not None and not isinstance(error, Uncapturable):
        error = error.__cause__ or error.__context__
    return str(error)


@pytest.mark.parametrize("name", UNCAPTURABLE)
def test_what_cannot_be_captured_says_why(name: str) -> None:
    make, match = UNCAPTURABLE[name]
    problem = Problem(make())
    problem.eager(torch.tensor(1.0))
    with pytest.raises(Exception) as raised:  # noqa: PT011, the compiler's own
        problem.captured(torch.tensor(1.0))
    assert re.search(match, causes(raised.value)), causes(raised.value)


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


@pytest.mark.parametrize("kind", [Replacing, Twice])
def test_optimisers_of_others_are_captured_where_they_are_tensor_code(kind: Any) -> None:
    assert assert_captured(lambda: kind).graphs == 1


def begun(optim: Any) -> tuple[Problem, Update]:
    problem = Problem(optim)
    problem.eager(torch.tensor(1.0))
    return problem, Update(problem.optimizer)


def test_hooks_of_others_are_named() -> None:
    def mine(*_: Any) -> None: ...

    registers = [
        lambda optimizer: optimizer.register_step_pre_hook(mine),
        lambda optimizer: optimizer.register_step_post_hook(mine),
        lambda _: torch.optim.optimizer.register_optimizer_step_pre_hook(mine),
        lambda _: torch.optim.optimizer.register_optimizer_step_post_hook(mine),
    ]
    for register in registers:
        problem, update = begun(o.SGD)
        handle = register(problem.optimizer)
        assert update.stale()
        with pytest.raises(Uncapturable, match=r"expected SGD without hooks, got <.*mine"):
            Update(problem.optimizer)
        handle.remove()
        assert not update.stale()


def test_a_step_on_the_optimiser_itself_is_refused() -> None:
    problem, _ = begun(o.SGD)
    problem.optimizer.step = lambda closure=None: None
    with pytest.raises(Uncapturable, match="expected the step of SGD's class"):
        Update(problem.optimizer)


def test_a_gradient_without_state_asks_for_an_eager_step() -> None:
    problem, update = begun(o.Adam)
    problem.used = problem.parameters
    with pytest.raises(Uncapturable, match=r"found no 'step' of shape \(\) .* shape \(2,\): take"):
        update(lambda t: t.detach().clone().requires_grad_(), problem.gradients(torch.tensor(1.0)))


def test_it_is_stale_where_tensors_were_replaced() -> None:
    changes: dict[str, Callable[[Optimizer], Any]] = {
        "loaded": lambda a: a.load_state_dict(a.state_dict()),
        "joined": lambda a: a.add_param_group(
            {"params": [("p", torch.ones(1, requires_grad=True))]}
        ),
        "left": lambda a: a.param_groups[0]["params"].pop(),
        "state": lambda a: a.state[a.param_groups[0]["params"][0]].update(step=torch.tensor(3.0)),
        "forgotten": lambda a: a.state.clear(),
        "rate": lambda a: a.param_groups[0].update(lr=torch.tensor(0.1)),
        "cycle": lambda a: a.param_groups[0].update(base_momentum=0.8),
    }
    for name, change in changes.items():
        problem, update = begun(o.Adam)
        problem.eager(torch.tensor(1.0))
        assert not update.stale(), name
        change(problem.optimizer)
        assert update.stale(), name


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


def test_rates_are_written_only_where_they_changed() -> None:
    problem, update = begun(OPTIMIZERS["Adam, groups"]())
    update.refresh()
    versions = [t._version for t in update.read]
    problem.optimizer.param_groups[1]["lr"] = 0.7
    update.refresh()
    update.refresh()
    assert [t._version - v for t, v in zip(update.read, versions, strict=True)] == [0, 1]
    assert [t.item() for t in update.read] == [0.1, 0.7]


S = torch.optim.lr_scheduler
SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "ExponentialLR": lambda a: S.ExponentialLR(a, 0.8),
    "OneCycleLR": lambda a: S.OneCycleLR(a, 0.5, total_steps=12),
    "CyclicLR": lambda a: S.CyclicLR(a, 0.01, 0.3, step_size_up=3),
}


@pytest.mark.filterwarnings("error:.*lr_scheduler:UserWarning")
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_of_torch_make_one_graph(name: str) -> None:
    ours, theirs = Problem(OPTIMIZERS["Adam"]()), Problem(OPTIMIZERS["Adam"]())
    ours.eager(torch.tensor(1.0))
    theirs.eager(torch.tensor(1.0))
    schedules = [SCHEDULES[name](problem.optimizer) for problem in (ours, theirs)]
    for _ in range(8):
        theirs.eager(torch.tensor(1.0))
        ours.captured(torch.tensor(1.0))
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
