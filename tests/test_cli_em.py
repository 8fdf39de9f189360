r"""``pyro-vae em``: what it leaves behind, that it is EM, and what users do wrong."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import complaint, document, images
from matplotlib.image import imread

from pyro_vae.cli import main
from pyro_vae.data import load
from pyro_vae.em import BernoulliMixture, loop
from pyro_vae.em.gaussian import GaussianMixture
from pyro_vae.guides import Empty
from pyro_vae.mixtures import program_of
from pyro_vae.models import FiniteGaussianMixture, FiniteMixture
from pyro_vae.runs import Run, RunFolder

EM = ["em", "--data", "images.npz", "--n-components", "2"]
FILES = {
    *("config.yaml", "environment.json", "metrics.csv", "evaluation.json"),
    *("last.safetensors", "events.out.tfevents.pyro_vae"),
    *("samples.png", "means.png", "curves.png"),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images()
    random = np.random.RandomState(0)
    x = random.randn(90, 3) @ random.randn(3, 3) + 5 * random.randint(2, size=(90, 1))
    np.save("real.npy", 100 + 50 * x)
    np.save("holes.npy", np.where(random.rand(90, 3) < 0.2, np.nan, x))
    np.save("counts.npy", random.poisson(4, (90, 3)))
    np.savetxt(
        "counts.csv", np.load("counts.npy"), "%d", delimiter=",", header="a,b,c", comments=""
    )


def files(folder: str | Path = ".") -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_a_mixture_leaves_a_whole_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(EM) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for words in ("Mixture of 2 (bernoulli) on images, test data", "independent features"):
        assert words in out
    assert "at least" not in out
    assert "mixture of 10" not in out
    assert "EM took " in out
    assert out.splitlines()[-1] == "Weights, metrics and pictures are in runs/em-images"
    folder = Path("runs/em-images")
    assert {path.name for path in folder.iterdir()} == FILES
    assert all(imread(path).ndim == 3 for path in folder.glob("*.png"))


def test_it_is_em(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *EM, "--precision", "float64", "--seed", "3", "--out", "run")
    x, test = (load("images.npz", seed=3).splits[s]["x"].flatten(1) for s in ("train", "test"))
    expected = BernoulliMixture(2, probability_prior=1.5, random_state=3).fit(x.double())

    nll = found["estimates"]["nll"]
    assert nll["value"] == pytest.approx(-expected.score(test.double()), rel=1e-9)
    assert nll["stderr"] == 0
    run = Run.load("run")
    assert isinstance(run.model, FiniteMixture)
    assert isinstance(run.guide, Empty)
    assert [row["objective"] for row in run.history] == pytest.approx(expected.lower_bounds_)
    assert [row["iteration"] for row in run.history] == list(range(1, expected.n_iter_ + 1))
    lines = Path("run/metrics.csv").read_text().splitlines()
    assert lines[0] == "iteration,step,objective"
    assert len(lines) == 1 + expected.n_iter_
    own = program_of(expected, (1, 4, 4)).state_dict()
    for name, tensor in run.model.state_dict().items():
        torch.testing.assert_close(tensor, own[name])


def test_a_config_repeats_its_run(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--init", "random", "--max-iter", "7", "--tol", "0", "--probability-prior", "1.2"]
    assert main([*EM, *flags, "--out", "first"]) == 0
    out, err = capsys.readouterr()
    assert "EM took 7 iterations, to an objective of -" in out
    assert "did not converge in 7 iterations: take more (--max-iter)" in " ".join(err.split())
    assert main(["em", "--config", "first/config.yaml", "--quiet", "--out", "again"]) == 0
    config = yaml.safe_load(Path("again/config.yaml").read_text())
    assert (config["init"], config["max_iter"], config["probability_prior"]) == ("random", 7, 1.2)
    for name in ("config.yaml", "metrics.csv"):
        assert Path("first", name).read_text() == Path("again", name).read_text()
    first, again = (
        json.loads(Path(n, "evaluation.json").read_text())["estimates"] for n in ("first", "again")
    )
    assert first == again


def test_other_commands_take_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    made = document(capsys, *EM, "--out", "run")
    flags = ("--particles", "9", "--products", "bfloat16")  # it has no networks that round
    found = document(capsys, "evaluate", "run", *flags)
    assert "mixture" not in found["estimates"]
    assert {n: found["estimates"][n] for n in made["estimates"]} == made["estimates"]
    assert found["estimates"]["elbo"]["value"] == -found["estimates"]["nll"]["value"]
    document(capsys, "sample", "run", "--count", "5")
    assert np.load("run/samples.npz")["x"].shape == (5, 1, 4, 4)
    assert "unknown" in json.dumps(document(capsys, "diagnose", "run", "--count", "4"))
    assert "got none to be drawn" in complaint(capsys, "encode", "run")
    assert "got none to be moved" in complaint(capsys, "traverse", "run")


@pytest.mark.parametrize(
    "flags, kind, likelihood",
    [
        ("--data real.npy", FiniteGaussianMixture, None),
        (
            "--data real.npy --covariance-type tied --data.standardize true",
            FiniteGaussianMixture,
            None,
        ),
        ("--data real.npy --covariance-type spherical", FiniteMixture, "NormalPredictedScale"),
        ("--data holes.npy --allow-missing", FiniteMixture, "Masked"),
        ("--data counts.npy", FiniteMixture, "Poisson"),
        ("--data counts.csv --data.standardize false", FiniteMixture, "Poisson"),
        ("--data counts.npy --family binomial", FiniteMixture, "Binomial"),
        ("--data counts.npy --family binomial --n-trials 40", FiniteMixture, "Binomial"),
        ("--data counts.npy --family categorical", FiniteMixture, "Categorical"),
        ("--data images.npz --family gaussian", FiniteGaussianMixture, None),
    ],
)
def test_families(
    flags: str, kind: Any, likelihood: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["em", *flags.split(), "--n-components", "2", "--tol", "0.01", "--out", "run"]
    found = document(capsys, *words)["estimates"]
    model: Any = Run.load("run").model
    assert type(model) is kind
    assert likelihood is None or type(model.likelihood).__name__ == likelihood
    assert np.isfinite(found["nll"]["value"])
    assert found["nll"]["stderr"] == 0
    assert {path.name for path in Path("run").iterdir()} == FILES


def test_densities_are_in_the_units_of_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data", "real.npy", "--n-components", "2", "--precision", "float64"]
    flags += ["--smoothing", "false", "--tol", "1e-12", "--max-iter", "1000"]
    own = document(capsys, "em", *flags, "--out", "own")["estimates"]
    moved = document(capsys, "em", *flags, "--data.standardize", "true", "--out", "moved")
    for name in ("nll", "independent_features"):
        value = moved["estimates"][name]["value"]
        assert value == pytest.approx(own[name]["value"], abs=2e-3)  # more where scales are smaller
    x = load("real.npy").train["x"].double()
    expected = GaussianMixture(2, random_state=0, max_iter=1000, tol=1e-12).fit(x).score(x)
    for name in ("own", "moved"):
        objective = Run.load(name).history[-1]["objective"]
        assert objective == pytest.approx(expected, abs=1e-4)


def test_a_run_is_replaced_by_force_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*EM, "--quiet", "--out", "run"]) == 0
    before = files("run")
    assert "--force" in complaint(capsys, *EM, "--out", "run")
    refused = complaint(capsys, *EM, "--out", "run", "--force", "--n-components", "99")
    assert "at least as many data as components" in refused
    assert files("run") == before
    assert main([*EM, "--n-components", "3", "--quiet", "--out", "run", "--force"]) == 0
    assert Run.load("run").config["n_components"] == 3


MISUSE: dict[str, tuple[str, str]] = {
    "family": ("--family gausian", "--family: expected auto, gaussian, bernoulli, binomial"),
    "reals for bits": ("--data real.npy --family bernoulli", "expected 0s and 1s, got"),
    "reals for counts": ("--data real.npy --family poisson", "expected counts"),
    "standardised counts": (
        "--data counts.csv --family poisson",
        "for the family poisson, got standardised ones: say --data.standardize false",
    ),
    "too many for trials": (
        "--data counts.npy --family binomial --n-trials 3",
        "expected whole numbers from 0 to n_trials=3",
    ),
    "missing": ("--data holes.npy --data.missing true", "say --allow-missing instead"),
    "missing, full": (
        "--data holes.npy --allow-missing --covariance-type full",
        "got --covariance-type full: take diag or spherical",
    ),
    "option of another": (
        "--covariance-type diag",
        "options of the family bernoulli, got --covariance-type, which --family gaussian takes",
    ),
    "prior of another": (
        "--data counts.npy --probability-prior 2",
        "--family bernoulli or binomial or categorical takes",
    ),
    "too many": ("--n-components 65", "at least as many data as components, got 64 data"),
    "none": ("--n-components 0", "--n-components: expected a whole number of at least 1, got 0"),
    "tol": ("--tol -1", "--tol: expected a number of at least 0, got -1"),
    "prior": ("--weight-concentration-prior 0.5", "of at least 1, got 0.5"),
    "numbers": ("--data counts.npy --rate-prior 2", "a list of numbers, such as '[1.5, 0]'"),
    "start": ("--init kmeen", "--init: expected kmeans, k-means++, random or random_from_data"),
    "flag": ("--components 3", "got --components; did you mean --n-components?"),
    "data": ("--data digit", "did you mean 'digits'?"),
    "folder": ("--out images.npz", "expected a folder, got the file images.npz"),
    "device": ("--device gpu", "a device that is here"),
    "model": ("--model VAE", "expected a flag of this command, got --model"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags, message = MISUSE[name]
    before = files()
    assert message in complaint(capsys, *EM, *flags.split())
    assert files() == before
    assert not Path("runs").exists()


def test_the_bar_counts_iterations_of_all_starts(capsys: pytest.CaptureFixture[str]) -> None:
    x = load("images.npz").train["x"].flatten(1)
    BernoulliMixture(2, verbose=1, n_init=2, max_iter=50, random_state=0).fit(x)
    err = capsys.readouterr().err
    assert re.search(r"iteration \d+/100 .* objective -\d", err)
    assert "epoch" not in err


def test_what_is_interrupted_leaves_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expect, count = loop.expect, list[int]()

    def interrupted(*arguments: Any) -> Any:
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return expect(*arguments)

    monkeypatch.setattr(loop, "expect", interrupted)
    before = files()
    assert main([*EM, "--init", "random", "--tol", "0"]) == 130
    assert files() == before
    assert not Path("runs").exists()


def test_signals_wait_until_the_folder_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    log, count = RunFolder.log, list[int]()

    def interrupted(*arguments: Any) -> None:
        count.append(1)
        if len(count) == 2:
            signal.raise_signal(signal.SIGINT)
        log(*arguments)

    monkeypatch.setattr(RunFolder, "log", interrupted)
    assert main([*EM, "--init", "random", "--out", "run", "--quiet"]) == 130
    assert len(Run.load("run").history) == len(count) > 2
