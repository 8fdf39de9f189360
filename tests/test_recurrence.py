r"""A recurrence in a graph: states, gradients and noise of the loop, few steps compiled."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_vae import recurrence
from pyro_vae.graph import Graph
from pyro_vae.recurrence import recur
from pyro_vae.uncapturable import Uncapturable

N, D, U = 3, 2, 4


@pytest.fixture
def regions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    r"""The sizes of the regions that graphs call."""
    found: list[int] = []
    call = recurrence._Region.__call__

    def counted(self: Any, state: Any, inputs: Any, calls: int) -> Any:
        found.extend([self.size] * calls)
        return call(self, state, inputs, calls)

    monkeypatch.setattr(recurrence._Region, "__call__", counted)
    monkeypatch.setattr(recurrence, "_REGIONS", True)
    return found


def both(function: Callable[..., list[Tensor]], free: list[Tensor], *args: Tensor) -> None:
    r"""Runs a function as a graph and as it is, on the same noise, twice; compares the results."""
    graph = Graph(lambda swap, *a: function(*a), free, backend="aot_eager")
    for seed in range(2):
        torch.manual_seed(seed)
        expected = function(*args)
        torch.manual_seed(seed)
        torch.testing.assert_close(graph(*args), expected, rtol=1e-11, atol=1e-12)


def with_gradients(
    step: Callable[..., Tensor], leaves: list[Tensor], steps: int
) -> Callable[[Tensor, Tensor], list[Tensor]]:
    def function(z: Tensor, u: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            states = recur(step, z, [u], steps)
            weights = torch.linspace(-1, 1, states.numel()).view_as(states)
            return [states, *torch.autograd.grad((states * weights).sum(), leaves)]

    return function


@pytest.mark.parametrize("steps, count", [(5, 0), (13, 2)])
def test_states_and_gradients_are_those_of_the_loop(
    regions: list[int], steps: int, count: int
) -> None:
    net, scale = nn.Linear(D + U, D), torch.tensor(0.3, requires_grad=True)
    shift = torch.randn(D)  # a constant

    def step(z: Tensor, u: Tensor) -> Tensor:
        loc = torch.tanh(net(torch.cat([z, u], -1))) + shift
        return dist.Normal(loc, scale.exp()).rsample()

    leaves = [*net.parameters(), scale]
    function = with_gradients(step, leaves, steps)
    both(function, [*leaves, shift], torch.randn(N, 1, D), torch.randn(N, steps, U))
    assert len(regions) == 3 * count  # the compiler traces three times


def test_two_recurrences_with_the_same_step_keep_apart(regions: list[int]) -> None:
    weight = torch.randn(D, D, requires_grad=True)

    def function(z: Tensor, u: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            first = recur(lambda z, u: torch.tanh(z @ weight + u), z, [u], 8)
            second = recur(lambda z, u: torch.sin(z @ weight.mT - u), first[..., -1:, :], [u], 8)
            total = first.sum() + second.square().sum()
            return [first, second, *torch.autograd.grad(total, [weight])]

    both(function, [weight], torch.randn(N, 1, D), torch.randn(N, 8, D))
    assert regions


def test_gradients_of_steps_that_have_none(regions: list[int]) -> None:
    weight, unused = torch.randn(D, D, requires_grad=True), torch.randn(D, requires_grad=True)

    def function(z: Tensor, u: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            z, u = z.requires_grad_(), u.requires_grad_()
            states = recur(lambda z, u: (z + unused).round() + u @ weight, z, [u], 9)
            weights = torch.linspace(-1, 1, states.numel()).view_as(states)
            total = (states * weights).sum() + (unused * z).sum()
            return [states, *torch.autograd.grad(total, [z, u, weight, unused])]

    both(function, [weight, unused], torch.randn(N, 1, D), torch.randn(N, 9, D))
    assert regions


def test_what_cannot_be_drawn_outside_is_unrolled(regions: list[int]) -> None:
    weight = torch.randn(D, D, requires_grad=True)

    def step(z: Tensor, u: Tensor) -> Tensor:
        return torch.nn.functional.dropout(z @ weight, 0.5) + u

    both(with_gradients(step, [weight], 8), [weight], torch.randn(N, 1, D), torch.randn(N, 8, D))
    assert not regions


def test_a_step_that_writes_is_unrolled(regions: list[int]) -> None:
    weight, seen = torch.randn(D, D, requires_grad=True), torch.zeros(())

    def step(z: Tensor, u: Tensor) -> Tensor:
        seen.add_(1)
        return torch.tanh(z @ weight) + u

    function = with_gradients(step, [weight], 8)
    graph = Graph(lambda swap, *a: function(*a), [weight, seen], backend="aot_eager")
    graph(torch.randn(N, 1, D), torch.randn(N, 8, D))
    assert seen.item() == 8
    assert not regions


def test_a_step_that_writes_by_an_argument_is_unrolled(regions: list[int]) -> None:
    weight, seen = torch.randn(D, D), torch.zeros(N, 1, D)

    def function(z: Tensor) -> list[Tensor]:
        states = recur(lambda z: torch.add(z @ weight, seen, out=seen).tanh(), z, [], 8)
        inside = recur(lambda z: nn.functional.relu(z.mT, inplace=True).mT @ weight, z, [], 8)
        return [states, inside]

    z = torch.randn(N, 1, D)
    graph = Graph(lambda swap, *a: function(*a), [weight, seen], backend="aot_eager")
    expected = [*function(z.clone()), seen.clone()]
    seen.zero_()
    torch.testing.assert_close([*graph(z.clone()), seen], expected)
    assert not regions


def test_a_step_that_differentiates_is_unrolled(regions: list[int]) -> None:
    weight = torch.randn(D, D, requires_grad=True)

    def step(z: Tensor, u: Tensor) -> Tensor:  # down an energy
        with torch.enable_grad():
            y = z * 1 + 0 * weight.sum()
            (slope,) = torch.autograd.grad((y @ weight).square().sum(), [y])
        return z - 0.01 * slope.detach() + u @ weight

    both(with_gradients(step, [weight], 8), [weight], torch.randn(N, 1, D), torch.randn(N, 8, D))
    assert not regions


def test_a_recurrence_in_a_step_is_a_loop(regions: list[int]) -> None:
    weight = torch.randn(D, D)

    def step(z: Tensor) -> Tensor:
        return recur(lambda z: torch.tanh(z @ weight), z, [], 8)[..., -1:, :]

    both(lambda z: [recur(step, z, [], 8)], [weight], torch.randn(N, 1, D))
    assert set(regions) == {4}


def test_gradients_of_gradients_are_refused(regions: list[int]) -> None:
    weight = torch.randn(D, D, requires_grad=True)

    def function(z: Tensor) -> Tensor:
        with torch.enable_grad():
            states = recur(lambda z: torch.tanh(z @ weight), z, [], 9)  # one is left over
            (slope,) = torch.autograd.grad(states.sum(), [weight], create_graph=True)
            return torch.autograd.grad(slope.square().sum(), [weight])[0]

    graph = Graph(lambda swap, z: function(z), [weight], backend="aot_eager")
    with pytest.raises(Uncapturable):
        graph(torch.randn(N, 1, D))
    assert regions


def test_without_gradients(regions: list[int]) -> None:
    weight = torch.randn(D, D)

    def function(z: Tensor) -> list[Tensor]:
        return [recur(lambda z: dist.Normal(z @ weight, 0.1).rsample(), z, [], 9)]

    both(function, [weight], torch.randn(N, 1, D))
    assert regions


def test_a_program_that_is_compiled_by_others_is_a_loop(regions: list[int]) -> None:
    weight = torch.randn(D, D)
    run = torch.compile(
        lambda z: recur(lambda z: torch.tanh(z @ weight), z, [], 8), backend="aot_eager"
    )
    z = torch.randn(N, 1, D)
    torch.testing.assert_close(run(z), recur(lambda z: torch.tanh(z @ weight), z, [], 8))
    assert not regions


def test_a_state_that_becomes_another_is_unrolled(regions: list[int]) -> None:
    weight = torch.randn(D, D, requires_grad=True)

    def function(z: Tensor, u: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            states = recur(lambda z, u: torch.tanh(z.double() @ weight + u), z, [u], 9)
            return [states, *torch.autograd.grad(states.square().sum(), [weight])]

    both(function, [weight], torch.randn(1, D), torch.randn(N, 9, D))  # in shape
    both(function, [weight], torch.randn(N, 1, D).float(), torch.randn(N, 9, D))  # in precision
    assert not regions


@pytest.mark.parametrize(
    "state, inputs, steps, match",
    [
        ((3, D), (3, 4, U), 4, r"state with shape \(\*, 1, D\), got \(3, 2\)"),
        ((D,), (4, U), 4, r"state with shape \(\*, 1, D\), got \(2,\)"),
        ((3, 1, D), (3, 5, U), 4, r"inputs with shape \(\*, 4, I\), got \(3, 5, 4\)"),
        ((3, 1, D), (4,), 4, r"inputs with shape \(\*, 4, I\), got \(4,\)"),
        ((3, 1, D), (3, 0, U), 0, "steps of at least 1, got 0"),
    ],
)
def test_errors(state: tuple[int, ...], inputs: tuple[int, ...], steps: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        recur(lambda z, u: z, torch.zeros(state), [torch.zeros(inputs)], steps)
