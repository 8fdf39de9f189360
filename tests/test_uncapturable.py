r"""What no graph can hold is refused, and what a graph was built for is watched."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro.optim
import pytest
import torch
from quadratic import Problem
from torch import optim as o
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from pyro_vae.uncapturable import Uncapturable
from pyro_vae.update import Update

p = pyro.optim
pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler's own


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
    "branch": (lambda: partial(Counting, where="branch"), r"calls Tensor.__bool__ at .*test_uncap"),
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


def begun(optim: Any) -> tuple[Problem, Update]:
    problem = Problem(optim)
    problem.eager(torch.tensor(1.0))
    return problem, Update(problem.optimizer)


def test_hooks_of_others_are_named() -> None:
    def mine(*_: Any) -> None: ...

    registers = [
        lambda optimizer: optimizer.register_step_pre_hook(mine),
        lambda optimizer: optimizer.register_step_post_hook(mine),
        lambda _: register_optimizer_step_pre_hook(mine),
        lambda _: register_optimizer_step_post_hook(mine),
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


def test_options_are_compared_by_value_and_group() -> None:
    problem, update = begun(two_groups)
    first, second = problem.optimizer.param_groups
    before = update.options
    first["lr"], second["lr"] = 0.5, 0.6
    assert update.options == before
    second["betas"] = (0.5, 0.6)
    changed = update.options
    assert changed != before
    first["betas"] = (0.5, 0.6)
    assert update.options not in (before, changed)
    first["betas"] = second["betas"] = (0.9, 0.999)
    assert update.options == before
    assert not update.stale()


def test_a_gradient_without_state_asks_for_an_eager_step() -> None:
    problem, update = begun(o.Adam)
    problem.used = problem.parameters
    with pytest.raises(Uncapturable, match=r"found no 'step' of shape \(\) .* shape \(2,\): take"):
        update(lambda t: t, problem.gradients(torch.tensor(1.0)))


def test_it_is_stale_where_tensors_were_replaced() -> None:
    more = [("p", torch.ones(1, requires_grad=True))]
    changes: dict[str, Callable[[Optimizer], Any]] = {
        "loaded": lambda a: a.load_state_dict(a.state_dict()),
        "joined": lambda a: a.add_param_group({"params": more}),
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


def two_groups(named: Any) -> Optimizer:
    return o.Adam([{"params": named[:1]}, {"params": named[1:], "lr": 0.3}], lr=0.1)


def test_rates_are_written_only_where_they_changed() -> None:
    problem, update = begun(two_groups)
    update.refresh()
    versions = [t._version for t in update.read]
    problem.optimizer.param_groups[1]["lr"] = 0.7
    update.refresh()
    update.refresh()
    assert [t._version - v for t, v in zip(update.read, versions, strict=True)] == [0, 1]
    assert [t.item() for t in update.read] == [0.1, 0.7]
