r"""What runs inside leaves nothing behind, whether tensors are real or not."""

import random
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from uncapturable import Model, unit

from pyro_vae.programs import isolated
from pyro_vae.undone import Undone, variables_kept


def model() -> Model:
    return Model(lambda model, x, loc: unit(loc))


def draws() -> list[Any]:
    return [torch.rand(3).tolist(), random.random(), np.random.rand(), random.gauss(0, 1)]


def test_random_numbers_come_again() -> None:
    program = model()
    own = [program.rng, random.Random(0), np.random.RandomState(0)]
    program.sources = own
    with Undone(model=program) as undone:
        expected = draws(), own[0].normal(), own[1].random(), own[2].rand()
    assert undone.drew
    assert (draws(), own[0].normal(), own[1].random(), own[2].rand()) == expected


def test_torch_draws_are_no_sources_of_pythons() -> None:
    with Undone(model=model()) as undone:
        torch.rand(3)
    assert not undone.drew
    assert undone.changes == []


def test_buffers_are_what_they_were() -> None:
    program = model()
    running = program.running
    with Undone(model=program) as undone:
        program.running += 1
    assert program.running is running
    assert torch.equal(running, torch.zeros_like(running))
    assert undone.changes == []


def test_all_kinds_of_variables_are_what_they_were() -> None:
    program, rate, gone, total = model(), 0.5, 1.0, Model.total
    program.members, program.pair = {"a"}, (1, [2])

    def function(x: Tensor) -> Tensor:
        nonlocal rate, gone
        rate = 0.4
        del gone
        program.members.add("b")
        program.members.remove("a")
        program.pair[1].append(3)
        program.settings.rate, program.settings.new = 0.1, 1
        program.history[:] = [1, 2]
        program.decoder[0] = nn.ReLU()
        program.extra = nn.Parameter(torch.ones(2))
        program.register_buffer("other", torch.ones(2))
        del program.count
        Model.total += 7
        return x * rate

    first, names = program.decoder[0], set(vars(program))
    parameters = dict(program.named_parameters())
    with Undone(function=function) as undone:
        function(torch.ones(2))
    assert (rate, gone, program.members, program.pair) == (0.5, 1.0, {"a"}, (1, [2]))
    assert vars(program.settings) == {"rate": 0.5}
    assert (program.history, program.count, Model.total) == ([], 0, total)
    assert program.decoder[0] is first
    assert set(vars(program)) == names
    assert dict(program.named_parameters()) == parameters
    assert dict(program.named_buffers()).keys() == {"running"}
    written = {change.name for change in undone.changes}
    assert written >= {"rate", "gone", "a", "b", "new", "count", "total", "other", "0"}


class Scaled(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.scale = PyroParam(torch.tensor(1.0), torch.distributions.constraints.positive)

    def forward(self) -> Tensor:
        return self.scale * pyro.param("rate", torch.tensor(2.0))


def test_parameter_stores_are_what_they_were() -> None:
    r"""Pyro's own, and those that isolated programs run in."""
    program = Scaled()
    run = isolated(program)
    with Undone(model=program):
        run()
    assert list(pyro.get_param_store()) == []
    run()
    own = program.scale_unconstrained
    with Undone(model=program):
        program.scale = PyroParam(torch.tensor(3.0), torch.distributions.constraints.positive)
        assert run().item() == pytest.approx(6.0)
        pyro.get_param_store()["rate"] = torch.tensor(5.0)
    assert run().item() == pytest.approx(2.0)
    assert program.scale_unconstrained is own


def test_an_error_passes_and_leaves_nothing() -> None:
    program = model()

    def fail() -> None:
        program.last = 1
        raise KeyError

    with pytest.raises(KeyError), Undone(model=program):
        fail()
    assert program.last is None


def test_only_variables_are_kept() -> None:
    program = model()
    program.register_buffer("seen", torch.zeros(2))
    before, seen = torch.get_rng_state(), program.seen
    with variables_kept(model=program):
        program.last, program.running = torch.ones(3), torch.ones(3)
        program.seen += 1
        program.prior.expand([2])
        torch.rand(3)
    assert program.last is None
    assert torch.equal(program.running, torch.zeros_like(program.running))
    assert program.seen is seen
    assert torch.equal(seen, torch.ones(2))
    assert not torch.equal(torch.get_rng_state(), before)
