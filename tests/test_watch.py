r"""A watch sees what programs read change, and changes in nothing else."""

import functools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn
from zoo import ENUMERATED, ZOO, D, F

from pyro_vae import SVI
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.nn import mlp
from pyro_vae.objectives import ELBO
from pyro_vae.programs import isolated
from pyro_vae.watch import Watch

adam = partial(torch.optim.Adam, lr=1e-2)

temperature = 0.5
shift = 0.0


def shifted(x: Tensor) -> Tensor:
    return x + shift


def changed(watch: Watch) -> str | None:
    r"""What differs since the last look."""
    watch.difference = None
    watch.values()
    return watch.difference


PYROS = {**dict.fromkeys(ENUMERATED, TraceEnum_ELBO), "partly_observed": None}
ROWS = [(name, ELBO) for name in ZOO]
ROWS += [(name, kind) for name in ZOO if (kind := PYROS.get(name, Trace_ELBO)) is not None]


@pytest.mark.parametrize("name, loss", ROWS)
def test_steps_change_nothing(name: str, loss: Callable[[], Any]) -> None:
    model, guide, batch = ZOO[name]()
    objective = loss()
    svi = SVI(model, guide, adam, objective)
    svi.step(*batch)
    watch = Watch(model=model, guide=guide, loss=objective)
    before = watch.values()
    for _ in range(3):
        svi.step(*batch)
        assert changed(watch) is None
        assert watch.values() is before
    # nor does a look from the beginning differ, as long as all lives on
    assert Watch(model=model, guide=guide, loss=objective).values() == before


@dataclass
class Settings:
    rate: float = 0.5
    layers: dict[str, list[int]] = field(default_factory=lambda: {"hidden": [8, 8]})


@dataclass(frozen=True, slots=True)
class Slotted:
    rate: float = 0.5


class Program(PyroModule):
    kind = "gaussian"

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(D, F), nn.Dropout(0.1))
        self.temperature, self.sizes, self.names = 0.5, (1, 2), {"a", "b"}
        self.settings, self.slotted, self.space = Settings(), Slotted(), SimpleNamespace(power=2)
        self.flag = 1
        self.activation, self.weight_by_site = torch.relu, {"z": 1.0}
        self.constant = torch.ones(2)
        self.prior = dist.Bernoulli(logits=torch.zeros(2)).to_event(1)
        self.register_buffer("scale", torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return shifted(x) * temperature


def rename(program: Program) -> None:
    program.names.remove("a")
    program.names.add("c")


def set_here(name: str, value: Any) -> None:
    setattr(sys.modules[__name__], name, value)


# name -> (what is changed, what is said)
SEEN: dict[str, tuple[Callable[[Program], Any], str]] = {
    "number": (
        lambda p: setattr(p, "temperature", 0.4),
        "attribute 'temperature' of model: 0.5, now 0.4",
    ),
    "type": (
        lambda p: setattr(p, "temperature", None),
        "attribute 'temperature' of model: 0.5, now None",
    ),
    "number of another type": (
        lambda p: p.weight_by_site.update(z=True),
        "element 'z' of model.weight_by_site: 1.0, now True",
    ),
    "flag": (
        lambda p: setattr(p, "flag", True),
        "attribute 'flag' of model: 1, now True",
    ),
    "tuple": (
        lambda p: setattr(p, "sizes", (1, 3)),
        "attribute 'sizes' of model: (1, 2), now (1, 3)",
    ),
    "of a child": (
        lambda p: setattr(p.decoder[1], "p", 0.2),
        "attribute 'p' of model.decoder.1: 0.1, now 0.2",
    ),
    "mode": (
        lambda p: p.eval(),
        "attribute 'training' of model: True, now False",
    ),
    "new attribute": (
        lambda p: setattr(p, "bound", 3),
        "attribute 'bound' of model: new, 3",
    ),
    "attribute gone": (
        lambda p: delattr(p, "sizes"),
        "attribute 'sizes' of model: (1, 2), now gone",
    ),
    "dataclass": (
        lambda p: setattr(p.settings, "rate", 0.1),
        "attribute 'rate' of model.settings: 0.5, now 0.1",
    ),
    "slots": (
        lambda p: object.__setattr__(p.slotted, "rate", 0.1),
        "attribute 'rate' of model.slotted: 0.5, now 0.1",
    ),
    "list in a dictionary": (
        lambda p: p.settings.layers["hidden"].__setitem__(1, 4),
        "element 1 of model.settings.layers['hidden']: 8, now 4",
    ),
    "longer list": (
        lambda p: p.settings.layers["hidden"].append(4),
        "element 2 of model.settings.layers['hidden']: new, 4",
    ),
    "shorter list": (
        lambda p: p.settings.layers["hidden"].pop(),
        "element 1 of model.settings.layers['hidden']: 8, now gone",
    ),
    "namespace": (
        lambda p: setattr(p.space, "power", 3),
        "attribute 'power' of model.space: 2, now 3",
    ),
    "set": (rename, "element 'a' of model.names: True, now gone"),
    "function": (
        lambda p: setattr(p, "activation", torch.tanh),
        "attribute 'activation' of model: a builtin_function_or_method, now a "
        "builtin_function_or_method",
    ),
    "tensor": (
        lambda p: setattr(p, "constant", torch.ones(2)),
        "attribute 'constant' of model: a Tensor, now a Tensor",
    ),
    "buffer": (
        lambda p: setattr(p, "scale", torch.ones(2)),
        "buffer 'scale' of model: a Tensor, now a Tensor",
    ),
    "child": (
        lambda p: p.decoder.__setitem__(1, nn.ReLU()),
        "module '1' of model.decoder: a Dropout, now a ReLU",
    ),
    "class variable": (
        lambda p: setattr(Program, "kind", "laplace"),
        "attribute 'kind' of Program: 'gaussian', now 'laplace'",
    ),
    "global": (
        lambda p: set_here("temperature", 0.4),
        "global 'temperature' of Program.forward: 0.5, now 0.4",
    ),
    "global of a function called": (
        lambda p: set_here("shift", 1.0),
        "global 'shift' of shifted: 0.0, now 1.0",
    ),
}


@pytest.mark.parametrize("name", SEEN)
def test_changes_are_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, said = SEEN[name]
    program = Program()
    # to be restored
    monkeypatch.setattr(Program, "kind", "gaussian")
    monkeypatch.setitem(globals(), "temperature", 0.5)
    monkeypatch.setitem(globals(), "shift", 0.0)
    watch = Watch(model=program)
    before = watch.values()
    change(program)
    assert changed(watch) == said
    after = watch.values()
    assert after != before
    assert changed(watch) is None
    assert watch.values() == after


def test_going_back_is_going_back() -> None:
    program = Program()
    watch = Watch(model=program)
    before = watch.values()
    program.temperature = 0.4
    between = watch.values()
    program.temperature = 1 / 2
    assert len({before, between, watch.values()}) == 2
    assert watch.values() == before


def test_an_equal_number_is_no_change() -> None:
    program = Program()
    watch = Watch(model=program)
    before = watch.values()
    for _ in range(2):
        program.temperature, program.sizes = float("0.5"), tuple(map(int, "12"))
        assert changed(watch) is None
        assert watch.values() is before


def test_what_is_computed_lazily_is_no_change() -> None:
    program = Program()
    watch = Watch(model=program)
    before = watch.values()
    program.prior.base_dist.probs  # noqa: B018
    assert "probs" in vars(program.prior.base_dist)
    assert changed(watch) is None
    assert watch.values() is before


def test_tensors_do_not_share_an_id() -> None:
    r"""One that is gone may leave its place in memory to another."""
    program = Program()
    watch = Watch(model=program)
    seen = []
    for _ in range(20):
        program.constant = torch.ones(2)
        seen.append(watch.values())
    assert len(set(seen)) == 20


def test_closures_are_seen() -> None:
    rate, settings = 0.5, {"power": 2}

    def model(x: Tensor) -> Tensor:
        def inner() -> Tensor:
            return x * temperature

        return inner() * rate + settings["power"]  # noqa: F821

    watch = Watch(model=functools.partial(model, x=torch.ones(2)))
    rate = 0.4
    assert changed(watch) == "closure variable 'rate' of model: 0.5, now 0.4"
    watch.values()
    settings["power"] = 3
    assert changed(watch) == "element 'power' of settings: 2, now 3"
    del rate
    assert changed(watch) == "closure variable 'rate' of model: 0.4, now gone"


def test_a_module_of_settings_is_seen() -> None:
    settings: Any = ModuleType("settings_of_mine")
    settings.beta, settings.unread = 1.0, 1.0
    scope: dict[str, Any] = {"settings": settings, "__name__": "mine"}
    exec("def model(x):\n    return x * settings.beta", scope)
    watch = Watch(model=scope["model"])
    settings.unread = 2.0
    assert changed(watch) is None
    settings.beta = 2.0
    assert changed(watch) == "attribute 'beta' of settings_of_mine: 1.0, now 2.0"


def test_names_that_programs_do_not_read_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(model=shifted)
    monkeypatch.setitem(globals(), "temperature", 7.0)
    assert changed(watch) is None


def test_an_objective_is_seen() -> None:
    objective = ELBO()
    watch = Watch(loss=objective)
    objective.beta.number.fill_(0.5)  # what it holds is a graph's input
    assert changed(watch) is None
    objective.particles = 5
    assert changed(watch) == "attribute 'particles' of loss: 1, now 5"


def test_long_lists_count_by_identity() -> None:
    program = Program()
    program.files = [str(i) for i in range(100_000)]
    watch = Watch(model=program)
    assert sum(1 for _ in watch.values().items) < 100  # type: ignore[attr-defined]
    program.files = list(program.files)
    assert changed(watch) == "attribute 'files' of model: a list, now a list"


def test_objects_in_a_circle_end() -> None:
    program = Program()
    program.space.itself, program.space.program = program.space, program
    watch = Watch(model=program)
    assert changed(watch) is None


def test_namesakes_are_told_apart() -> None:
    def scaled(settings: dict[str, float]) -> Callable[[Tensor], Tensor]:
        return lambda x: x * settings["rate"]

    ours, others = {"rate": 1.0}, {"rate": 1.0}
    first, second = scaled(ours), scaled(others)
    watch = Watch(model=lambda x: first(x) + second(x))
    seen = [watch.values()]
    for settings in (ours, others):
        settings["rate"] = 2.0
        assert changed(watch) is not None
        seen.append(watch.values())
    assert len(set(seen)) == 3


def test_functions_inside_functions_are_read() -> None:
    def model(x: Tensor) -> Tensor:
        return (lambda: x * temperature)()

    watch = Watch(model=model)
    set_here("temperature", 0.4)
    said = changed(watch)
    set_here("temperature", 0.5)
    assert said == "global 'temperature' of model: 0.5, now 0.4"


def test_nan_and_minus_zero() -> None:
    program = Program()
    program.temperature = float("nan")
    watch = Watch(model=program)
    program.temperature = float("nan")
    assert changed(watch) is None
    program.temperature = 0.0
    watch.values()
    program.temperature = -0.0
    assert changed(watch) == "attribute 'temperature' of model: 0.0, now -0.0"


@pytest.mark.parametrize(
    "wrap",
    [
        isolated,
        partial(partial),
        pyro.poutine.block,
        lambda program: program.forward,
        lambda program: lambda x: program(x),
    ],
)
def test_a_program_in_another_is_found(wrap: Callable[[Program], Any]) -> None:
    program = Program()
    watch = Watch(model=wrap(program))
    program.temperature = 0.4
    said = changed(watch)
    assert said is not None
    assert re.fullmatch(r"attribute 'temperature' of (model|program): 0.5, now 0.4", said)


def test_a_watch_is_cheap() -> None:
    r"""It runs at every step: what it looks at is counted, since times depend on the machine."""
    model = VAE((64,), 8, decoder=mlp(8, 64, (64,)))
    guide = AmortizedNormal((64,), {"z": 8}, mlp(64, 16, (64,)))
    watch = Watch(model=model, guide=guide, loss=ELBO())
    assert len(watch._seen.values) + len(watch._seen.sizes) < 110
    calls = []
    sys.setprofile(lambda frame, event, arg: calls.append(event))
    watch.values()
    sys.setprofile(None)
    assert sum(event == "call" for event in calls) <= 3  # no Python function an entry
