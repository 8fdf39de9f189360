r"""Pyro's ClippedAdam as torch's Adam: the same numbers."""

from typing import Any

import pyro.optim
import pytest
import torch
from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor
from torch.optim import Adam

from pyro_vae.optimizers import follow, make_optimizer

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "clipped": {"clip_norm": 0.1, "lr": 0.1},
    "decayed": {"lrd": 0.9, "lr": 0.1, "betas": (0.5, 0.9)},
    "weight decay": {"weight_decay": 0.5, "clip_norm": 0.3, "lr": 0.1},
    "great epsilon": {"eps": 0.1, "lr": 0.1},
}


def gradient(parameter: Tensor, i: int) -> Tensor:
    generator = torch.Generator().manual_seed(i)
    return parameter.detach() + torch.randn(parameter.shape, generator=generator)


def parameters() -> list[Tensor]:
    return [torch.full((3,), v, requires_grad=True) for v in (1.0, -2.0)]


def step(optimizer: Any, held: list[Tensor], i: int) -> None:
    for parameter in held:
        parameter.grad = gradient(parameter, i)
    optimizer.step()


@pytest.mark.parametrize("name", VARIANTS)
def test_fifty_steps_equal_pyros(name: str) -> None:
    ours, theirs = parameters(), parameters()
    named = [(f"model.p{i}", parameter) for i, parameter in enumerate(ours)]
    optimizer = make_optimizer(pyro.optim.ClippedAdam(dict(VARIANTS[name])), named)
    assert type(optimizer) is Adam
    pyros = ClippedAdam(theirs, **VARIANTS[name])
    for i in range(50):
        step(optimizer, ours, i)
        step(pyros, theirs, i)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14)
    assert optimizer.param_groups[0]["lr"] == pyros.param_groups[0]["lr"]


def test_the_centred_one_stays_pyros() -> None:
    optim = pyro.optim.ClippedAdam({"lr": 0.1, "centered_variance": True})
    assert type(make_optimizer(optim, [("model.p", parameters()[0])])) is ClippedAdam


def test_a_parameter_that_joins_begins_with_its_own_rate_and_count() -> None:
    optim = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.9, "eps": 0.1})
    (first, second), (one, two) = parameters(), parameters()
    optimizer = make_optimizer(optim, [("model.first", first)])
    pyros = [ClippedAdam([q], lr=0.1, lrd=0.9, eps=0.1) for q in (one, two)]
    for i in range(6):
        if i == 3:
            known = {"model.first": first}
            follow(optimizer, optim, known, {**known, "model.second": second})
        step(optimizer, [first, second][: 1 + i // 3], i)
        step(pyros[0], [one], i)
        if i >= 3:
            step(pyros[1], [two], i)
    torch.testing.assert_close(first, one, rtol=1e-13, atol=0)
    torch.testing.assert_close(second, two, rtol=1e-13, atol=0)


def test_a_group_that_is_added_by_hand_has_the_defaults() -> None:
    optim = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.9, "clip_norm": 0.3})
    (first, second) = parameters()
    optimizer = make_optimizer(optim, [("model.first", first)])
    optimizer.add_param_group({"params": [second]})
    step(optimizer, [first, second], 0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1 * 0.9] * 2


def test_the_state_goes_on_where_it_was() -> None:
    optim = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.9, "eps": 0.1})
    (ours, _), (theirs, _) = parameters(), parameters()
    optimizer = make_optimizer(optim, [("model.p", ours)])
    straight = make_optimizer(optim, [("model.p", theirs)])
    for i in range(6):
        if i == 3:
            state = optimizer.state_dict()
            optimizer = make_optimizer(optim, [("model.p", ours)])
            optimizer.load_state_dict(state)
        step(optimizer, [ours], i)
        step(straight, [theirs], i)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_what_has_no_gradient_is_not_clipped() -> None:
    optim = pyro.optim.SGD({"lr": 0.1}, {"clip_value": 0.1, "clip_norm": 10.0})
    first, second = parameters()
    optimizer = make_optimizer(optim, [("model.first", first), ("model.second", second)])
    first.grad = torch.ones(3)
    optimizer.step()
    torch.testing.assert_close(first.detach(), torch.full((3,), 1.0 - 0.1 * 0.1))
    torch.testing.assert_close(second.detach(), torch.full((3,), -2.0))
