r"""Schedules: exact values, what they may be, how they are described, and how they go on."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from test_options import parse
from torch import Tensor

from pyro_vae import SVI, Run, fit
from pyro_vae.components import build, describe, dump_config, read_config
from pyro_vae.guides import AmortizedNormal
from pyro_vae.loop import Event
from pyro_vae.models import VAE
from pyro_vae.objectives import ELBO, GECO, BetaTC, Capacity, InfoVAE
from pyro_vae.runs.checkpoint import Checkpoint
from pyro_vae.schedules import Constant, Cosine, Cyclical, Linear, Schedule, as_schedule

F, D = 5, 2

VALUES: dict[str, tuple[Schedule, dict[float, float]]] = {
    "constant": (Constant(0.3), {0: 0.3, 9: 0.3}),
    "linear": (Linear(1, 3, 10), {0: 1, 2.5: 1.5, 10: 3, 11: 3, 1e9: 3}),
    "linear down": (Linear(4, 0, 8), {0: 4, 6: 1, 8: 0, 9: 0}),
    "cosine": (Cosine(1, 3, 12), {0: 1, 3: 2 - 0.5**0.5, 4: 1.5, 6: 2, 8: 2.5, 12: 3, 13: 3}),
    "cyclical": (
        Cyclical(1, 3, 20, cycles=2, rise=0.4),
        {0: 1, 1: 1.5, 3: 2.5, 4: 3, 9.5: 3, 10: 1, 12: 2, 14: 3, 19: 3, 20: 3, 25: 3, 30: 3},
    ),
    "cyclical without rest": (Cyclical(length=4, cycles=4, rise=1), {0.5: 0.5, 1: 0, 3.75: 0.75}),
}


@pytest.mark.parametrize("name", VALUES)
def test_values(name: str) -> None:
    schedule, expected = VALUES[name]
    times = torch.tensor(list(map(float, expected)))
    found = schedule.at(times).expand(len(times))
    torch.testing.assert_close(found, torch.tensor(list(map(float, expected.values()))))


def test_time_is_counted_in_steps_or_in_parts_of_epochs() -> None:
    by_step, by_epoch = Linear(0, 1, 8), Linear(0, 1, 8, unit="epoch")
    for part in (0.4, 0.4, 0.2, 0.4):
        by_step.advance(part)
        by_epoch.advance(part)
    assert (by_step().item(), by_epoch().item()) == (0.5, pytest.approx(1.4 / 8))


ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "unit": (lambda: Linear(unit="day"), ValueError, "unit of 'step' or 'epoch', got 'day'"),  # type: ignore[arg-type]
    "length": (lambda: Linear(length=0), ValueError, "positive length, got 0"),
    "cosine": (lambda: Cosine(length=-1), ValueError, "positive length, got -1"),
    "endless": (lambda: Cyclical(length=torch.inf), ValueError, "positive length, got inf"),
    "cycles": (lambda: Cyclical(cycles=0), ValueError, "at least one cycle, got 0"),
    "rise": (lambda: Cyclical(rise=1.5), ValueError, r"rise in \(0, 1\], .*got 1.5"),
    "start": (
        lambda: ELBO(beta=Linear(-1, 1)),
        ValueError,
        "beta to be finite and at least 0, got -1",
    ),
    "end": (lambda: ELBO(beta=Cosine(1, -2)), ValueError, "beta to be .* at least 0, got -2"),
    "free bits": (lambda: ELBO(free_bits=-1), ValueError, "free_bits to be .*at least 0, got -1"),
    "nan": (lambda: as_schedule(torch.nan, "gamma"), ValueError, "gamma to be finite, got nan"),
    "both": (lambda: as_schedule(2, "a", 0, 1), ValueError, "a to be between 0 and 1, got 2"),
    "several": (
        lambda: ELBO(beta=torch.ones(2)),
        ValueError,
        r"beta to be one number, got a tensor with shape \(2,\)",
    ),
    "parameter": (
        lambda: ELBO(beta=torch.nn.Parameter(torch.ones(()))),
        TypeError,
        "beta to be a number, got a parameter",
    ),
    "kind": (lambda: ELBO(beta="1"), TypeError, "beta to be a number or a schedule .*got str"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, error, match = ERRORS[name]
    with pytest.raises(error, match=match):
        call()


LINEAR = {
    "class_path": "pyro_vae.schedules.Linear",
    "init_args": {"start": 0.0, "end": 2.0, "length": 50, "unit": "epoch"},
}


def test_what_was_made_in_python_is_built_again(tmp_path: Path) -> None:
    objective = ELBO(beta=Linear(end=2.0, length=50, unit="epoch"), free_bits=0.1)
    description = describe(objective)
    assert description["init_args"]["beta"] == LINEAR
    assert description["init_args"]["free_bits"] == 0.1

    path = tmp_path / "config.yaml"
    path.write_text(dump_config({"objective": description}))
    again = build(read_config(path)["objective"], "objective")
    assert isinstance(again.beta, Linear)
    assert (again.beta.end, again.beta.length, again.beta.unit) == (2.0, 50, "epoch")
    assert describe(again) == description


@pytest.mark.parametrize("beta", [0.1, 1 / 3, 4])
def test_a_number_is_described_as_it_was_given(beta: float) -> None:
    torch.set_default_dtype(torch.float32)
    assert describe(ELBO(beta=beta))["init_args"]["beta"] == beta


def test_a_schedule_of_ones_own_is_given() -> None:
    class Mine(Linear):
        pass

    assert describe(ELBO(beta=Mine()))["init_args"]["beta"]["given"].endswith("Mine")


FILE = {"objective": {"class_path": "ELBO", "init_args": {"beta": LINEAR}}}
FLAGS: dict[str, tuple[str, Any, Any]] = {
    "a number": ("--objective.beta 0.5", None, 0.5),
    "a small one": ("--objective.beta 1e-3", None, 1e-3),
    "a name": (
        "--objective.beta Linear --objective.beta.end 2 --objective.beta.length 50 "
        "--objective.beta.unit epoch",
        *(None, LINEAR),
    ),
    "no name": (
        "--objective.beta.end 2 --objective.beta.length 50 --objective.beta.unit=epoch",
        *(None, LINEAR),
    ),
    "a file": ("--config config.yaml", FILE, LINEAR),
    "a flag over a file": (
        "--config config.yaml --objective.beta.length 70",
        FILE,
        {**LINEAR, "init_args": {**LINEAR["init_args"], "length": 70}},  # type: ignore[dict-item]
    ),
    "a number over a file": ("--config config.yaml --objective.beta 0.5", FILE, 0.5),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags, file, expected = FLAGS[name]
    objective = build(parse(flags, file)["objective"], "objective")
    found = describe(objective.beta)
    if isinstance(expected, Mapping):
        found["init_args"] = {"start": 0.0, **found["init_args"]}
    assert found == expected


OWN = """
from torch import nn
from collections.abc import Callable, Sequence

class Own(nn.Module):
    def __init__(
        self,
        network: Callable[[int, int], nn.Module] | None = None,
        event_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.event_shape = network, event_shape
        self.baseline = network(event_shape[0], 1)
"""


def test_an_objective_may_have_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    flags = "--objective own.py:Own --objective.network mlp --objective.network.hidden [3]"
    known: Any = {"event_shape": [F]}
    made = build(parse(flags)["objective"], "objective", allow=["own.py"], known=known)
    assert [layer.in_features for layer in made.baseline[::2]] == [F, 3]
    again = build(describe(made), "objective", allow=["own.py"])
    assert repr(again.baseline) == repr(made.baseline)


@pytest.mark.parametrize(
    "objective",
    [GECO(Linear(1, 2), limits=(0.1, 5.0)), Capacity(), BetaTC(beta=Cosine(1, 6)), InfoVAE()],
)
def test_objectives_are_described_whole(objective: Any) -> None:
    description = describe(objective)
    assert description["class_path"].startswith("pyro_vae.objectives.")
    assert describe(build(description, "objective")) == description


REFUSED = {
    "--objective.beta Linaer": "one of pyro_vae.schedules .*got 'Linaer'; did you mean Linear",
    "--objective.beta Adam": "one of pyro_vae.schedules .*got 'Adam'",
    "--objective.beta 1 --objective.beta.end 3": "flag of this command, got --objective.beta.end",
    "--objective.beta Linear --objective.beta.end x": "beta.end: expected a number, got 'x'",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_refused_flags(flags: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[flags]):
        parse(flags)


def warmed(**options: Any) -> Run:
    r"""A fit of 50 rows in batches of 20, 20 and 10."""
    pyro.set_rng_seed(1)
    model, guide = VAE((F,), D), AmortizedNormal((F,), {"z": D})
    beta = Linear(0, 1, 4, unit="epoch")
    setting: dict[str, Any] = {"objective": ELBO(beta=beta, free_bits=Cosine(0.2, 0, 5))}
    setting |= {"batch_size": 20, "device": "cpu", "progress": False, **options}
    return fit(model, guide, torch.eye(5).repeat(10, 1), **setting)


def test_values_are_logged(tmp_path: Path) -> None:
    history = warmed(epochs=5, run_dir=tmp_path / "run").history
    # batches of 20, 20 and 10 begin at 0, 0.4 and 0.8 of an epoch: their mean over the data
    inside = (20 * 0 + 20 * 0.4 + 10 * 0.8) / 50
    for row in history:
        expected = min(1, (row["epoch"] - 1 + inside) / 4)
        assert row["objective.beta"] == pytest.approx(expected, rel=1e-12)
    steps = torch.arange(15.0).view(5, 3)
    free = Cosine(0.2, 0, 5).at(steps) @ torch.tensor([0.4, 0.4, 0.2])
    found = torch.tensor([row["objective.free_bits"] for row in history])
    torch.testing.assert_close(found, free)

    lines = (tmp_path / "run" / "metrics.csv").read_text()
    assert "objective.beta" in lines
    events = next((tmp_path / "run").glob("events*")).read_bytes()
    assert b"objective.beta" in events
    config = read_config(tmp_path / "run" / "config.yaml")
    assert config["objective"]["init_args"]["beta"]["class_path"] == "pyro_vae.schedules.Linear"


class StopError(Exception):
    pass


def stop(after: int, event: Event) -> None:
    if event.row["epoch"] == after:
        raise StopError


def traced(*args: Any, **options: Any) -> SVI:
    r"""Steps that are traced as the compiler does, but run by torch's kernels."""
    svi = SVI(*args, **options)
    svi.capture.compiling = {"backend": "aot_eager"}
    return svi


@pytest.mark.parametrize("capture", [False, True])
def test_schedules_go_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capture: bool
) -> None:
    monkeypatch.setattr("pyro_vae.loop.SVI", traced)
    folder = partial(warmed, capture=capture, checkpoint_every=0)
    whole = folder(epochs=4, run_dir=tmp_path / "whole")
    with pytest.raises(StopError):
        folder(epochs=4, run_dir=tmp_path / "cut", callbacks=[partial(stop, 2)])
    again = folder(epochs=4, run_dir=tmp_path / "cut", resume=True)

    assert again.history == whole.history
    first, second = (weights(tmp_path / name) for name in ("whole", "cut"))
    assert first["objective.beta.time"] == pytest.approx(4)
    assert first["objective.free_bits.time"] == 12
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


def weights(folder: Path) -> dict[str, Tensor]:
    return Checkpoint.read(folder / "last.safetensors").weights


def test_a_captured_step_is_compiled_once() -> None:
    model, guide = VAE((F,), D), AmortizedNormal((F,), {"z": D})
    objective = ELBO(beta=Linear(0, 1, 10))
    svi = SVI(model, guide, torch.optim.Adam, objective, capture=True)
    svi.capture.compiling = {"backend": "aot_eager"}
    values = [svi.step_with_metrics(torch.eye(F))[1]["objective.beta"].item() for _ in range(12)]
    assert values == pytest.approx([min(1, step / 10) for step in range(12)])
    assert svi.capture.compilations == 1


def test_time_stands_still_where_a_loss_is_not_finite() -> None:
    model, guide = VAE((F,), D), AmortizedNormal((F,), {"z": D})
    objective = ELBO(beta=Linear(0, 1, 10))
    svi = SVI(model, guide, torch.optim.Adam, objective, capture=False)
    svi.step(torch.eye(F))
    with pyro.validation_enabled(False), pytest.raises(ValueError, match="finite loss"):
        svi.step(torch.full((F, F), torch.nan))
    assert objective.beta.time.item() == 1
    svi.evaluate_loss(torch.eye(F))
    assert objective.beta.time.item() == 1
