r"""Fits whose steps are captured: what decides it, is written down, and is repeated."""

from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from made import binary, made, programs, quiet
from torch import Tensor

from pyro_vae import SVI, fit
from pyro_vae.capture import Capture
from pyro_vae.components import read_config
from pyro_vae.guides import AmortizedNormal
from pyro_vae.progress import TrainingProgress
from pyro_vae.uncapturable import Uncapturable


@pytest.fixture(autouse=True)
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    r"""Without the compiler; steps pay from 4 on."""
    monkeypatch.setattr("pyro_vae.capture._WORTH", 4)
    init = Capture.__init__

    def patched(self: Capture, *args: Any) -> None:
        init(self, *args)
        self.compiling = {"backend": "aot_eager"}

    monkeypatch.setattr(Capture, "__init__", patched)


def decision(folder: Path) -> Any:
    return read_config(folder / "config.yaml")["capture"]


@pytest.mark.parametrize(
    ("capture", "epochs", "decided"),
    [("auto", 3, False), ("auto", 4, True), (True, 2, True), (False, 9, False)],
)
def test_the_decision_is_written_down(
    capture: Any, epochs: int, decided: bool, tmp_path: Path, counted: list[int]
) -> None:
    run = made(tmp_path / "run", capture=capture, epochs=epochs)  # a step an epoch
    assert decision(tmp_path / "run") is decided
    assert run.config["capture"] is decided
    assert counted == [1 if decided else 0]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    r"""How many graphs each SVI made."""
    made: list[SVI] = []
    init = SVI.__init__

    def patched(self: SVI, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(SVI, "__init__", patched)

    class Counts(list[int]):
        def __eq__(self, other: object) -> bool:
            return [svi.capture.compilations for svi in made] == other

    return Counts()


def test_a_run_that_goes_on_repeats_it(tmp_path: Path, counted: list[int]) -> None:
    r"""Though with more epochs another would be made now."""
    for folder, epochs in (("few", 2), ("few", 8), ("many", 5), ("many", 6)):
        pyro.set_rng_seed(0)
        made(tmp_path / folder, epochs=epochs, resume=True)
    assert decision(tmp_path / "few") is False
    assert decision(tmp_path / "many") is True
    assert counted == [0, 0, 1, 1]


def branching(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        loc = z if float(z.sum()) > 0 else 2 * z
        loc = loc.sum(-1, keepdim=True).expand(*loc.shape[:-1], 5)
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def test_what_cannot_be_captured_is_written_down_too(tmp_path: Path) -> None:
    guide = AmortizedNormal((5,), {"z": 2})
    with pytest.warns(UserWarning, match=r"taken eagerly: .*test_captured_runs.py:\d+ `loc = "):
        quiet(branching, guide, binary(), epochs=9, run_dir=tmp_path / "auto")
    assert decision(tmp_path / "auto") is False
    with pytest.raises(Uncapturable, match=r"test_captured_runs.py:\d+ `loc = z if float"):
        quiet(branching, guide, binary(), epochs=9, run_dir=tmp_path / "must", capture=True)


def test_the_bar_says_that_it_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(TrainingProgress, "say", lambda self, text: said.append(text))
    pyro.set_rng_seed(0)
    fit(*programs(), binary(), epochs=4, progress=False, device="cpu", capture=True)
    assert said == ["compiling the step (1)"]


def test_a_wrong_value(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="capture to be True, False or 'auto', got 'always'"):
        made(tmp_path / "run", capture="always")
    assert not (tmp_path / "run").exists()


def test_the_learning_rate_of_a_schedule_and_clipping_are_those_of_eager_steps() -> None:
    options: dict[str, Any] = {
        "epochs": 5,
        "batch_size": 10,
        "optimizer": partial(torch.optim.SGD, lr=0.1),
        "schedule": partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.8),
        "schedule_interval": "step",
        "clip_norm": 1.0,
    }
    histories = []
    for capture in (True, False):
        pyro.set_rng_seed(0)
        histories.append(quiet(*programs(), binary(), capture=capture, **options).history)
    for ours, theirs in zip(*histories, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)
