r"""Runs that go on: after any step, any signal, further than planned, never as other runs."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.optim import lr_scheduler
from zoo import ZOO, D, F

from pyro_vae import SVI, Run, fit
from pyro_vae.data import load
from pyro_vae.draws import Draw
from pyro_vae.guides import AmortizedNormal
from pyro_vae.interrupts import Interrupts
from pyro_vae.models import VAE
from pyro_vae.objectives import Bound
from pyro_vae.runs.checkpoint import Checkpoint

quiet = partial(fit, progress=False, device="cpu", batch_size=20)
STEPS = 3  # an epoch of 50 rows


class Weighted(nn.Module):
    r"""A bound whose divergence has a weight that is learned, and one that counts its calls."""

    particles, pathwise = 1, True

    def __init__(self) -> None:
        super().__init__()
        self.log_weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, draw: Draw) -> Bound:
        self.calls += 1
        divergence = draw.combine(list(draw.kl.items()))
        value = draw.log_likelihood.mean(0) - self.log_weight.exp() * divergence / self.calls
        return Bound(value, value.mean(), value.mean(), -value.mean())


def functions(**options: Any) -> Run:
    pyro.clear_param_store()
    model, guide, (x,) = ZOO["plain_functions"]()
    return quiet(model, guide, torch.cat([x] * 10)[:50], **options)


def images(**options: Any) -> Run:
    model, guide = VAE((F,), D), AmortizedNormal((F,), {"z": D})
    data = load(torch.rand(70, F), validation=10 / 70, test=10 / 70, binarization="dynamic")
    return quiet(model, guide, data, **options)


def zoo(name: str, **options: Any) -> Run:
    model, guide, (x,) = ZOO[name]()
    return quiet(model, guide, torch.cat([x] * 10)[:50], **options)


def mapped(**options: Any) -> Run:
    r"""Rows that other processes read from a file."""
    model, guide = VAE((F,), D), AmortizedNormal((F,), {"z": D})
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/x.npy", torch.rand(70, F).numpy())
        data = load(f"{folder}/x.npy", mmap=True, binarization="dynamic")
        return quiet(model, guide, data, workers=1, **options)


def adam(**options: Any) -> Any:
    return partial(torch.optim.Adam, lr=0.02, **options)


def sequence(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    parts = lr_scheduler.LinearLR(optimizer), lr_scheduler.MultiStepLR(optimizer, [1, 2])
    return lr_scheduler.SequentialLR(optimizer, list(parts), [2])


CASES: dict[str, Callable[..., Run]] = {
    "vae": images,
    "functions": functions,
    "mapped": mapped,
    "autoguide": partial(zoo, "auto_normal", batch_size=50),  # knows one size of batch
    "statistics": partial(zoo, "batch_norm_and_dropout"),
    "momentum": partial(images, optimizer=partial(torch.optim.SGD, lr=0.01, momentum=0.9)),
    "Pyro's optimiser": partial(images, optimizer=pyro.optim.ClippedAdam({"lr": 0.01})),
    "Pyro's bound": partial(images, objective=Trace_ELBO()),
    "milestones": partial(images, schedule=partial(lr_scheduler.MultiStepLR, milestones=[1])),
    "steps": partial(
        images,
        optimizer=adam(),
        schedule=partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=20),
        schedule_interval="step",
        clip_norm=1.0,
    ),
    "captured": partial(
        images,
        capture=True,
        optimizer=adam(),
        schedule=partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=20),
        schedule_interval="step",
        clip_norm=1.0,
    ),
    "captured statistics": partial(zoo, "batch_norm_and_dropout", capture=True),
    "compiled": partial(images, capture=True),
    "a schedule of schedules": partial(images, schedule=sequence),
    "points": partial(zoo, "auto_delta", batch_size=50),
    "plateau": partial(
        images, optimizer=adam(), schedule=partial(lr_scheduler.ReduceLROnPlateau, patience=0)
    ),
    "patience": partial(images, optimizer=adam(), patience=2),
}


class KilledError(Exception):
    r"""What stops a run without asking it."""


def before_step(stop: int, act: Callable[[], None]) -> Callable[..., Any]:
    r"""A step that does something before it is taken for that time."""
    taken, step = 0, SVI.step_with_metrics

    def stepped(self: SVI, *args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == stop:
            act()
        return step(self, *args, **kwargs)

    return stepped


def kill() -> None:
    raise KilledError


def traced(*args: Any, **options: Any) -> SVI:
    r"""Without the compiler, which takes seconds: what is traced is the same."""
    svi = SVI(*args, **options)
    svi.capture.compiling = {"backend": "aot_eager"}
    return svi


def seeded(case: Callable[..., Run], **options: Any) -> Run:
    pyro.set_rng_seed(0)
    return case(**{"epochs": 3, "checkpoint_every": 0.0, **options})


def content(folder: Path) -> dict[str, Any]:
    r"""All that a run leaves, but for what it ran on."""
    metrics = (folder / "metrics.csv").read_text()
    events = pyro_events(folder)
    last = Checkpoint.read(folder / "last.safetensors").dump()
    found = {"metrics": metrics, "events": events, "last": digest(last)}
    if (folder / "best.safetensors").exists():
        found["best"] = digest(Checkpoint.read(folder / "best.safetensors").dump())
    return found


def digest(raw: bytes) -> str:
    return raw.partition(b'"sha256":"')[2][:64].decode()


def pyro_events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


# within an epoch and at its end; where it costs little also first and last
STOPS = [
    (name, stop)
    for name in CASES
    for stop in ((2, 3) if name in ("autoguide", "points") else (2, 4))
    if (name, stop) != ("compiled", 4)
]
STOPS += [(name, stop) for name in ("vae", "functions", "patience") for stop in (1, 3, 9)]


@pytest.mark.parametrize("name, stop", STOPS)
def test_a_run_goes_on_as_if_nothing_happened(
    name: str, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("captured"):
        monkeypatch.setattr("pyro_vae.loop.SVI", traced)
    whole = seeded(CASES[name], run_dir=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(SVI, "step_with_metrics", before_step(stop, kill))
        with pytest.raises(KilledError):
            seeded(CASES[name], run_dir=tmp_path / "run")
    resumed = seeded(CASES[name], run_dir=tmp_path / "run", resume=True)
    assert content(tmp_path / "run") == content(tmp_path / "whole")
    assert resumed.history == whole.history


def test_the_objective_goes_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def weighted(**options: Any) -> Run:
        return images(objective=Weighted(), **options)

    seeded(weighted, run_dir=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(SVI, "step_with_metrics", before_step(5, kill))
        with pytest.raises(KilledError):
            seeded(weighted, run_dir=tmp_path / "run")
    seeded(weighted, run_dir=tmp_path / "run", resume=True)
    assert content(tmp_path / "run") == content(tmp_path / "whole")
    weights = Checkpoint.read(tmp_path / "run" / "last.safetensors").weights
    assert weights["objective.calls"] >= 3 * STEPS


def test_a_finished_run_is_trained_further(tmp_path: Path) -> None:
    seeded(images, run_dir=tmp_path / "whole", epochs=4)
    first = seeded(images, run_dir=tmp_path / "run", epochs=2)
    again = seeded(images, run_dir=tmp_path / "run", epochs=2, resume=True)
    assert again.history == first.history  # there was nothing left to do
    seeded(images, run_dir=tmp_path / "run", epochs=4, resume=True)
    found, expected = content(tmp_path / "run"), content(tmp_path / "whole")
    assert found == expected


def test_without_a_checkpoint_a_run_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = seeded(images, run_dir=tmp_path / "whole", resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(SVI, "step_with_metrics", before_step(1, kill))
        with pytest.raises(KilledError):
            seeded(images, run_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "last.safetensors").exists()
    assert seeded(images, run_dir=tmp_path / "run", resume=True).history == whole.history


OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "seed": ({"seed": 1}, "the seed that the run began with, 0, got 1"),
    "batches": ({"batch_size": 10}, "the batch_size that the run began with, 20, got 10"),
    "clipping": ({"clip_norm": 1.0}, "the clip_norm that the run began with, None, got 1.0"),
    "objective": ({"objective": Weighted()}, "the objective that the run began with, .*ELBO"),
    "optimiser": ({"optimizer": adam()}, "the optimizer that the run began with, .*Adam"),
    "validation": ({"validation": False}, "the validation that the run began with, True"),
}


@pytest.mark.parametrize("name", OTHER)
def test_a_run_goes_on_only_as_itself(name: str, tmp_path: Path) -> None:
    seeded(images, run_dir=tmp_path, epochs=1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    options, match = OTHER[name]
    with pytest.raises(ValueError, match=match):
        seeded(images, run_dir=tmp_path, resume=True, **options)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_goes_on_only_with_its_data(tmp_path: Path) -> None:
    seeded(images, run_dir=tmp_path, epochs=1)
    pyro.set_rng_seed(1)
    with pytest.raises(ValueError, match="the data that the run began with"):
        images(run_dir=tmp_path, resume=True)


def test_a_run_goes_on_only_with_its_programs(tmp_path: Path) -> None:
    seeded(images, run_dir=tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"the guide that the run began with, .*AmortizedNormal"):
        seeded(functions, run_dir=tmp_path, resume=True)


# signals


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) is handler
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("stop", [2, STEPS, STEPS + 1])
def test_ctrl_c_finishes_the_step_and_saves(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = seeded(images, run_dir=tmp_path / "whole")
    interrupt = partial(signal.raise_signal, signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(SVI, "step_with_metrics", before_step(stop, interrupt))
        with pytest.raises(KeyboardInterrupt):
            seeded(images, run_dir=tmp_path / "run", checkpoint_every=1e9)
    state = Checkpoint.read(tmp_path / "run" / "last.safetensors").state
    assert state["step"] == stop
    resumed = seeded(images, run_dir=tmp_path / "run", resume=True)
    assert resumed.history == whole.history
    assert content(tmp_path / "run") == content(tmp_path / "whole")


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gets_to_the_handler_of_before(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[int] = []
    before = signal.signal(number, lambda number, frame: got.append(number))
    try:
        act = partial(os.kill, os.getpid(), number)
        with monkeypatch.context() as patch:
            patch.setattr(SVI, "step_with_metrics", before_step(4, act))
            run = seeded(images, run_dir=tmp_path)
    finally:
        signal.signal(number, before)
    assert got == [number]
    assert len(run.history) == 1  # a handler that returns ends training, no more
    assert Checkpoint.read(tmp_path / "last.safetensors").state["step"] == 4


@pytest.mark.usefixtures("handlers")
def test_the_second_signal_acts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second was not obeyed")

    monkeypatch.setattr(SVI, "step_with_metrics", before_step(1, twice))
    with pytest.raises(KeyboardInterrupt):
        seeded(images)


@pytest.mark.usefixtures("handlers")
def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGINT)
        assert interrupts.caught is None
        interrupts.obey()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_train_without_handlers() -> None:
    found: list[Run] = []
    thread = threading.Thread(target=lambda: found.append(seeded(images, epochs=1)))
    thread.start()
    thread.join()
    assert len(found[0].history) == 1


def test_a_run_without_a_folder_is_interrupted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        SVI, "step_with_metrics", before_step(2, partial(signal.raise_signal, signal.SIGINT))
    )
    with pytest.raises(KeyboardInterrupt):
        seeded(images)


# processes that are killed


def test_killed_runs_end_as_those_that_were_left_alone() -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "survival.py"
    found = subprocess.run(
        [sys.executable, str(script), "--kills", "20"], capture_output=True, text=True, timeout=500
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("10 kills") == 2
    assert "the same bit for bit" in found.stdout


# states of SVI


def test_what_no_batch_used_yet_is_handed_on() -> None:
    r"""A state that is saved again before its late parameters are met still has them."""

    def model(x: Tensor, late: bool) -> None:
        loc = pyro.param("loc", torch.zeros(F))
        if late:
            loc = loc + pyro.param("late", torch.zeros(F))
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", pyro.distributions.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x: Tensor, late: bool) -> None:
        r"""The model has no latents."""

    x = torch.randn(6, F)
    svi = SVI(model, guide, adam())
    for late in (False, True, True, False):
        svi.step(x, late)
    first = svi.state_dict()
    for late in (False, True):
        svi.step(x, late)
    expected = svi.state_dict()

    pyro.clear_param_store()
    early = SVI(model, guide, adam())
    early.load_state_dict(first)
    early.prepare(x, False)
    second = early.state_dict()
    assert second["tensors"].keys() == first["tensors"].keys()
    pyro.clear_param_store()
    again = SVI(model, guide, adam())
    again.load_state_dict(second)
    for late in (False, True):
        again.step(x, late)
    found = again.state_dict()
    for name, tensor in expected["tensors"].items():
        assert torch.equal(found["tensors"][name], tensor), name
    moments = expected["state"]["model.late"], found["state"]["model.late"]
    assert torch.equal(*(moment["exp_avg"] for moment in moments))
