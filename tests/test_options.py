r"""Options of parts: what flags and a file say together, what help shows, what is refused."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt
from mine import MINE, imported, written
from torch import nn

from pyro_vae.cli.options import parse_options
from pyro_vae.components import build, describe, dump_config, files_of
from pyro_vae.models import VAE
from pyro_vae.nn import conv_decoder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    with written():
        yield tmp_path


def parse(flags: str | list[str], config: Any = None, recorded: tuple[str, ...] = ()) -> Any:
    r"""What a command with one option of its own makes of flags and a configuration."""
    if config is not None:
        text = config if isinstance(config, str) else dump_config(config)
        Path("config.yaml").write_text(text)
    parser = ArgumentParser(prog="pyro-vae fit", exit_on_error=False)
    parser.add_argument("--epochs", type=PositiveInt, default=100)
    parser.add_argument("--batch-size", type=PositiveInt, default=64)
    words = flags.split() if isinstance(flags, str) else flags
    return parse_options(parser, words, recorded=recorded)


def spec(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": arguments}


def test_defaults() -> None:
    assert parse("") == {
        "model": spec("VAE"),
        "guide": spec("AmortizedNormal"),
        "objective": spec("ELBO"),
        "likelihood": None,
        "optimizer": spec("Adam"),
        "schedule": None,
        "data": spec("pyro_vae.data.load", source="digits"),
        "epochs": 100,
        "batch_size": 64,
        "allow": (),
        "files": None,
    }


def test_each_part_is_built_as_in_python() -> None:
    flags = (
        "--model VAE --model.latents 2 --model.decoder conv_decoder "
        "--model.decoder.channels [4] --model.decoder.hidden=6 --model.event_shape [1,8,8] "
        "--optimizer AdamW --optimizer.lr 1e-3 --optimizer.betas [0.5,0.9] --optimizer.amsgrad "
        "--schedule CosineAnnealingLR --schedule.T_max 100 --likelihood Normal "
        "--likelihood.scale 0.1 --objective.kl sampled --objective.particles 5 "
        "--guide AmortizedMultivariateNormal --guide.sites {z:\N{NO-BREAK SPACE}2} "
        "--guide.encoder mlp --guide.encoder.activation LeakyReLU "
        "--guide.encoder.activation.negative_slope 0.5 --guide.event_shape [4]"
    )
    config = parse([flag.replace("\N{NO-BREAK SPACE}", " ") for flag in flags.split(" ")])
    torch.manual_seed(0)
    model = build(config["model"], "model")
    torch.manual_seed(0)
    expected = VAE((1, 8, 8), 2, decoder=partial(conv_decoder, channels=(4,), hidden=6))
    optimizer = build(config["optimizer"], "optimizer")
    schedule = build(config["schedule"], "schedule")
    objective = build(config["objective"], "objective")
    guide = build(config["guide"], "guide")

    assert all(map(torch.equal, model.parameters(), expected.parameters()))
    assert optimizer.func is torch.optim.AdamW
    assert optimizer.keywords == {"lr": 1e-3, "betas": (0.5, 0.9), "amsgrad": True}
    assert schedule.func is torch.optim.lr_scheduler.CosineAnnealingLR
    assert schedule.keywords == {"T_max": 100}
    assert build(config["likelihood"], "likelihood").scale == 0.1
    assert (objective.kl, objective.particles) == ("sampled", 5)
    assert guide.sites == {"z": 2}
    assert repr(guide.encoder[1]) == repr(nn.LeakyReLU(0.5))


def test_arguments_of_a_network_without_a_name_are_those_of_mlp() -> None:
    found = parse("--model.decoder.hidden [9]")["model"]
    assert found == spec("VAE", decoder=spec("mlp", hidden=[9]))


FULL, SGD, RUNS = "pyro_vae.models.VAE", "torch.optim.SGD", "--config config.yaml"
RUN = {
    "model": spec(FULL, latents=3, decoder=spec("conv_decoder", channels=[4])),
    "optimizer": spec(SGD, lr=0.5, momentum=0.9),
    "likelihood": "Bernoulli",
    "schedule": spec("StepLR", step_size=3),
    "data": spec("load", source="digits", binarization="static"),
    "epochs": 7,
}
MNIST = spec("load", source="mnist", download=True)
CONV = spec("conv_decoder", channels=[4])
MERGED: dict[str, tuple[str, str, Any]] = {
    "the file": ("", "model", RUN["model"]),
    "a flag": (
        "--model.latents 5",
        "model",
        spec(FULL, latents=5, decoder=CONV),
    ),
    "the same by a short name": ("--model VAE", "model", spec("VAE", latents=3, decoder=CONV)),
    "an argument of a part": (
        "--model.decoder.hidden 9",
        "model",
        spec(FULL, latents=3, decoder={**CONV, "init_args": {"channels": [4], "hidden": 9}}),
    ),
    "another part below": (
        "--model.decoder mlp",
        "model",
        spec(FULL, latents=3, decoder=spec("mlp")),
    ),
    "none below": (
        "--model.decoder none",
        "model",
        spec(FULL, latents=3, decoder=None),
    ),
    "another part": ("--optimizer Adam", "optimizer", spec("Adam")),
    "another's argument": (
        "--optimizer Adam --optimizer.lr 1",
        "optimizer",
        spec("Adam", lr=1.0),
    ),
    "one of its arguments": (
        "--optimizer.lr 1",
        "optimizer",
        spec(SGD, lr=1.0, momentum=0.9),
    ),
    "the last": ("--optimizer Adam --optimizer=RMSprop", "optimizer", spec("RMSprop")),
    "a name only": ("", "likelihood", spec("Bernoulli")),
    "no likelihood": ("--likelihood none", "likelihood", None),
    "no schedule": ("--schedule null", "schedule", None),
    "data": ("", "data", spec("load", source="digits", binarization="static")),
    "data's argument": (
        "--data.binarization dynamic",
        "data",
        spec("load", source="digits", binarization="dynamic"),
    ),
    "other data": (
        "--data mnist --data.download",
        "data",
        spec("load", source="mnist", download=True),
    ),
    "the same data": ("--data digits", "data", RUN["data"]),
    "what it does not say": ("", "guide", spec("AmortizedNormal")),
    "its own option": ("", "epochs", 7),
    "a flag for it": ("--epochs 8", "epochs", 8),
    "a default": ("", "batch_size", 64),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", MERGED)
def test_flags_win_over_the_file_wherever_they_stand(name: str, first: bool) -> None:
    flags, part, expected = MERGED[name]
    words = ["--config", "config.yaml", flags] if first else [flags, "--config=config.yaml"]
    assert parse(" ".join(words), RUN)[part] == expected


@pytest.mark.parametrize(
    "config, part, expected",
    [
        ({"data": "mnist"}, "data", spec("pyro_vae.data.load", source="mnist")),
        (
            {"data": {"source": "x.npy", "test": 0.5}},
            *("data", spec("pyro_vae.data.load", source="x.npy", test=0.5)),
        ),
        ({"model": {"class_path": "VAE"}}, "model", spec("VAE")),
        ({"model": {"given": "a.B"}}, "model", {"given": "a.B"}),
        ({"objective": None}, "objective", None),
        ({"schedule": None}, "schedule", None),
        ({"batch_size": 3}, "batch_size", 3),
    ],
)
def test_short_ways_of_writing(config: Any, part: str, expected: Any) -> None:
    assert parse(RUNS, config)[part] == expected


def test_what_a_run_recorded_is_read_again() -> None:
    config = parse("--model.latents 2 --model.event_shape [4] --optimizer.lr 0.1 --epochs 3")
    model = build(config["model"], "model")
    recorded = {
        "format": 1,
        "files": {},
        **{"version": "0.1.0", "model": describe(model), "epochs": 3},
        "optimizer": describe(build(config["optimizer"], "optimizer")),
    }
    again = parse(RUNS, recorded, recorded=("version",))
    assert again["model"] == describe(model)
    assert describe(build(again["optimizer"], "optimizer")) == recorded["optimizer"]
    assert (again["epochs"], again["version"], again["files"]) == (3, "0.1.0", {})


@pytest.mark.parametrize("text, value", [("3", 3), ("0.5", 0.5), ("[1,2]", [1, 2]), ("a", "a")])
def test_arguments_without_a_type_are_read_as_yaml(text: str, value: Any, elsewhere: Path) -> None:
    config = parse(f"--model mine.py:Mine --model.depth {text}")
    assert config["model"]["init_args"]["depth"] == value
    with pytest.raises(ValueError, match=r"model.depth.* expected YAML, got '\[1,'"):
        parse("--model mine.py:Mine --model.depth [1,")


def test_a_file_that_a_flag_names_is_allowed(elsewhere: Path) -> None:
    flags = "--model mine.py:Mine --model.width 5 --model.net mine.py:Net --model.net.inputs 2"
    config = parse(f"{flags} --model.net.outputs 3 --guide mine.py:model")
    known = {"event_shape": (4,)}
    model = build(config["model"], "model", allow=config["allow"], known=known)
    guide = build(config["guide"], "guide", allow=config["allow"])
    assert (model.width, model.net.layer.out_features, guide(0)) == (5, 3, "the program")
    assert config["files"] is None
    assert describe(guide) == spec(f"{elsewhere}/mine.py:model")


def record(elsewhere: Path, **more: Any) -> dict[str, Any]:
    model = spec(f"{elsewhere}/mine.py:Mine", event_shape=[4])
    return {"format": 1, "model": model, "files": files_of(model), **more}


def test_a_file_of_a_run_needs_to_be_allowed_and_unchanged(elsewhere: Path) -> None:
    config = record(elsewhere)
    with pytest.raises(ValueError, match=r"mine.py: .* trust it add --allow .*mine\.py"):
        parse(RUNS, config)
    assert not imported()

    found = parse("--config config.yaml --allow mine.py", config)
    assert found["model"] == config["model"]
    assert found["files"] == config["files"]

    Path("imported").unlink()
    Path("mine.py").write_text(MINE + "\n")
    for files in (config["files"], {}, {f"{elsewhere}/mine.py": "0" * 64}):
        with pytest.raises(ValueError, match=r"mine.py: expected the file that was recorded"):
            parse("--config config.yaml --allow mine.py", {**config, "files": files})
    del config["files"]
    with pytest.raises(ValueError, match=r"mine.py: expected the file that was recorded .*none"):
        parse("--config config.yaml --allow mine.py", config)
    assert not imported()

    # named again, it is meant as it is now
    found = parse("--config config.yaml --model mine.py:Mine", config)
    assert found["files"] == files_of("mine.py:Mine")
    assert build(found["model"], "model", allow=found["allow"], files=found["files"]).width == 3


def test_a_file_that_was_written_by_hand_has_no_checksums() -> None:
    config = {"model": "mine.py:Mine"}
    with pytest.raises(ValueError, match="--allow"):
        parse(RUNS, config)
    assert not imported()
    assert parse("--config config.yaml --allow mine.py", config)["files"] is None


HOSTILE: dict[str, tuple[Any, str]] = {
    "class path": ({"model": "os.system"}, "expected a model that may be imported"),
    "part": (
        {"model": spec("VAE", decoder=spec("subprocess.check_output", args=["touch", "imported"]))},
        "expected a network that may be imported",
    ),
    "optimizer": (
        {"optimizer": "torch.optim.torch.load"},
        "expected an optimizer that",
    ),
    "data": ({"data": spec("numpy.load", source="x")}, "expected data that may be imported"),
    "file": ({"guide": "mine.py:model"}, "trust it add --allow"),
    "package": ({"model": "minepackaged.Mine"}, "expected a model that may be imported"),
    "allowing itself": (
        {"model": "mine.py:Mine", "allow": ["mine.py"]},
        "got 'allow'",
    ),
    "another file": ({"config": "mine.yaml"}, "got 'config'"),
    "tag": ("model: !!python/object/apply:os.system [touch imported]", "no tags"),
    "alias": ("model: &a VAE\nguide: *a", "no anchors or aliases"),
    "class in an option": ({"epochs": spec("minepackaged.Mine")}, "epochs: "),
    "files": ({"files": ["mine.py"]}, r"expected files as {path: sha256}"),
    "checksums": ({"files": {"mine.py": 3}}, r"expected files as {path: sha256}"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_imports_nothing_of_its_own(
    name: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(elsewhere))
    config, match = HOSTILE[name]
    with pytest.raises(ValueError, match=match):
        parse(RUNS, config)
    assert not imported()


ERRORS: dict[str, tuple[str, Any, str]] = {
    "model": ("--model VAEE", None, r"one of pyro_vae.models .*got 'VAEE'; did you mean VAE"),
    "no model": ("--model=", None, "one of pyro_vae.models .*got ''"),
    "network": ("--model.decoder mpl", None, "got 'mpl'; did you mean mlp"),
    "flag": (
        "--model.latnets 2",
        None,
        "got --model.latnets; did you mean --model.latents",
    ),
    "of another part": ("--likelihood.scale 1", None, "got --likelihood.scale"),
    "its beginning": ("--epoch 2", None, "got --epoch; did you mean --epochs"),
    "type": ("--model.latents two", None, "--model.latents: expected a whole number, got 'two'"),
    "two types": (
        "--guide.sites 3",
        None,
        r"--guide.sites: expected Mapping\[str, int\] or null, got 3; write it as '{z: 3}'",
    ),
    "choice": (
        "--objective.kl exact",
        None,
        "--objective.kl: expected auto, analytic or sampled, got 'exact'",
    ),
    "own type": ("--epochs 0", None, "--epochs: expected a whole number of at least 1, got 0"),
    "two words": (
        "--batch-size x",
        None,
        "--batch-size: expected a whole number of at least 1, got 'x'",
    ),
    "no value": ("--model", None, "--model: expected"),
    "word": ("digits", None, "expected nothing more, got digits"),
    "no file": ("--config absent.yaml", None, "absent.yaml: expected a file of YAML"),
    "key": (
        "--config config.yaml",
        {"modle": "VAE"},
        "config.yaml: .*got 'modle'; did you mean",
    ),
    "format": (RUNS, {"format": 2}, "expected format 1, got 2: it is no file of"),
    "value": (
        RUNS,
        {"epochs": "many"},
        "epochs: expected a whole number of at least 1, got 'many'",
    ),
    "spec": (RUNS, {"model": [1]}, r"model as a name or as {class_path: …"),
    "arguments": (
        "--config config.yaml",
        {"model": spec("VAE") | {"init_args": 3}},
        "expected model",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    flags, config, match = ERRORS[name]
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        parse(flags, config)


def help_of(flags: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    r"""The entries of a help text by flag."""
    with pytest.raises(SystemExit) as caught:
        parse(f"{flags} --help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    entries = re.split(r"(?= --[\w.-]+ )", text.split("options:")[1])
    return {entry.split()[0]: entry for entry in entries if entry.strip()}


def test_help_shows_the_arguments_of_what_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of("--model VAE --model.decoder conv_decoder", capsys)
    assert "The number of latent features D (type: int, default: 16)" in shown["--model.latents"]
    assert "filled from the data" in shown["--model.event_shape"]
    assert "filled from the data" in shown["--likelihood"]
    assert "filled from the model's latents" in shown["--guide.sites"]
    assert "default: [64, 32]" in shown["--model.decoder.channels"]
    assert "filled from the program" in shown["--model.decoder.inputs"]
    assert "default: 0.001" in shown["--optimizer.lr"]
    assert "digits" in shown["--data"]
    assert "--schedule.T_max" not in shown

    shown = help_of("--schedule CosineAnnealingLR --model mine.py:Mine", capsys)
    assert "required (type: int" in shown["--schedule.T_max"]
    assert "--model.latents" not in shown
    assert "default: 3" in shown["--model.width"]


def test_help_of_the_program_imports_no_torch() -> None:
    code = (
        "import sys\nfrom pyro_vae.cli import main\ntry:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\nassert 'torch' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
