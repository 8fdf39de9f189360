r"""A run's folder: what it holds, and which weights."""

import csv
import json
import math
from functools import partial
from pathlib import Path

import pyro
import pytest
import torch
from made import binary, made, programs, quiet, scalars
from safetensors.torch import load_file
from zoo import ZOO, D, F

import pyro_vae
from pyro_vae import Run
from pyro_vae.components import build, read_config
from pyro_vae.data import load
from pyro_vae.guides import AmortizedNormal


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


def test_the_last_checkpoint_has_the_best_weights_too(tmp_path: Path) -> None:
    run = made(tmp_path)
    (tmp_path / "best.safetensors").unlink()
    loaded = Run.load(tmp_path, *programs())
    assert loaded.weights == "best"
    for name, tensor in run.model.state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(loaded.model.state_dict()[name], tensor)  # type: ignore[attr-defined]
    (tmp_path / "elsewhere").mkdir()
    made(tmp_path / "elsewhere", validation=False)
    with pytest.raises(ValueError, match="best on a validation split, got a run without one"):
        Run.load(tmp_path / "elsewhere", *programs(), weights="best")


def test_the_best_weights_alone_are_enough(tmp_path: Path) -> None:
    run = made(tmp_path)
    (tmp_path / "last.safetensors").unlink()
    loaded = Run.load(tmp_path, *programs())
    assert loaded.weights == "best"
    for name, tensor in run.model.state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(loaded.model.state_dict()[name], tensor)  # type: ignore[attr-defined]
