r"""Checkpoints: every kind of value, every source of randomness, a small share of the time."""

import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from made import programs

from pyro_vae.runs import RunFolder, random_state, set_random_state
from pyro_vae.runs.checkpoint import Checkpoint


def test_a_checkpoint_keeps_every_kind_of_value(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    weights = {"a": shared, "b": shared.T, "c": torch.tensor(3), "d": torch.empty(0, 2)}
    state = {
        "counter": Counter({3: 2}),
        "tuple": (1, 2.5, None, True, "word"),
        "numbers": {3: 0.1, 4: math.inf},
        "nested": [{"x": torch.tensor([1.0], dtype=torch.bfloat16)}, []],
        "fraction": 0.1 + 0.2,
    }
    (tmp_path / "x").write_bytes(Checkpoint(weights, state).dump())
    found = Checkpoint.read(tmp_path / "x")
    assert found.weights.keys() == weights.keys()
    for name, tensor in weights.items():
        assert found.weights[name].dtype == tensor.dtype
        assert torch.equal(found.weights[name], tensor)
    nested = found.state["nested"][0].pop("x")
    assert nested.dtype == torch.bfloat16
    assert nested.item() == 1
    assert found.state == {**state, "nested": [{}, []]}
    assert isinstance(found.state["tuple"], tuple)
    assert isinstance(found.state["counter"], Counter)


def test_what_cannot_be_saved_is_named() -> None:
    with pytest.raises(TypeError, match=r"got function at state.schedule.f"):
        Checkpoint({}, {"schedule": {"f": programs}}).dump()


def test_every_source_of_randomness_is_kept() -> None:
    def draw() -> list[float]:
        return [random.gauss(0, 1), random.random(), np.random.normal(), torch.rand(()).item()]

    draw()  # an odd number of normals: both keep a second one
    state = random_state()
    expected = draw() + draw()
    set_random_state(state)
    assert draw() + draw() == expected


def test_checkpoints_take_a_small_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, write = 0.0, RunFolder.write
    monkeypatch.setattr("time.monotonic", lambda: now)

    def slowly(self: RunFolder, name: str, content: str | bytes) -> Path:
        nonlocal now
        now += 2.0
        return write(self, name, content)

    with RunFolder(tmp_path, every=10.0) as folder:
        folder.begin({}, {}, {"programs": "", "example": None})
        assert not folder.due
        now = 10.0
        assert folder.due
        monkeypatch.setattr(RunFolder, "write", slowly)
        folder.save({}, {"history": []})
        now = 12.0 + 37.0
        assert not folder.due
        now = 12.0 + 38.0
        assert folder.due
