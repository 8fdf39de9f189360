r"""A problem whose gradients are known, and steps on it, eager and captured."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.arguments import Substitute
from pyro_vae.graph import Graph
from pyro_vae.optimizers import make_optimizer
from pyro_vae.update import Update

SHAPES = ((3, 4), (5,), (), (2,))


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
        return Graph(step, free, **{"backend": "aot_eager", **options})

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
