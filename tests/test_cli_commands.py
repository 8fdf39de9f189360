r"""Commands on a run's folder, against the functions of the library."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import FIT, document, images
from matplotlib.image import imread

import pyro_vae
from pyro_vae.captured import Captured
from pyro_vae.cli import main
from pyro_vae.cli.pictures import Artist
from pyro_vae.components import read_config, summary
from pyro_vae.data import Data, load
from pyro_vae.evaluation.estimate import digits
from pyro_vae.evaluation.metrics import METRICS
from pyro_vae.runs import Run

BASELINES = ("independent_features", "mixture")
Loaded = tuple[Run, Data]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    r"""A run in single precision."""
    place: Path = tmp_path_factory.mktemp("commands")
    images(place / "images.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main([*FIT, "--quiet", "--out", "run"]) == 0
    return place


@pytest.fixture(autouse=True)
def elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    return


@pytest.fixture
def loaded() -> Loaded:
    torch.set_default_dtype(torch.float32)
    return Run.load("run"), load("images.npz")


def rows(data: Data, count: int, split: Any = "test") -> torch.Tensor:
    r"""The rows that commands take, in their random order."""
    x = data.splits[split]["x"]
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:count]]


@pytest.mark.parametrize("split, weights", [("test", "best"), ("train", "last")])
def test_evaluate(
    loaded: Loaded, split: Any, weights: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "run", "--particles", "25", "--seed", "5"]
    found = document(capsys, *words, "--split", split, "--weights", weights)

    run, data = Run.load("run", weights=weights), loaded[1]
    x = data.splits[split]["x"]
    expected = pyro_vae.evaluate(run.model, run.guide, x, particles=25, seed=5)
    figures = found["estimates"]
    baselines = {name: figures.pop(name) for name in BASELINES}
    assert all(found["stderr"] == 0 for found in baselines.values())
    assert figures == {name: estimate.to_dict() for name, estimate in expected.items()}
    assert {name: found[name] for name in ("weights", "split", "rows", "particles", "seed")} == {
        **{"weights": weights, "split": split, "rows": len(x)},
        **{"particles": 25, "seed": 5},
    }
    name = "evaluation.json" if split == "test" else "evaluation-train.json"
    written = json.loads(Path("run", name).read_text())
    assert {name: written["estimates"][name] for name in BASELINES} == baselines
    assert {name: written["estimates"][name] for name in figures} == figures


def test_metrics_and_their_figures_of_each_datum(
    loaded: Loaded, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run, data = loaded
    words = ["evaluate", "run", "--particles", "9", "--per-datum", str(tmp_path / "new/each.npz")]
    found = document(capsys, *words, "--metrics", "nll")
    expected = pyro_vae.evaluate(run.model, run.guide, data, ("nll",), particles=9)
    assert found["metrics"] == ["nll"]
    for name in BASELINES:
        found["estimates"].pop(name)
    assert found["estimates"] == {name: e.to_dict() for name, e in expected.items()}
    with np.load(tmp_path / "new/each.npz") as arrays:
        each = {name for name, e in expected.items() if e.per_datum is not None}
        assert set(arrays) == {"row", *each}
        assert (arrays["row"] == np.arange(len(data.test["x"]))).all()
        np.testing.assert_array_equal(arrays["nll"], expected["nll"].per_datum)

    (tmp_path / "options.yaml").write_text("metrics: [elbo]\n")
    flags = ["--config", str(tmp_path / "options.yaml"), "--particles", "9"]
    assert "nll" not in document(capsys, "evaluate", "run", *flags)["estimates"]
    both = document(capsys, "evaluate", "run", *flags, "--metrics", "nll", "elbo")["estimates"]
    assert list(both)[:2] == ["elbo", "log_likelihood"]


def test_some_rows_are_evaluated(
    loaded: Loaded, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run, data = loaded
    words = ["evaluate", "run", "--count", "3", "--particles", "1", "--metrics", "ais", "bdmc"]
    found = document(capsys, *words, "--seed", "4", "--per-datum", str(tmp_path / "each.npz"))
    with np.load(tmp_path / "each.npz") as arrays:
        row, evidence = torch.tensor(arrays["row"]), arrays["ais"]
    x = data.test["x"][row]
    assert found["rows"] == len(x) == len(row.unique()) == 3
    assert not row.equal(torch.arange(3))
    expected = pyro_vae.evaluate(run.model, run.guide, x, ("ais", "bdmc"), 1, seed=4)
    np.testing.assert_array_equal(evidence, expected["ais"].per_datum)
    assert found["estimates"] == {name: e.to_dict() for name, e in expected.items()}

    assert main([*words]) == 0
    out, _ = capsys.readouterr()
    for text in ("evidence, annealed", "simulated data, at least", "simulated data, gap"):
        assert text in out


def test_figures_of_other_metrics_are_kept(
    loaded: Loaded, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "run", "--split", "validation", "--particles"]
    document(capsys, *words, "9", "--metrics", "elbo")
    found = document(capsys, *words, "5", "--metrics", "rate_distortion", "--count", "4")
    assert list(found["estimates"]) == ["rate", "distortion"]
    written = json.loads(Path("run/evaluation-validation.json").read_text())
    assert written["metrics"] == ["elbo", "rate_distortion"]
    elbo, rate = written["estimates"]["elbo"], written["estimates"]["rate"]
    assert (elbo["rows"], elbo["particles"]) == (len(loaded[1].validation["x"]), 9)
    assert rate == found["estimates"]["rate"]
    assert (written["rows"], written["particles"]) == (4, 5)


def test_memorisation(loaded: Loaded, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = loaded
    found = document(capsys, "evaluate", "run", "--metrics", "memorisation", "--seed", "3")
    x = data.test["x"]
    expected = pyro_vae.evaluation.nearest_neighbours(
        run.model, run.guide, data.train["x"], x, n=len(x), seed=3
    )
    assert found["estimates"] == {
        "memorisation.ratio": expected.ratio.to_dict(),
        "memorisation.closer": expected.closer.to_dict(),
    }
    assert imread("run/memorisation.png").ndim == 3

    assert main(["evaluate", "run", "--metrics", "memorisation", "--split", "train"]) == 2
    assert "expected data that were not trained on" in capsys.readouterr().err


def test_metrics_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    text = "".join(capsys.readouterr().out.split())
    for name, metric in METRICS.items():
        line = f"{name}: {summary(metric).rstrip('.')}"
        assert "".join(line.split()) in text, name


def test_other_data_are_evaluated_and_not_noted(
    loaded: Loaded, capsys: pytest.CaptureFixture[str]
) -> None:
    x = (torch.rand(30, 1, 4, 4) < 0.5).numpy().astype(np.uint8)
    np.save("other.npy", x)
    before = Path("run/evaluation.json").read_text()
    flags = ["--data", "other.npy", "--data.test", "0.5", "--particles", "9"]
    found = document(capsys, "evaluate", "run", *flags)

    assert (found["data"], found["rows"]) == ("other", 15)
    run = loaded[0]
    data = load("other.npy", test=0.5)
    expected = pyro_vae.evaluate(run.model, run.guide, data, particles=9)["elbo"]
    assert found["estimates"]["elbo"] == expected.to_dict()
    assert Path("run/evaluation.json").read_text() == before


@pytest.mark.parametrize("mean", [False, True])
def test_sample(loaded: Loaded, mean: bool, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--count", "5", "--out", "new/place", *(["--mean"] if mean else [])]
    found = document(capsys, "sample", "run", *flags)

    run, data = loaded
    expected = pyro_vae.sample(run.model, run.guide, 5, mean=mean, batch=rows(data, 5))
    arrays = np.load("new/place/samples.npz")
    np.testing.assert_array_equal(arrays["x"], expected)
    assert found["files"] == ["new/place/samples.npz", "new/place/samples.png"]
    assert imread("new/place/samples.png").ndim == 3


def test_reconstruct(loaded: Loaded, capsys: pytest.CaptureFixture[str]) -> None:
    document(capsys, "reconstruct", "run", "--count", "4", "--split", "train")

    run, data = loaded
    x = rows(data, 4, "train")
    arrays = np.load("run/reconstructions.npz")
    np.testing.assert_array_equal(arrays["data"], x)
    np.testing.assert_array_equal(data.train["x"][torch.tensor(arrays["row"])], x)
    expected = pyro_vae.reconstruct(run.model, run.guide, x)
    np.testing.assert_array_equal(arrays["reconstruction"], expected)


def test_encode(loaded: Loaded, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "encode", "run", "--split", "train")

    run, data = loaded
    arrays = np.load("run/latents.npz")
    expected = pyro_vae.encode(run.model, run.guide, data.train["x"])["z"]
    np.testing.assert_array_equal(arrays["z"], expected)
    np.testing.assert_array_equal(arrays["y"], data.train["y"])
    assert found["shapes"] == {"z": [64, 3]}


@pytest.mark.parametrize(
    "flags, expected",
    [([], "auto"), (["--capture", "true"], True), (["--capture=false"], False)],
)
@pytest.mark.parametrize("command", ["evaluate", "sample", "reconstruct", "encode"])
def test_what_is_captured(
    command: str, flags: list[str], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, modes = Captured.__init__, []

    def eager(
        self: Any, function: Any, programs: Any, mode: Any, *args: Any, **kwargs: Any
    ) -> None:
        modes.append(mode)
        begin(self, function, programs, False, *args, **kwargs)

    monkeypatch.setattr(Captured, "__init__", eager)
    assert main([command, "run", "--quiet", *flags]) == 0
    assert modes == [expected]


def test_traverse(loaded: Loaded, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["traverse", "run", "--datum", "2", "--steps", "5", "--side", "3", "--extent", "1.5"]
    found = document(capsys, *words)

    run, data = loaded
    setting: dict[str, Any] = {"datum": 2, "steps": 5, "side": 3, "extent": 1.5}
    expected = pyro_vae.traverse(run.model, run.guide, rows(data, 2000), **setting)
    assert expected.plane is not None
    arrays = np.load("run/traversals.npz")
    assert list(arrays["features"]) == [str(feature) for feature in expected.features]
    for name, value in (
        ("kl", [feature.kl for feature in expected.features]),
        ("values", expected.values),
        ("means", expected.means),
        ("plane_values", expected.plane.values),
        ("plane_means", expected.plane.means),
    ):
        np.testing.assert_array_equal(arrays[name], value)
    assert [entry["kl"] for entry in found["features"]] == arrays["kl"].tolist()
    assert found["files"] == [f"run/{n}" for n in ("traversals.npz", "traversals.png", "plane.png")]


def test_what_is_computed_in_another_precision(capsys: pytest.CaptureFixture[str]) -> None:
    document(capsys, "encode", "run", "--precision", "float64", "--out", "double")
    document(capsys, "encode", "run", "--out", "single")
    double, single = (np.load(f"{name}/latents.npz")["z"] for name in ("double", "single"))
    assert (double.dtype, single.dtype) == (np.float64, np.float32)
    np.testing.assert_allclose(double, single, atol=1e-5)
    assert torch.get_default_dtype() == torch.float64


@pytest.mark.parametrize("command", ["evaluate", "sample", "reconstruct", "encode"])
def test_what_networks_multiply_in(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pyro_vae.products._WORTH", 1)  # the networks here are small
    called, linear = [], torch.nn.functional.linear

    def product(func: Any, input: torch.Tensor, *args: Any) -> torch.Tensor:
        called.append(func is linear)
        return func(input, *args)

    monkeypatch.setattr("pyro_vae.products._product", product)
    assert main([command, "run", "--quiet"]) == 0
    assert not called
    assert main([command, "run", "--quiet", "--products", "bfloat16"]) == 0
    assert called
    assert all(called)


def test_a_run_is_made_with_products_in_bfloat16_and_goes_on() -> None:
    words = [*FIT, "--quiet", "--out", "rounded"]
    assert main([*words, "--products", "bfloat16"]) == 0
    assert read_config("rounded/config.yaml")["products"] == "bfloat16"
    assert main(["fit", "--quiet", "--resume", "--out", "rounded", "--epochs", "3"]) == 0
    assert read_config("rounded/config.yaml")["products"] == "bfloat16"


@pytest.mark.parametrize("width", [40, 50, 60, 120])
def test_tables_are_as_wide_as_the_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    capsys.readouterr()
    assert main(["evaluate", "run", "--particles", "30"]) == 0
    out, _ = capsys.readouterr()

    assert all(len(line) <= width for line in out.splitlines())
    assert "…" not in out
    found = json.loads(Path("run/evaluation.json").read_text())["estimates"]
    for name in ("elbo", "log_likelihood"):
        cells = digits(*(found[name][key] for key in ("value", "stderr", "data_stderr")))
        assert all(cell in out for cell in cells)
    for word in ("ELBO", "reconstruction", "independent", "features", "± data", "Carlo"):
        assert word in out


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "list")
    assert list(found) == ["models", "guides", "objectives", "likelihoods", "networks", "data"]
    assert found["models"]["VAE"] == (
        "A latent Gaussian model whose likelihood is parametrised by a network."
    )
    assert {"mlp", "conv_encoder", "conv_decoder"} <= set(found["networks"])
    assert all(text for texts in found.values() for text in texts.values())
    names = ", ".join(found["data"])
    assert all(name in names for name in ("digits", "fashion-mnist", "static-mnist", "cifar10"))
    assert list(document(capsys, "list", "optimizer")) == ["optimizers"]

    assert main(["list", "guides"]) == 0
    out, _ = capsys.readouterr()
    assert "AmortizedNormal" in out
    assert "VAE" not in out
    assert "There is more" not in out
    assert main(["list"]) == 0
    more = "There is more: pyro-vae list optimizers, schedules, annealings or activations"
    assert capsys.readouterr().out.splitlines()[-1] == more


def test_names_are_listed_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["list", "guides"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not any("…" in line for line in lines)
    narrow = "".join(line[: len(line) // 2].strip() for line in lines)
    assert "AmortizedMulti" in narrow
    assert all(len(line) <= 40 for line in lines)


BROKEN = """
import pyro
import pyro.distributions as dist

def model(x):
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        logits = z.sum(-1)[:, None, None, None] + 0 * x
        pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

def guide(x):
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("w", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
"""


def test_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--data", "images.npz", "--model.latents", "3"]) == 0
    assert capsys.readouterr().out == "No findings\n"

    Path("broken.py").write_text(BROKEN)
    words = ["check", "--data", "images.npz", "--model", "broken.py:model"]
    words += ["--guide", "broken.py:guide"]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert "error" in out
    assert re.search(r"\d+ errors?, \d+ warnings?$", out.strip())

    assert main([*words, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["errors"] == sum(f["severity"] == "error" for f in found["findings"]) > 0
    assert not Path("runs").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    out, _ = capsys.readouterr()
    assert "pyro-vae" in out
    for word in ("evaluate", "traverse", "--particles", "--model.latents", "--weights"):
        assert word.lstrip("-") in out
    if shell == "bash":
        for command in ("em", "evaluate", "sample", "reconstruct", "traverse", "encode", "fit"):
            flags = re.search(rf"_{command}_option_strings=\((.*)\)", out)
            assert flags is not None
            for flag in ("--config", "--allow", "--data", "--data.label"):
                assert flag in flags[1].replace("'", "").split()


@pytest.mark.parametrize(
    "command",
    ["fit", "em", "evaluate", "sample", "reconstruct", "traverse", "encode", "check", "list"],
)
def test_help_says_what_each_option_is(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    out, _ = capsys.readouterr()
    assert out.startswith(f"usage: pyro-vae {command}")
    assert "--json" in out
    for type_of_parsers in ("PositiveInt", "Seed)", "Optional[", "Literal", "default: null"):
        assert type_of_parsers not in out
    unused = ("--epochs", "--patience", "--workers", "--checkpoint-every")
    assert [flag in out for flag in unused] == [command == "fit"] * 4


def test_latents_are_named_as_features_are(loaded: Loaded) -> None:
    run, data = loaded
    codes = pyro_vae.encode(run.model, run.guide, data.test["x"])
    artist = Artist(run, data, "test", ["x"], "cpu", 0)
    panel = artist.draw_latents({"z": codes["z"][:, :2]}, None).axes[0]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("z[0]", "z[1]")
