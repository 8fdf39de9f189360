r"""The command line: what it leaves behind, that its config repeats it, and its errors."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from pyro_vae.cli import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)


SHORT = ["fit", "--epochs", "2", "--particles", "30"]


def test_a_fit_leaves_a_whole_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SHORT) == 0
    out, _ = capsys.readouterr()

    for row in ("ELBO", "reconstruction", "KL of z", "evidence", "bits per dimension"):
        assert row in out
    assert "The evidence is a lower bound" in out
    assert {
        path.name for path in Path("runs/vae-digits").iterdir() if "events" not in path.name
    } == {
        *("config.yaml", "metrics.csv", "weights.safetensors"),
        *("samples.png", "reconstructions.png", "latents.png", "curves.png"),
    }


def test_a_config_repeats_its_run_in_another_folder() -> None:
    options = ["--guide", "AmortizedMultivariateNormal", "--batch-size", "50", "--seed", "3"]
    assert main([*SHORT, *options, "--out", "first"]) == 0
    config = yaml.safe_load(Path("first/config.yaml").read_text())
    assert config["guide"]["class_path"] == "AmortizedMultivariateNormal"
    assert (config["epochs"], config["batch_size"], config["seed"]) == (2, 50, 3)

    assert main(["fit", "--config", "first/config.yaml"]) == 0
    first = load_file("first/weights.safetensors")
    again = load_file("runs/vae-digits/weights.safetensors")
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert Path("first/metrics.csv").read_text() == Path("runs/vae-digits/metrics.csv").read_text()


def test_a_second_run_gets_a_folder_of_its_own() -> None:
    assert main(SHORT) == 0
    assert main(SHORT) == 0
    assert {path.name for path in Path("runs").iterdir()} == {"vae-digits", "vae-digits-2"}


def test_other_data_likelihoods_and_binarization() -> None:
    torch.manual_seed(0)
    rows = torch.randn(60, 3).tolist()
    lines = ["a,b,c", *(",".join(f"{value:.4f}" for value in row) for row in rows)]
    Path("rows.csv").write_text("\n".join(lines))
    assert main([*SHORT, "--data", "rows.csv", "--likelihood", "NormalPredictedScale"]) == 0
    assert main([*SHORT, "--data.binarization", "dynamic", "--out", "dynamic"]) == 0
    assert Path("runs/vae-rows/samples.png").exists()


ERRORS = {
    "model": (
        ["--model", "VAEE"],
        "expected one of pyro_vae.models (VAE), got 'VAEE'; did you mean",
    ),
    "guide": (["--guide", "amortizednormal"], "did you mean AmortizedNormal?"),
    "objective": (["--objective", "Objective"], "expected one of pyro_vae.objectives (ELBO)"),
    "likelihood": (["--likelihood", "Gaussian"], "expected one of pyro_vae.likelihoods"),
    "likelihood that needs more": (["--likelihood", "Binomial", "--data", "x.npy"], "x.npy"),
    "likelihood that does not fit": (["--likelihood", "Bernoulli"], "Binomial(total_count=16)"),
    "data": (["--data", "digit"], "did you mean 'digits'?"),
    "file": (["--data", "missing.csv"], "missing.csv"),
    "binarization": (
        ["--data.binarization", "often"],
        "'none' | 'static' | 'dynamic', got 'often'",
    ),
    "epochs": (["--epochs", "0"], "epochs"),
    "particles": (["--particles", "0"], "particles"),
    "seed": (["--seed", "-1"], "seed"),
    "meta device": (["--device", "meta"], "a device that is here"),
    "no model": (["--model", "nul"], "expected one of pyro_vae.models"),
    "no test rows": (["--data", "few.npy"], "enough rows for a test split"),
    "folder in a file": (["--out", "occupied/run"], "a folder that can be made"),
    "label": (["--data.label", "y"], "label"),
    "no number": (["--epochs", "many"], "epochs"),
    "option": (["--epoch-count", "3"], "--epoch-count"),
    "device": (["--device", "gpu"], "a device that is here"),
    "folder": (["--out", "."], "new or empty folder"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_one_line_and_exit_with_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    options, message = ERRORS[name]
    Path("occupied").touch()
    np.save("few.npy", np.arange(12.0).reshape(4, 3))
    assert main(["fit", "--epochs", "1", *options]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("pyro-vae: error: ")
    assert len(err.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_an_interruption_keeps_what_was_trained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pyro_vae.loop._Trainer.validate", interrupt)
    assert main([*SHORT, "--out", "run"]) == 130
    assert capsys.readouterr().err == "pyro-vae: interrupted\n"
    assert "model.decoder.0.weight" in load_file("run/weights.safetensors")


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "pyro-vae: error: " in capsys.readouterr().err


def test_no_traceback_reaches_the_terminal() -> None:
    code = "import sys; from pyro_vae.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "fit", "--data", "nowhere.npy"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert "nowhere.npy" in run.stderr
