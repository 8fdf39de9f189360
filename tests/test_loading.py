r"""Runs that are had again, and what is refused instead."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from made import binary, made, programs, quiet
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from zoo import ZOO, D, F

import pyro_vae
from pyro_vae import Run
from pyro_vae.components import build, dump_config, read_config
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.runs import programs_of
from pyro_vae.runs.checkpoint import Checkpoint

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


def retold(change: Callable[[dict[str, str]], None]) -> Callable[[Path], None]:
    r"""Rewrites what a checkpoint says of itself; the sum over it stays."""

    def altered(folder: Path) -> None:
        path = folder / "last.safetensors"
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata())
        change(metadata)
        save_file(load_file(path), path, metadata)

    return altered


def swapped(folder: Path) -> None:
    r"""Two tensors of one shape change names."""
    path = folder / "last.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    tensors["model.zeros"], tensors["model.ones"] = tensors["model.ones"], tensors["model.zeros"]
    save_file(tensors, path, metadata)


def forged(**parts: Any) -> Callable[[Path], None]:
    r"""A checkpoint whose sum is right, by somebody who knows how."""

    def altered(folder: Path) -> None:
        path = folder / "last.safetensors"
        found = Checkpoint.read(path)
        path.write_bytes(Checkpoint(found.weights, {**found.state, **parts}).dump())

    return altered


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no run": (lambda folder: (folder / "config.yaml").unlink(), "there is no config.yaml"),
    "no weights": (lambda folder: (folder / "last.safetensors").unlink(), "got no such file"),
    "a bit flipped": (alter("last.safetensors", flip), "altered"),
    "another epoch": (
        retold(lambda said: said.update(tree=said["tree"].replace('["epoch", 1]', '["epoch", 2]'))),
        "altered",
    ),
    "no sum": (retold(lambda said: said.pop("sha256")), "altered"),
    "names changed": (swapped, "altered"),
    "an example of exabytes": (
        forged(example={"rows": 10**15, "fields": [torch.zeros(1, F)]}),
        "expected a run as fit writes it",
    ),
    "an example of nothing": (forged(example=3), "expected a run as fit writes it"),
    "a history of numbers": (forged(history=[1, 2]), "expected a run as fit writes it"),
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


def test_a_file_is_not_imported_unless_its_sum_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "marker"
    source = "from pyro_vae.models import VAE\n\n\nclass Mine(VAE):\n    pass\n"
    (tmp_path / "mine.py").write_text(source)
    spec = {"class_path": "mine.py:Mine", "init_args": {"latents": D, "event_shape": [F]}}
    model = build(spec, "model", allow=["mine.py"])
    quiet(model, programs()[1], binary(), epochs=1, run_dir="run")
    (tmp_path / "mine.py").write_text(f"{source}open({str(marker)!r}, 'w')\n")
    with pytest.raises(ValueError, match="expected the file that was recorded"):
        Run.load("run", guide=programs()[1], allow="mine.py")

    # the same, by somebody who leaves the sums out
    config = {**read_config(tmp_path / "run" / "config.yaml"), "files": {}}
    (tmp_path / "run" / "config.yaml").write_text(dump_config(config))
    forged(programs=programs_of(config))(tmp_path / "run")
    with pytest.raises(ValueError, match="expected the file that was recorded"):
        Run.load("run", guide=programs()[1], allow="mine.py")
    del config["files"]
    (tmp_path / "run" / "config.yaml").write_text(dump_config(config))
    forged(programs=programs_of(config))(tmp_path / "run")
    with pytest.raises(ValueError, match="expected the file that was recorded"):
        Run.load("run", guide=programs()[1], allow="mine.py")
    assert not marker.exists()


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
