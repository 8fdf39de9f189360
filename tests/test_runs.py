r"""A run's folder: what it holds, what is left of it, how it is had again, what it refuses."""

import csv
import errno
import json
import math
import os
import random
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from zoo import ZOO, D, F

import pyro_vae
from pyro_vae import Run, fit
from pyro_vae.components import build, read_config
from pyro_vae.data import load
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.runs import RunFolder, random_state, set_random_state
from pyro_vae.runs.checkpoint import Checkpoint

quiet = partial(fit, progress=False, device="cpu")


def programs() -> tuple[VAE, AmortizedNormal]:
    return VAE((F,), D), AmortizedNormal((F,), {"z": D})


def binary(rows: int = 30) -> Tensor:
    return (torch.rand(rows, F) < 0.4).to(torch.get_default_dtype())


def made(folder: Path, **options: Any) -> Run:
    return quiet(*programs(), load(binary()), **{"epochs": 2, **options}, run_dir=folder)


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(e.step, e.value) for e in EventAccumulator(str(folder)).Reload().Scalars(tag)]


# what it holds


def test_a_folder_holds_what_was_trained(tmp_path: Path) -> None:
    model, guide = programs()
    run = quiet(model, guide, binary(10), epochs=3, run_dir=tmp_path / "a" / "run")
    assert run.path == tmp_path / "a" / "run"
    assert run.weights == "last"  # without validation

    with (run.path / "metrics.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert rows == run.history
    assert set(rows[0]) == {
        *("epoch", "step", "objective", "elbo", "log_likelihood", "kl", "kl.z", "bpd"),
    }
    for row in rows:
        assert row["bpd"] == pytest.approx(-row["elbo"] / (F * math.log(2)))

    saved = load_file(run.path / "last.safetensors")
    expected = {f"model.{k}": v for k, v in model.state_dict().items()}
    expected |= {f"guide.{k}": v for k, v in guide.state_dict().items()}
    assert expected.keys() <= saved.keys()
    assert all(torch.equal(saved[key], value) for key, value in expected.items())

    found = scalars(run.path, "elbo")
    assert [step for step, _ in found] == [row["step"] for row in run.history]
    assert [value for _, value in found] == pytest.approx([row["elbo"] for row in run.history])
    names = {path.name for path in run.path.iterdir() if "tfevents" not in path.name}
    assert names == {"config.yaml", "environment.json", "last.safetensors", "metrics.csv"}


def test_the_configuration_says_how_to_repeat_the_run(tmp_path: Path) -> None:
    model = build(
        {"class_path": "VAE", "init_args": {"latents": D}}, "model", known={"event_shape": (F,)}
    )
    decay = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9)
    guide = AmortizedNormal((F,), {"z": D})
    quiet(model, guide, binary(), epochs=1, seed=3, schedule=decay, run_dir=tmp_path)
    config = read_config(tmp_path / "config.yaml")
    assert config["format"] == 1
    assert config["model"] == {
        "class_path": "pyro_vae.models.VAE",
        "init_args": {"latents": D, "event_shape": [F]},
    }
    assert config["guide"] == {"given": "pyro_vae.guides.normal.AmortizedNormal"}
    assert config["objective"]["class_path"] == "pyro_vae.objectives.ELBO"
    assert config["optimizer"] == {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}}
    assert config["schedule"] == {
        "class_path": "torch.optim.lr_scheduler.ExponentialLR",
        "init_args": {"gamma": 0.9},
    }
    assert (config["seed"], config["epochs"], config["precision"]) == (3, 1, "float64")


def test_the_environment_is_noted(tmp_path: Path) -> None:
    made(tmp_path, seed=7)
    found = json.loads((tmp_path / "environment.json").read_text())
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["versions"]["pyro-vae"] == pyro_vae.__version__
    assert (found["device"], found["threads"], found["seed"]) == ("cpu", 1, 7)
    assert found["data"]["splits"]["train"]["x"] == {"shape": [24, F], "dtype": "float64"}


def test_weights_of_plain_functions_are_saved_by_name(tmp_path: Path) -> None:
    model, guide, (x,) = ZOO["plain_functions"]()
    quiet(model, guide, x, epochs=1, run_dir=tmp_path)
    saved = load_file(tmp_path / "last.safetensors")
    assert {"model.prior_scale", "model.noise", "model.decoder.0.weight"} <= saved.keys()
    unconstrained = dict(pyro.get_param_store().named_parameters())["noise"]
    assert torch.equal(saved["model.noise"], unconstrained)


# the best and the last weights


def test_the_best_weights_by_validation_are_kept(tmp_path: Path) -> None:
    # at this rate the bound soon gets worse again
    data = load(binary(60))
    model, guide = programs()
    run = quiet(
        *(model, guide, data),
        epochs=12,
        optimizer=partial(torch.optim.Adam, lr=0.3),
        run_dir=tmp_path,
    )
    bounds = [row["validation.elbo"] for row in run.history]
    best = max(range(12), key=bounds.__getitem__)
    assert best < 11
    assert run.weights == "best"

    saved = {which: load_file(tmp_path / f"{which}.safetensors") for which in ("best", "last")}
    for name, tensor in model.state_dict().items():
        assert torch.equal(saved["best"][f"model.{name}"], tensor)
    weight = "model.decoder.0.weight"
    assert not torch.equal(saved["best"][weight], saved["last"][weight])

    found = pyro_vae.evaluate(model, guide, data.validation, metrics=("elbo",), particles=1)
    assert float(found["elbo"]) == pytest.approx(bounds[best], abs=1e-12)

    for which in ("best", "last"):
        loaded = Run.load(tmp_path, *programs(), weights=which)
        assert loaded.weights == which
        assert torch.equal(loaded.model.state_dict()["decoder.0.weight"], saved[which][weight])
    assert Run.load(tmp_path, *programs()).weights == "best"
    assert Run.load(tmp_path, *programs(), weights="last").history == run.history


# loading


LOADED = ["vae", "plain_functions", "auto_normal", "batch_norm_and_dropout", "mixture"]


@pytest.mark.parametrize("name", LOADED)
def test_programs_take_their_weights_up(name: str, tmp_path: Path) -> None:
    model, guide, batch = ZOO[name]()
    fields = dict(zip("xyzw", batch, strict=False))
    run = quiet(model, guide, fields, inputs=tuple(fields), epochs=2, run_dir=tmp_path)
    bound = partial(pyro_vae.evaluate, data=fields, inputs=tuple(fields), metrics=("elbo",))
    expected = bound(model, guide)

    pyro.clear_param_store()
    pyro.set_rng_seed(5)
    model, guide, _ = ZOO[name]()  # another initialisation
    before = torch.get_rng_state()
    loaded = Run.load(tmp_path, model, guide)
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.history == run.history
    found = bound(model, guide)
    assert {n: float(e) for n, e in found.items()} == {n: float(e) for n, e in expected.items()}


def test_a_described_run_is_built_again(tmp_path: Path) -> None:
    shape = {"event_shape": (F,), "sites": {"z": 3}}
    model = build({"class_path": "VAE", "init_args": {"latents": 3}}, "model", known=shape)
    guide = build("AmortizedNormal", "guide", known=shape)
    quiet(model, guide, binary(), epochs=1, run_dir=tmp_path)
    torch.set_default_dtype(torch.float32)
    loaded = Run.load(tmp_path)
    assert torch.get_default_dtype() == torch.float32
    for program, was in ((loaded.model, model), (loaded.guide, guide)):
        assert type(program) is type(was)
        for name, tensor in was.state_dict().items():
            assert torch.equal(program.state_dict()[name], tensor)


def alter(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def altered(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return altered


def outside(folder: Path) -> None:
    (folder / "last.safetensors").rename(folder.parent / "elsewhere.safetensors")
    (folder / "last.safetensors").symlink_to(folder.parent / "elsewhere.safetensors")


def foreign(folder: Path) -> None:
    save_file({"model.w": torch.zeros(2)}, folder / "last.safetensors")


def pickled(folder: Path) -> None:
    torch.save({"model.w": torch.zeros(2)}, folder / "last.safetensors")


def flip(raw: bytes) -> bytes:
    return raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:]


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no run": (lambda folder: (folder / "config.yaml").unlink(), "there is no config.yaml"),
    "no weights": (lambda folder: (folder / "last.safetensors").unlink(), "got no such file"),
    "a bit flipped": (alter("last.safetensors", flip), "altered"),
    "cut short": (alter("last.safetensors", lambda raw: raw[:-100]), "damaged"),
    "empty": (alter("last.safetensors", lambda raw: b""), "damaged"),
    "a header of exabytes": (
        alter("last.safetensors", lambda raw: (2**60).to_bytes(8, "little") + raw[8:]),
        "damaged",
    ),
    "a pickle": (pickled, "damaged"),
    "another's file": (foreign, "expected format 1, got none"),
    "a link out": (outside, "leads out of it"),
    "another version": (
        alter("config.yaml", lambda raw: raw.replace(b"format: 1", b"format: 2")),
        "expected format 1, got 2",
    ),
    "other programs": (
        alter("config.yaml", lambda raw: raw.replace(b"VAE", b"VAEE")),
        "other programs than those whose weights are here",
    ),
    "a tag": (
        alter("config.yaml", lambda raw: raw + b"x: !!python/object/apply:os.system ['true']\n"),
        "no tags",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_run_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    quiet(*programs(), binary(), epochs=1, run_dir=folder)
    spoil, match = BROKEN[name]
    spoil(folder)
    with pytest.raises(ValueError, match=match):
        Run.load(folder, *programs())


def test_programs_made_in_python_must_be_passed(tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(ValueError, match=r"the run's model \(.*VAE\) was made in Python"):
        Run.load(tmp_path)


def test_other_programs_are_refused_and_left_alone(tmp_path: Path) -> None:
    made(tmp_path)
    model, guide = VAE((F,), D + 1), AmortizedNormal((F,), {"z": D})
    before = {name: tensor.clone() for name, tensor in guide.state_dict().items()}
    with pytest.raises(ValueError, match=r"'model.zeros' is \(2,\) of torch.float64"):
        Run.load(tmp_path, model, guide)
    assert all(torch.equal(before[name], tensor) for name, tensor in guide.state_dict().items())
    with pytest.raises(ValueError, match=r"of torch\.float64, got one that is"):
        Run.load(tmp_path, *(program.float() for program in programs()))
    with pytest.raises(ValueError, match="'best' or 'last', got 'first'"):
        Run.load(tmp_path, *programs(), weights="first")


# folders that are taken


def occupied_by_notes(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")


def occupied_by_a_config(folder: Path) -> None:
    (folder / "config.yaml").write_text("mine: true")
    (folder / "photo.png").write_text("mine")


@pytest.mark.parametrize("occupy", [occupied_by_notes, occupied_by_a_config])
@pytest.mark.parametrize("option", [{}, {"overwrite": True}, {"resume": True}])
def test_what_is_no_run_is_never_overwritten(
    occupy: Callable[[Path], None], option: dict[str, bool], tmp_path: Path
) -> None:
    occupy(tmp_path)
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="which holds other files: choose another"):
        made(tmp_path, **option)
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_run_is_overwritten_on_request_only(tmp_path: Path) -> None:
    made(tmp_path, epochs=3)
    (tmp_path / "notes.txt").write_text("mine")
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"holds a run: resume it \(resume=True, --resume\)"):
        made(tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == before
    run = made(tmp_path, epochs=1, validation=False, overwrite=True)
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 2
    assert scalars(tmp_path, "epoch") == [(1, 1.0)]
    assert not (tmp_path / "best.safetensors").exists()  # that of the deleted run
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(run.history) == 1


def test_a_broken_pair_deletes_no_run(tmp_path: Path) -> None:
    made(tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    model, _ = programs()
    with pytest.raises(ValueError, match="site 'z'"):
        quiet(model, AmortizedNormal((F,), {"y": D}), binary(), run_dir=tmp_path, overwrite=True)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="expected a folder, got the file"):
        made(tmp_path / "file")
    with pytest.raises(ValueError, match="expected a folder that can be made"):
        made(tmp_path / "file" / "below")
    with pytest.raises(ValueError, match="expected run_dir"):
        quiet(*programs(), binary(), resume=True)


def test_notes_have_names_of_their_own(tmp_path: Path) -> None:
    for particles, resume in ((7, False), (8, True)):
        torch.manual_seed(0)
        run = made(tmp_path, epochs=1, resume=resume, notes={"particles": particles})
        assert run.config["particles"] == particles
    with pytest.raises(ValueError, match=r"names of their own, got \['epochs'\]"):
        made(tmp_path / "new", notes={"epochs": 3})


@pytest.mark.parametrize("name", ["../x", "/tmp/x", ".", "link/x"])
def test_no_file_is_written_outside(name: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    folder = tmp_path / "run"
    run = made(folder)
    (folder / "link").symlink_to(tmp_path / "out")
    with pytest.raises(ValueError, match="leads out of it"):
        run.write(name, "text")
    assert run.write("note.txt", "text").read_text() == "text"
    with pytest.raises(ValueError, match="a run with a folder"):
        Run(*programs()).write("note.txt", "text")


# a disk that is full


@pytest.mark.parametrize("after", range(1, 12))
def test_a_full_disk_leaves_a_run_that_goes_on(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    r"""ENOSPC at each of the first writes in turn, half of what was to be written being there."""
    fsync, left = os.fsync, after

    def full(handle: int) -> None:
        nonlocal left
        left -= stat.S_ISREG(os.fstat(handle).st_mode)
        if left <= 0:
            os.truncate(handle, os.fstat(handle).st_size // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    def run(resume: bool, folder: Path) -> Run:
        pyro.set_rng_seed(0)
        every = {"checkpoint_every": 0.0, "resume": resume, "validation": False}
        return quiet(*programs(), binary(), epochs=2, batch_size=15, run_dir=folder, **every)

    whole = run(False, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run(False, tmp_path / "run")
    assert not [path for path in (tmp_path / "run").iterdir() if path.suffix == ".part"]
    checkpoint = tmp_path / "run" / "last.safetensors"
    if checkpoint.exists():
        assert Checkpoint.read(checkpoint).state["step"] >= 1
    assert run(True, tmp_path / "run").history == whole.history


# checkpoints


def test_a_checkpoint_keeps_every_kind_of_value(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    weights = {"a": shared, "b": shared.T, "c": torch.tensor(3), "d": torch.empty(0, 2)}
    state = {
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
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    folder = RunFolder(tmp_path, every=10.0)
    folder.begin({}, {}, {"programs": "", "example": None})
    assert not folder.due
    now = 10.0
    assert folder.due
    write = RunFolder.write

    def slowly(self: RunFolder, name: str, content: str | bytes) -> Path:
        nonlocal now
        now += 2.0
        return write(self, name, content)

    monkeypatch.setattr(RunFolder, "write", slowly)
    folder.save({}, {"history": []})
    now = 12.0 + 37.0
    assert not folder.due
    now = 12.0 + 38.0
    assert folder.due
