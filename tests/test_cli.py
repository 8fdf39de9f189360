r"""``pyro-vae fit``: what it leaves behind, that its config repeats it, and how it goes on."""

import json
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import FIT, document, images
from pyro.infer.autoguide import AutoNormal
from safetensors.torch import load_file

from pyro_vae.cli import main
from pyro_vae.runs import Run
from pyro_vae.training import Trainer

MINE = """
import math

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import nn

class Mine(PyroModule):
    def __init__(self, event_shape, width=2):
        super().__init__()
        self.layer = nn.Linear(width, math.prod(event_shape))
        self.shape = event_shape

    def forward(self, x):
        with pyro.plate("data", x.shape[0], dim=-1):
            zeros = x.new_zeros(self.layer.in_features)
            code = pyro.sample("code", dist.Normal(zeros, 1.0).to_event(1))
            kinds = dist.OneHotCategorical(logits=zeros)
            pyro.sample("kind", kinds, infer={"enumerate": "parallel"})
            logits = self.layer(code).unflatten(-1, self.shape)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images()


def same(first: str, second: str) -> bool:
    a, b = load_file(f"{first}/last.safetensors"), load_file(f"{second}/last.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_fit_leaves_a_whole_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(FIT) == 0
    out, _ = capsys.readouterr()

    for row in ("ELBO", "reconstruction", "KL of z", "evidence", "bits per dimension"):
        assert row in out
    assert "Weights, metrics and pictures are in runs/vae-images" in out
    assert {path.name for path in Path("runs/vae-images").iterdir()} == {
        *("config.yaml", "environment.json", "metrics.csv", "evaluation.json"),
        *("best.safetensors", "last.safetensors", "events.out.tfevents.pyro_vae"),
        *("samples.png", "reconstructions.png", "latents.png", "curves.png"),
        *("traversals.png", "plane.png"),
    }
    found = json.loads(Path("runs/vae-images/evaluation.json").read_text())
    assert (found["weights"], found["split"], found["particles"]) == ("best", "test", 30)


def test_a_config_repeats_its_run_in_another_folder() -> None:
    options = ["--guide", "AmortizedMultivariateNormal", "--batch-size", "50", "--seed", "3"]
    options += ["--schedule", "ExponentialLR", "--schedule.gamma", "0.5", "--clip-norm", "1"]
    assert main([*FIT, *options, "--quiet", "--out", "first"]) == 0
    config = yaml.safe_load(Path("first/config.yaml").read_text())
    assert config["guide"]["class_path"] == "pyro_vae.guides.AmortizedMultivariateNormal"
    assert (config["epochs"], config["batch_size"], config["seed"]) == (2, 50, 3)

    assert main(["fit", "--config", "first/config.yaml"]) == 0
    again = Path("runs/vae-images")
    assert json.loads((again / "evaluation.json").read_text())["particles"] == 30
    assert same("first", str(again))
    for name in ("config.yaml", "metrics.csv"):
        assert (again / name).read_text() == Path("first", name).read_text()


def test_a_second_run_gets_a_folder_of_its_own() -> None:
    for _ in range(2):
        assert main([*FIT, "--quiet"]) == 0
    assert {path.name for path in Path("runs").iterdir()} == {"vae-images", "vae-images-2"}


def test_a_run_is_replaced_by_force_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT, "--quiet", "--out", "run"]) == 0
    before = Path("run/config.yaml").read_text()
    assert main([*FIT, "--seed", "1", "--out", "run"]) == 2
    assert "--force" in capsys.readouterr().err
    assert Path("run/config.yaml").read_text() == before
    assert main([*FIT, "--seed", "1", "--quiet", "--out", "run", "--force"]) == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["seed"] == 1


@pytest.mark.parametrize(
    "flags",
    [
        ["--out", "run", "--resume"],
        ["--config", "run/config.yaml", "--resume"],
        ["--config=run/config.yaml", "--out=run", "--resume"],
    ],
)
def test_a_run_that_goes_on_is_one_that_was_not_interrupted(flags: list[str]) -> None:
    assert main([*FIT, "--quiet", "--out", "run"]) == 0
    assert main([*FIT, "--epochs", "4", "--quiet", "--out", "whole"]) == 0
    assert main(["fit", *flags, "--epochs", "4", "--quiet"]) == 0
    assert json.loads(Path("run/evaluation.json").read_text())["particles"] == 30

    assert same("run", "whole")
    for name in ("metrics.csv", "config.yaml"):
        assert Path("run", name).read_text() == Path("whole", name).read_text()


@pytest.mark.parametrize(
    "number, code, word",
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_keeps_what_was_trained(
    number: int,
    code: int,
    word: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step_schedule = Trainer._step_schedule

    def interrupted(trainer: Trainer, row: Any) -> None:
        signal.raise_signal(number)
        step_schedule(trainer, row)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step_schedule", interrupted)
        assert main([*FIT, "--out", "run"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2:] == [
        "pyro-vae: go on with: pyro-vae fit --resume --out run",
        f"pyro-vae: {word}",
    ]
    assert "model.decoder.0.weight" in load_file("run/last.safetensors")
    assert signal.getsignal(signal.SIGTERM) is before

    assert main([*FIT, "--quiet", "--out", "whole"]) == 0
    assert main(["fit", "--resume", "--out", "run", "--quiet", "--particles", "30"]) == 0
    assert same("run", "whole")


def test_sites_are_those_of_the_model() -> None:
    Path("mine.py").write_text(MINE)
    flags = ["--model", "mine.py:Mine", "--model.width", "3", "--out", "run", "--quiet"]
    assert main(["fit", "--data", "images.npz", "--epochs", "1", "--particles", "30", *flags]) == 0
    guide = yaml.safe_load(Path("run/config.yaml").read_text())["guide"]["init_args"]
    assert guide["sites"] == {"code": 3}

    assert main(["sample", "run", "--quiet"]) == 2
    assert main(["sample", "run", "--quiet", "--allow", "mine.py"]) == 0


def test_a_likelihood_replaces_that_of_a_config() -> None:
    assert main([*FIT, "--quiet", "--out", "first"]) == 0
    flags = ["--config", "first/config.yaml", "--likelihood", "NormalLearnedScale"]
    assert main(["fit", *flags, "--particles", "30", "--quiet", "--out", "second"]) == 0
    config = yaml.safe_load(Path("second/config.yaml").read_text())
    likelihood = config["model"]["init_args"]["likelihood"]
    assert likelihood["class_path"] == "pyro_vae.likelihoods.NormalLearnedScale"


def test_other_data_and_binarization() -> None:
    torch.manual_seed(0)
    rows = torch.randn(60, 3).tolist()
    lines = ["a,b,c", *(",".join(f"{value:.4f}" for value in row) for row in rows)]
    Path("rows.csv").write_text("\n".join(lines))
    short = ["fit", "--epochs", "1", "--particles", "30", "--quiet"]
    assert main([*short, "--data", "rows.csv", "--likelihood", "NormalPredictedScale"]) == 0
    assert main([*short, "--data.binarization", "dynamic", "--out", "dynamic"]) == 0
    assert Path("runs/vae-rows/samples.png").exists()
    config = yaml.safe_load(Path("dynamic/config.yaml").read_text())
    assert config["data"]["init_args"]["binarization"] == "dynamic"


def test_programs_are_made_in_the_precision_that_is_asked_for() -> None:
    torch.set_default_dtype(torch.float32)
    assert main([*FIT, "--quiet", "--precision", "float64", "--out", "run"]) == 0
    assert torch.get_default_dtype() == torch.float32
    weights = load_file("run/last.safetensors")
    assert weights["model.decoder.0.weight"].dtype == torch.float64
    assert next(Run.load("run").model.parameters()).dtype == torch.float64


def test_hanging_up_is_as_terminating(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyro_vae.cli.listing.run", lambda _: signal.raise_signal(signal.SIGHUP))
    before = signal.getsignal(signal.SIGHUP)
    assert main(["list"]) == 129
    assert capsys.readouterr().err == "pyro-vae: terminated\n"
    assert signal.getsignal(signal.SIGHUP) is before


LOUD = """
import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule, PyroSample

print("imported")

class Loud(PyroModule):
    def __init__(self, event_shape):
        super().__init__()
        print("built")
        self.shape = tuple(event_shape)

    def forward(self, x):
        print("run")
        logits = pyro.sample("logits", dist.Normal(x.new_zeros(self.shape), 1.0).to_event(3))
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)
"""


def test_an_autoguide_is_made_of_the_model_and_json_is_all_that_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("loud.py").write_text(LOUD)
    words = ["fit", "--data", "images.npz", "--epochs", "1", "--model", "loud.py:Loud", "--json"]
    words += ["--guide", "pyro.infer.autoguide.AutoNormal", "--allow", "pyro", "--out", "run"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads(Path("run/evaluation.json").read_text())
    assert {"imported", "built", "run"} <= set(err.splitlines())

    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["guide"] == {
        "class_path": "pyro.infer.autoguide.AutoNormal",
        "init_args": {},
    }
    run = Run.load("run", allow=["pyro", "loud.py"])
    weights = load_file("run/best.safetensors")
    assert isinstance(run.guide, AutoNormal)
    assert torch.equal(run.guide.locs.logits, weights["guide.locs.logits"])


def test_a_run_finds_its_data_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*FIT, "--quiet", "--out", "run"]) == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["data"]["init_args"]["source"] == str(tmp_path / "images.npz")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["evaluate", "../run", "--quiet", "--particles", "9"]) == 0


def test_drawing_begins_without_what_takes_seconds() -> None:
    slow = "{'torchvision', 'sklearn'} & set(sys.modules)"
    code = f"import sys, pyro_vae.cli.pictures as p; sys.exit(bool({slow}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_json_of_a_fit_is_its_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *FIT, "--out", "run")
    assert found == json.loads(Path("run/evaluation.json").read_text())
    assert found["estimates"]["elbo"]["unit"] == "nats"


def test_data_without_a_test_split_are_evaluated_on_what_there_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = document(capsys, *FIT, "--data.test", "0", "--out", "run")
    assert (found["split"], found["rows"]) == ("validation", 8)


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_no_traceback_reaches_the_terminal() -> None:
    code = "import sys; from pyro_vae.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "fit", "--data", "nowhere.npy"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert "nowhere.npy" in run.stderr


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nfrom pyro_vae.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_arrays_of_numbers_are_as_they_were() -> None:
    r"""A run of the command line is that of Python, to the last bit."""
    import pyro_vae
    from pyro_vae.components import build

    torch.set_default_dtype(torch.float32)
    assert main([*FIT, "--quiet", "--out", "command"]) == 0
    config = yaml.safe_load(Path("command/config.yaml").read_text())
    data = build(config["data"], "data")
    torch.manual_seed(0)
    model, guide = build(config["model"], "model"), build(config["guide"], "guide")
    pyro_vae.fit(model, guide, data, epochs=2, run_dir="python", progress=False)
    assert same("command", "python")
    assert np.array_equal(*(Path(f, "metrics.csv").read_text() for f in ("command", "python")))


def test_a_warning_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(*_: Any) -> int:
        warnings.simplefilter("default")
        warnings.warn("expected\n  little, got much", stacklevel=1)
        return 0

    monkeypatch.setattr("pyro_vae.cli.listing.run", warn)
    shown = warnings.showwarning
    assert main(["list"]) == 0
    assert capsys.readouterr().err == "pyro-vae: warning: expected little, got much\n"
    assert warnings.showwarning is shown
