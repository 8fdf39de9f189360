r"""What a pair knows stays true: parts that are replaced, cleared or new are found and trained."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from zoo import ZOO

from pyro_vae import SVI
from pyro_vae.draws import Draw
from pyro_vae.objectives import ELBO, Bound
from pyro_vae.pair import Pair
from pyro_vae.programs import free_tensors, unchanged

N = 7
RATE = 0.01
sgd = partial(torch.optim.SGD, lr=RATE)
adam = partial(torch.optim.Adam, lr=1e-2)


def nothing(*batch: Any, **options: Any) -> None:
    r"""The guide of a model without latents."""


class Shift(nn.Module):
    def __init__(self, start: float, size: int = 1) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.full((size,), start))

    def forward(self) -> Tensor:
        return self.shift.sum()


class PyroShift(PyroModule):
    def __init__(self, start: float) -> None:
        super().__init__()
        self.shift = PyroParam(torch.tensor(start), constraints.real)

    def forward(self) -> Tensor:
        return self.shift


class Mean(PyroModule):
    r"""x ~ N(loc + part, 1): the gradient of the bound is sum(x - loc - part)."""

    def __init__(self, part: Callable[[], Tensor] | None = None) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.0))
        self.part = part or Shift(0.0)
        self.spare = Shift(2.0)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(self.loc + self.part(), 1.0), obs=x)


def replace_parameter(model: Mean) -> list[Tensor]:
    model.loc = nn.Parameter(torch.tensor(5.0))
    return [model.loc]


def replace_module(model: Mean) -> list[Tensor]:
    model.part = Shift(5.0)
    return [model.part.shift]


def replace_by_another_size(model: Mean) -> list[Tensor]:
    model.part = Shift(2.5, 2)
    return [model.part.shift]


def replace_parameter_of_a_part(model: Mean) -> list[Tensor]:
    model.part.shift = nn.Parameter(torch.tensor([5.0]))
    return [model.part.shift]


def replace_by_a_part_known_before(model: Mean) -> list[Tensor]:
    model.part = model.spare
    return [model.spare.shift]


def replace_by_a_pyro_module(model: Mean) -> list[Tensor]:
    model.part = PyroShift(5.0)
    return [model.part.shift_unconstrained]


REPLACED = [
    replace_parameter,
    replace_module,
    replace_by_another_size,
    replace_parameter_of_a_part,
    replace_by_a_part_known_before,
    replace_by_a_pyro_module,
]


@pytest.mark.parametrize("replace", REPLACED)
@pytest.mark.parametrize("optim", [sgd, pyro.optim.SGD({"lr": RATE})])
def test_what_took_the_place_of_another_is_trained(
    replace: Callable[[Mean], list[Tensor]], optim: Any
) -> None:
    model, x = Mean(), torch.randn(N)
    svi = SVI(model, nothing, optim)
    svi.step(x)
    (new,) = replace(model)
    before, mean = new.detach().clone(), (model.loc + model.part()).item()

    svi.step(x)

    assert new.detach().sub(before).div(RATE).flatten().tolist() == pytest.approx(
        [(x - mean).sum().item()] * new.numel()
    )
    held = [p for group in svi.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in svi.pair.parameters.values()}
    assert len(held) == 2
    saved, trace = svi.state_dict(), pyro.poutine.trace(model).get_trace(x)
    tensors = model.state_dict(keep_vars=True)
    names = {f"model.{name.removesuffix('_unconstrained')}" for name in tensors}
    assert saved["tensors"].keys() <= names
    assert len(saved["tensors"]) == len({id(tensor) for tensor in tensors.values()})
    expected = (model.loc + model.part()).item()
    assert trace.nodes["x"]["fn"].mean.tolist() == pytest.approx([expected] * N)


def test_a_replaced_pyro_module_is_not_the_old_one() -> None:
    r"""Its parameter has the old one's name in Pyro's store."""
    model, x = Mean(PyroShift(0.0)), torch.randn(N)
    svi = SVI(model, nothing, sgd)
    svi.step(x)
    model.part, loc = PyroShift(5.0), model.loc.item()
    svi.step(x)
    gradient = (x - loc - 5.0).sum().item()
    assert model.part.shift.item() == pytest.approx(5.0 + RATE * gradient)


def test_the_others_keep_their_place_and_momentum() -> None:
    r"""With momentum 0.5 the second step is the gradient and half of the first."""
    model, x = Mean(), torch.randn(N)
    svi = SVI(model, nothing, partial(torch.optim.SGD, lr=RATE, momentum=0.5))
    svi.step(x)
    svi.optimizer.param_groups[0]["lr"] = RATE / 10
    old, first = model.part.shift, model.loc.item() / RATE
    (new,) = replace_module(model)
    second = (x - model.loc.item() - 5.0).sum().item()
    assert svi.evaluate_loss(x).isfinite()
    assert svi.state_dict()["state"].keys() == {"model.loc"}

    svi.step(x)

    assert model.loc.item() == pytest.approx(RATE * first + RATE / 10 * (second + first / 2))
    assert new.item() == pytest.approx(5.0 + RATE / 10 * second)
    assert old not in svi.optimizer.state
    assert len(svi.optimizer.param_groups) == 1


def test_a_group_without_parameters_is_saved_and_restored() -> None:
    def grouped(pairs: Any) -> torch.optim.Optimizer:
        parts = [p for name, p in pairs if ".part." in name]
        rest = [p for name, p in pairs if ".part." not in name]
        return torch.optim.SGD([{"params": parts}, {"params": rest, "lr": 0.5}], lr=RATE)

    model, x = Mean(), torch.randn(N)
    svi = SVI(model, nothing, grouped)
    svi.step(x)
    model.part = nn.Identity()
    model.part.forward = lambda: torch.tensor(0.0)
    svi.step(x)
    saved, expected = svi.state_dict(), model.loc.item()
    assert [group["params"] for group in saved["groups"]] == [[], ["model.loc"]]
    saved["groups"][1]["lr"] = 0.25
    model.loc.data.zero_()
    svi.load_state_dict(saved)
    svi.step(x)
    assert model.loc.item() == pytest.approx(expected + 0.25 * (x - expected).sum().item())


@pytest.mark.parametrize("when", ["replaced", "late"])
def test_clips_hold_for_new_parameters_too(when: str) -> None:
    class Late(Mean):
        def forward(self, x: Tensor, late: bool = True) -> None:
            with pyro.plate("data", x.shape[0], dim=-1):
                mean = self.loc + self.part() if late else self.loc
                pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    model, x = Late(), torch.randn(N)
    svi = SVI(model, nothing, pyro.optim.SGD({"lr": 1.0}, {"clip_value": 1e-3}))
    svi.step(x, late=when == "replaced")
    if when == "replaced":
        replace_module(model)
    before = model.part.shift.item()
    svi.step(x + 100)
    assert model.part.shift.item() - before == pytest.approx(1e-3)


def test_a_cleared_store_is_filled_and_trained_again() -> None:
    def model(x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.tensor(0.0))
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    x = torch.randn(N)
    svi = SVI(model, nothing, sgd)
    for _ in range(2):
        pyro.clear_param_store()
        svi.step(x)
        assert pyro.param("loc").item() == pytest.approx(RATE * x.sum().item())
    assert svi.state_dict()["tensors"].keys() == {"model.loc"}


def test_anonymous_tensors_of_two_kinds_of_batches_have_two_names() -> None:
    first, second = (torch.tensor(0.0, requires_grad=True) for _ in range(2))

    def model(x: Tensor, late: bool = False) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(second if late else first, 1.0), obs=x)

    x = torch.randn(N)
    svi = SVI(model, nothing, sgd)
    svi.step(x)
    svi.step(x, late=True)
    for tensor in (first, second):
        assert tensor.item() == pytest.approx(RATE * x.sum().item())
    svi.step(x)  # known tensors keep their names
    names = {"model.tensor0", "model.tensor1"}
    assert svi.state_dict()["tensors"].keys() == names
    assert svi.pair.parameters["model.tensor1"] is second


def test_a_mode_that_uses_other_parameters_gets_its_own_plan() -> None:
    class Modes(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.trained, self.evaluated = (nn.Parameter(torch.tensor(0.0)) for _ in range(2))

        def forward(self, x: Tensor) -> None:
            loc = self.trained if self.training else self.evaluated
            with pyro.plate("data", x.shape[0], dim=-1):
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    model, x = Modes(), torch.randn(N)
    svi = SVI(model, nothing, sgd)
    svi.step(x)
    model.eval()
    svi.step(x)
    expected = pytest.approx(RATE * x.sum().item())
    assert [model.trained.item(), model.evaluated.item()] == [expected, expected]


def test_a_plan_is_made_once_for_each_kind_of_batch() -> None:
    model, guide, (x,) = ZOO["plain_functions"]()
    pair = Pair(model, guide)
    plan = pair.plan((x,), {})
    assert pair.plan((x[:3],), {}) is plan
    ZOO["vae"]()  # other modules' parameters are none of its own
    assert pair.plan((x,), {}) is plan


def test_inspection_undoes_what_a_program_writes_and_draws() -> None:
    calls = torch.tensor(0.0)

    def model(x: Tensor) -> None:
        calls.add_(random.random())
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(calls, 1.0), obs=x)

    x = torch.randn(N)
    free_tensors(model, x)
    assert calls.item() == 0.0

    random.seed(0)
    expected = random.random()
    random.seed(0)
    with unchanged(model):
        model(x)
    assert random.random() == expected


def test_ends_that_differ_need_parameters_of_their_own() -> None:
    shared = nn.Parameter(torch.tensor(0.5))

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(shared, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(x + shared, 1.0))

    class TwoEnds:
        particles, pathwise = 1, True

        def __call__(self, draw: Draw) -> Bound:
            value = draw.log_weights.mean(0)
            return Bound(value, value.mean(), 2 * value.mean())

    x = torch.randn(N)
    with pytest.raises(ValueError, match=r"no parameter in both programs, got \['tensor0'\]"):
        SVI(model, guide, sgd, TwoEnds()).step(x)
    SVI(model, guide, sgd).step(x)
    assert shared.grad.isfinite()
    # each end reaches the parameters of its program: the guide's gradient counts twice
    model, guide, (x,) = ZOO["vae"]()
    gradients = []
    for objective in (ELBO("sampled"), TwoEnds()):
        svi = SVI(model, guide, sgd, objective)
        plan = svi.pair.plan((x,), {})
        pyro.set_rng_seed(0)
        gradients.append(svi.gradients(plan, (x,), {})[1])
    half = len(plan.model)
    for i, (one, two) in enumerate(zip(*gradients, strict=True)):
        torch.testing.assert_close(two, one if i < half else 2 * one)


def test_frozen_parameters_stay_and_thawed_ones_move() -> None:
    model, guide, (x,) = ZOO["vae"]()
    svi = SVI(model, guide, adam)
    model.decoder[2].weight.requires_grad_(False)
    before = model.decoder[2].weight.detach().clone()
    model.eval()  # Pyro warns of frozen parameters of a module that trains
    svi.step(x)
    assert torch.equal(model.decoder[2].weight, before)
    model.decoder[2].weight.requires_grad_(True)
    svi.step(x)
    assert (model.decoder[2].weight != before).any()


def test_what_a_later_batch_uses_joins_the_optimizer() -> None:
    class Halves(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Parameter(torch.zeros(())) for _ in range(2))

        def forward(self, x: Tensor, late: bool = False) -> None:
            with pyro.plate("data", x.shape[0], dim=-1):
                loc = self.second if late else self.first
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x: Tensor, late: bool = False) -> None: ...

    model, x = Halves(), torch.ones(N)
    svi = SVI(model, guide, adam)
    svi.step(x)
    assert model.second.item() == 0.0
    svi.step(x, late=True)
    assert model.second.item() == pytest.approx(1e-2)
    assert model.first.item() == pytest.approx(1e-2)
