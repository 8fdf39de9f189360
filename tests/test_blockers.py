r"""What keeps a step from becoming a graph is said, with the line; and the trial leaves nothing."""

import copy
import random
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import uncapturable
from torch import Tensor
from uncapturable import UNCAPTURABLE, Model, branches_later, unit, validates_later
from zoo import ZOO, D, F, binary

from pyro_vae import SVI
from pyro_vae.blockers import explain
from pyro_vae.guides import AmortizedNormal
from pyro_vae.reach import reach

adam = partial(torch.optim.Adam, lr=1e-2)


def step(model: Any, guide: Any, *batch: Tensor) -> Callable[[], str | None]:
    r"""What is said of a step that has been taken once before."""
    with pyro.validation_enabled(False):
        svi = SVI(model, guide, adam)
        svi.step(*batch)
        plan = svi.pair.plan(batch, {})

    def gradients(substitute: Any, *batch: Tensor) -> Any:
        return svi.gradients(plan, batch, {})

    return lambda: explain(gradients, {"model": model, "guide": guide}, batch)


def trial(model: Any) -> Callable[[], str | None]:
    return step(model, AmortizedNormal((F,), {"z": D}), binary(6, F))


@pytest.mark.parametrize("name", ZOO)
def test_nothing_is_said_of_the_zoo(name: str) -> None:
    model, guide, batch = ZOO[name]()
    assert step(model, guide, *batch)() is None


@pytest.mark.parametrize("name", UNCAPTURABLE)
def test_what_and_where_and_what_to_do(name: str) -> None:
    likelihood, code, words = UNCAPTURABLE[name]
    said = trial(Model(likelihood))()
    assert said is not None
    assert re.search(words, said)
    lines = Path(uncapturable.__file__).read_text().splitlines()
    found = re.search(r"uncapturable.py:(\d+) `(.*?)`", said)
    assert found is not None
    assert code in lines[int(found[1]) - 1]
    assert lines[int(found[1]) - 1].strip() == found[2]
    assert said.startswith("expected ")
    assert "\n" not in said


def test_values_that_are_validated_later_are_not_looked_at_in_a_graph() -> None:
    assert trial(Model(validates_later))() is None


def test_the_site_is_named_where_its_density_is_computed_later() -> None:
    said = trial(Model(branches_later))()
    assert said is not None
    assert re.search(r"got a branch on a tensor at .*uncapturable.py:.* \(site 'x'\): ", said)


def test_the_site_is_named_where_its_statement_runs() -> None:
    r"""Von Mises numbers are drawn by rejection, until all are accepted."""

    def model(x: Tensor) -> None:
        pyro.sample("angle", dist.VonMises(x, 1.0))

    traced = pyro.poutine.trace(model).get_trace
    said = explain(lambda _, x: traced(x), {"model": model}, (torch.zeros(3),))
    assert said is not None
    place = r"""`pyro.sample\("angle", dist.VonMises\(x, 1.0\)\)` \(site 'angle'\): """
    assert re.search("got a branch on a tensor at .*" + place, said)


def test_numbers_that_programs_made_are_known() -> None:
    r"""A tensor of a number is a constant: looking at it hinders nobody."""

    def likelihood(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
        return unit(loc * torch.tensor(2.0).item()) if torch.tensor(True) else unit(loc)

    assert trial(Model(likelihood))() is None


def test_an_error_that_is_none_of_these_is_said() -> None:
    calls = [0]

    def likelihood(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
        if type(loc + 0) is not Tensor:
            raise RuntimeError("no such kernel\nfor this")
        return unit(loc)

    said = trial(Model(likelihood))()
    assert said is not None
    assert re.search(r"got RuntimeError: no such kernel at .*`raise Runt.*: such steps run", said)
    assert calls == [0]


def everything(model: Any) -> dict[Any, int]:
    r"""The identities of all that programs and torch keep in Python."""
    tables = [t.values for t in reach(written=True, model=model) if t.kind != "element"]
    tables += [d for m in model.modules() for d in vars(m).values() if isinstance(d, dict)]
    found = {}
    for i, table in enumerate(tables):
        names = table if isinstance(table, dict) else ()
        found.update({(i, name): id(table[name]) for name in list(names)})
    return found


@pytest.mark.parametrize(
    "name", ["attribute", "list", "counter", "setting", "buffer", "global", "random", "if"]
)
def test_the_trial_leaves_nothing(name: str) -> None:
    model = Model(UNCAPTURABLE[name][0])
    again = trial(model)
    expected = everything(model), list(model.history), uncapturable.latest, model.count
    state = copy.deepcopy(model.state_dict())
    names, store = dict(pyro.get_param_store()), pyro.get_param_store()
    randomness = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    rng = model.rng.bit_generator.state

    assert again() is not None

    assert (everything(model), list(model.history), uncapturable.latest, model.count) == expected
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert dict(store) == names
    assert (random.getstate(), str(np.random.get_state())) == randomness[:2]
    assert torch.equal(torch.get_rng_state(), randomness[2])
    assert model.rng.bit_generator.state == rng


def test_held_distributions_keep_no_values_of_the_trial() -> None:
    r"""What they compute lazily they compute again."""
    likelihood = dist.Bernoulli(logits=torch.zeros(F))
    transform = dist.transforms.AffineTransform(0.0, torch.full((F,), 2.0), cache_size=1)
    warped = dist.TransformedDistribution(dist.Normal(torch.zeros(F), 1.0), [transform])
    model = Model(lambda model, x, loc: unit(loc * likelihood.probs + warped.rsample()))
    again = trial(model)
    likelihood.__dict__.pop("probs", None)
    assert again() is None
    assert "probs" not in vars(likelihood)
    value = warped.rsample()
    assert all(type(t) is Tensor for t in (likelihood.probs, value, *transform._cached_x_y))


def test_adding_in_place_is_no_new_buffer() -> None:
    r"""``+=`` assigns what it has written to: the same tensor."""

    def likelihood(model: Model, x: Tensor, loc: Tensor) -> dist.TorchDistribution:
        model.running += x.mean(0)
        return unit(loc - model.running)

    model = Model(likelihood)
    again = trial(model)
    running, value = model.running, model.running.clone()
    assert again() is None
    assert model.running is running
    assert torch.equal(model.running, value)


def test_parameters_that_a_trial_makes_are_gone() -> None:
    def model(x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.zeros(3))
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    guide = pyro.infer.autoguide.AutoNormal(Model(lambda model, x, loc: unit(loc)))
    before = set(guide.parameters())
    assert explain(lambda _, x: model(x), {"model": model}, (torch.zeros(3),)) is None
    said = explain(lambda _, x: guide(x), {"guide": guide}, (torch.zeros(6, F),))
    assert "attribute 'prototype_trace' of guide" in str(said)  # it must have run before
    assert list(pyro.get_param_store()) == []
    assert set(guide.parameters()) == before
    assert guide.prototype_trace is None


def test_what_programs_print_and_warn_is_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    def model(x: Tensor) -> Tensor:
        print("a tensor", x)  # noqa: T201
        warnings.warn("of no interest", stacklevel=1)
        return x

    assert explain(lambda _, x: model(x), {"model": model}, (torch.zeros(3),)) is None
    assert capsys.readouterr().out == ""


def test_nothing_is_computed() -> None:
    r"""A tensor of 8 TB would not fit."""

    def outer(_: Any, x: Tensor) -> Tensor:
        return (x[:, None] * x).sum()

    assert explain(outer, {}, (torch.ones(1).expand(1_000_000),)) is None
