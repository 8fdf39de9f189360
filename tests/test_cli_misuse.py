r"""What users do wrong, and the one line that each command says of it."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import FIT, complaint, images
from safetensors.torch import load_file, save_file

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.components import build

LEAVES = """
import sys

class Leaves:
    def __init__(self, latents):
        sys.exit(3)
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    r"""A folder with a run, data of several shapes, and a file of Python."""
    place: Path = tmp_path_factory.mktemp("misuse")
    images(place / "images.npz")
    np.save(place / "vectors.npy", np.random.default_rng(0).normal(size=(40, 5)))
    np.save(place / "few.npy", np.arange(3.0).reshape(1, 3))
    (place / "occupied").touch()
    (place / "other").mkdir()
    (place / "other" / "letter.txt").write_text("dear")
    (place / "mine.py").write_text("class Mine:\n    pass\n")
    (place / "leaves.py").write_text(LEAVES)
    (place / "few.yaml").write_text("patience: 0\n")
    (place / "broken.yaml").write_text("model: [VAE\n")
    (place / "tag.yaml").write_text("model: !!python/object/apply:os.system [touch marker]\n")
    (place / "one.yaml").write_text("metrics: elbow\n")
    (place / "some.yaml").write_text("metrics: [nll, elbow]\n")
    (place / "keys.yaml").write_text("modle: VAE\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main([*FIT, "--quiet", "--out", "run"]) == 0
    return place


@pytest.fixture(autouse=True)
def elsewhere(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    shutil.copytree(original, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


FITTING: dict[str, tuple[str, str]] = {
    "model": (
        "--model VAEE",
        "VAE), got 'VAEE'; did you mean VAE?",
    ),
    "model, case": ("--model vae", "did you mean VAE?"),
    "guide": ("--guide amortizednormal", "did you mean AmortizedNormal?"),
    "objective": ("--objective ELBOW", "did you mean ELBO?"),
    "likelihood": ("--likelihood Gaussian", "expected one of pyro_vae.likelihoods"),
    "likelihood that needs more": ("--likelihood Binomial", "a value of total_count, got none"),
    "likelihood that does not fit": ("--likelihood Bernoulli --data vectors.npy", "Bernoulli"),
    "network": ("--model.decoder conv_decodr", "did you mean conv_decoder?"),
    "optimizer": ("--optimizer Adm", "did you mean Adam?"),
    "schedule": ("--schedule StepLr", "did you mean StepLR?"),
    "argument": ("--model.latent 3", "got --model.latent; did you mean --model.latents?"),
    "argument of a network": ("--model.decoder mlp --model.decoder.hiden 3", "decoder.hidden?"),
    "type of an argument": (
        "--model.latents many",
        "--model.latents: expected a whole number, got 'many'",
    ),
    "value of an argument": ("--model.latents 0", "a positive number of features"),
    "data": ("--data digit", "did you mean 'digits'?"),
    "file": ("--data missing.csv", "missing.csv"),
    "binarization": ("--data.binarization often", "none, static or dynamic, got 'often'"),
    "label": ("--data.label z", "label"),
    "epochs": ("--epochs 0", "--epochs: expected a whole number of at least 1, got 0"),
    "no number": ("--epochs many", "expected a whole number of at least 1, got 'many'"),
    "no value": ("--epochs", "--epochs: expected a whole number of at least 1, got none"),
    "value in a file": (
        "--config few.yaml",
        "--patience: expected a whole number of at least 1 or null, got 0",
    ),
    "patience": ("--patience 0", "--patience: expected a whole number of at least 1 or null"),
    "names": ("--inputs y", "--inputs: expected a list of names, such as '[x, y]', got 'y'"),
    "mapping": ("--guide.sites {z:3}", "got '{z:3}'; write '{z: 3}'"),
    "batch size": ("--batch-size 1.5", "--batch-size"),
    "particles": ("--particles 0", "--particles"),
    "seed": ("--seed -1", "--seed: expected a whole number from 0 to 4294967295, got -1"),
    "precision": ("--precision float16", "expected float32 or float64, got 'float16'"),
    "clip norm": ("--clip-norm 0", "--clip-norm: expected a number above 0 or null, got 0"),
    "patience without validation": ("--patience 2 --validation false", "patience"),
    "inputs": ("--inputs [z]", "'z'"),
    "flag": ("--epoch 3", "got --epoch; did you mean --epochs?"),
    "device": ("--device gpu", "a device that is here"),
    "meta device": ("--device meta", "a device that is here"),
    "folder in a file": ("--out occupied/new", "a folder that can be made"),
    "file as a folder": ("--out occupied", "expected a folder, got the file occupied"),
    "folder of others": ("--out other --force", "which holds other files: choose another"),
    "run that is there": ("--out run", "which holds a run: resume it (resume=True, --resume)"),
    "config": ("--config missing.yaml", "missing.yaml"),
    "config, broken": ("--config broken.yaml", "broken.yaml"),
    "config with a tag": ("--config tag.yaml", "tag.yaml"),
    "config, key": ("--config keys.yaml", "got 'modle'; did you mean model?"),
    "nothing to resume": ("--resume", "expected --out RUN"),
    "resumed with others": (
        "--resume --out run --batch-size 7",
        "the batch_size that the run began",
    ),
    "resumed and deleted": ("--resume --force --out run", "or --force, got both"),
    "products": ("--products float16", "expected float32 or bfloat16, got 'float16'"),
    "products of numbers in double precision": (
        "--products bfloat16 --precision float64",
        "expected a program in float32, whose networks can multiply in bfloat16, got",
    ),
    "resumed with other products": (
        "--resume --out run --products bfloat16",
        "run: expected the products that the run began with, float32, got bfloat16",
    ),
    "resumed in another precision": (
        "--resume --out run --precision float64",
        "run: expected --precision float32, which the run began in, got float64",
    ),
    "constructor that exits": ("--model leaves.py:Leaves", "got SystemExit: 3"),
    "file without a name": ("--model mine.py", "write mine.py:NAME, one of Mine"),
    "file that is not there": ("--model yours.py:Mine", "yours.py"),
    "name in a file": ("--model mine.py:Min", "did you mean Mine?"),
    "package": ("--model os.system", "--allow"),
    "guide for others": ("--guide.sites {'w':3}", "w"),
}


@pytest.mark.parametrize("name", FITTING)
def test_fit(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags, message = FITTING[name]
    before = files()
    assert message in complaint(capsys, *FIT, *flags.split())
    assert files() == before
    assert not Path("runs").exists()


COMMANDS: dict[str, tuple[str, str]] = {
    "command": (
        "evalute run",
        "expected a command, one of fit, .* got 'evalute'; did you mean eval",
    ),
    "no command": ("", "expected a command, .* got none"),
    "option": ("--verson", "--verson"),
    "no run": ("evaluate", "expected a run's folder, as in pyro-vae evaluate runs/vae-digits"),
    "run": ("sample runs/nowhere", "runs/nowhere"),
    "folder that is no run": ("sample other", "a run's folder, got other, .* no config.yaml"),
    "file that is no run": ("sample images.npz", "a run's folder, got images.npz"),
    "metric": (
        "evaluate run --metrics nll elbow",
        "--metrics: expected elbo, nll, .* smoothness, gap or memorisation, got 'elbow'",
    ),
    "metric, before all else": ("evaluate nowhere --metrics elbow", "memorisation, got 'elbow'"),
    "metric in a file": ("evaluate run --config some.yaml", "memorisation, got 'elbow'"),
    "metric in a file, alone": ("evaluate run --config one.yaml", "memorisation, got 'elbow'"),
    "split": ("evaluate run --split tests", "--split: expected test, validation or train"),
    "weights": ("evaluate run --weights first", "--weights: expected best, last or null, got"),
    "flag": ("traverse run --step 3", "got --step; did you mean --steps?"),
    "count": ("sample run --count 0", "--count: expected a whole number of at least 1, got 0"),
    "datum": ("traverse run --datum 99", "datum to be an index from 0 to 7, got 99"),
    "extent": ("traverse run --extent 0", "--extent: expected a number above 0, got 0"),
    "data that do not fit": ("encode run --data vectors.npy", "(1, 4, 4)"),
    "missing data": ("encode run --data nowhere.npy", "nowhere.npy"),
    "products": (
        "encode run --products bfloat16 --precision float64",
        "expected a program in float32, whose networks can multiply in bfloat16, got",
    ),
    "device": ("encode run --device gpu", "a device that is here"),
    "out": ("sample run --out occupied", "occupied"),
    "config of a run": (
        "evaluate --config run/config.yaml",
        "keys among capture, count, data, device",
    ),
    "flag of list": ("list --jsn", "expected nothing more, got --jsn"),
    "no shell": ("completion", "got none"),
    "kind": ("list modles", "got 'modles'; did you mean models?"),
    "shell": ("completion fish", "expected a shell, one of bash, zsh, tcsh, got 'fish'"),
    "check": ("check --model VAEE", "did you mean VAE?"),
    "two runs": ("sample run run", "expected nothing more, got run"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    line, message = COMMANDS[name]
    before = files()
    said = complaint(capsys, *line.split())
    for part in message.split(" .* "):
        assert part in said
    assert files() == before


def edit(name: str, old: str, new: str) -> None:
    path = Path("run", name)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def plain_weights() -> None:
    r"""Safetensors that no fit wrote."""
    save_file(load_file("run/last.safetensors"), "run/last.safetensors")


DAMAGES: dict[str, tuple[Callable[[], Any], str]] = {
    "other format": (lambda: edit("config.yaml", "format: 1", "format: 99"), "99"),
    "other program": (lambda: edit("config.yaml", "latents: 3", "latents: 4"), "other programs"),
    "no weights": (lambda: [p.unlink() for p in Path("run").glob("*.safetensors")], "checkpoint"),
    "not weights": (lambda: Path("run/last.safetensors").write_bytes(b"no"), "damaged"),
    "weights of no run": (plain_weights, "format"),
    "data that are gone": (
        lambda: edit("config.yaml", "images.npz", "gone.npz"),
        "gone.npz: expected a file, got nothing",
    ),
    "data elsewhere": (
        lambda: edit("config.yaml", "images.npz", "gone.npz"),
        "name where the run's data are now with --data",
    ),
    "unsafe class": (
        lambda: edit("config.yaml", "pyro_vae.models.VAE", "subprocess.check_output"),
        "other programs",
    ),
    "no yaml": (lambda: Path("run/config.yaml").write_text("a: [b"), "config.yaml"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, message = DAMAGES[name]
    damage()
    before = files()
    assert message in complaint(capsys, "sample", "run")
    assert files() == before


def test_data_given_in_python_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    model = build({"class_path": "VAE", "init_args": {"event_shape": [5], "latents": 2}}, "model")
    spec = {"class_path": "AmortizedNormal", "init_args": {"event_shape": [5], "sites": {"z": 2}}}
    pair = model, build(spec, "guide")
    pyro_vae.fit(*pair, torch.eye(5), epochs=1, run_dir="python", progress=False)

    assert "name them with --data" in complaint(capsys, "encode", "python", "--split", "train")
    np.save("rows.npy", np.eye(5))
    words = ["--data", "rows.npy", "--data.test", "0", "--data.validation", "0"]
    assert main(["encode", "python", "--quiet", "--split", "train", *words]) == 0
    expected = pyro_vae.encode(*pair, torch.eye(5))["z"]
    np.testing.assert_allclose(np.load("python/latents.npz")["z"], expected)


@pytest.mark.parametrize(
    "words",
    [[*FIT, "--out", "new"], ["sample", "run", "--out", "new"], ["evaluate", "run"]],
    ids=["fit", "sample", "evaluate"],
)
@pytest.mark.parametrize(
    "code, advice",
    [
        (errno.ENOSPC, "free some, or take another disk"),
        (errno.EACCES, "take a place that you may write to"),
        (errno.EEXIST, "take another place"),
    ],
)
def test_disks_that_take_nothing(
    words: list[str],
    code: int,
    advice: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    before = files()
    monkeypatch.setattr(os, "fsync", refuse)
    assert f"{os.strerror(code)}; {advice}" in complaint(capsys, *words)
    assert files() == before


def test_folders_that_may_not_be_made(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    for words in ([*FIT, "--out", "new"], ["sample", "run", "--out", "new"]):
        said = complaint(capsys, *words)
        assert "new" in said
        assert "Permission denied" in said
    assert not Path("new").exists()


def test_errors_of_other_kinds_are_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no\n  gradients")

    monkeypatch.setattr("pyro_vae.cli.listing.run", fail)
    assert complaint(capsys, "list") == (
        "pyro-vae: error: expected parts that work together, got RuntimeError: no gradients "
        "(PYRO_VAE_TRACEBACK=1 shows where)\n"
    )


def test_a_traceback_is_shown_if_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYRO_VAE_TRACEBACK", "1")
    assert main(["list", "modles"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("pyro-vae: error: expected a kind")


@pytest.mark.parametrize("words, code", [(["--help"], 0), (["list", "models"], 141)])
def test_a_pipe_that_nobody_reads(words: list[str], code: int) -> None:
    run_main = "import sys; from pyro_vae.cli import main; sys.exit(main(sys.argv[1:]))"
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", run_main, *words]
    run = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(write)
    assert (run.returncode, run.stderr) == (code, "")
