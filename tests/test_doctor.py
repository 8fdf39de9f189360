r"""The doctor on pairs that were made ill, of which the truth is known, and on a healthy one."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from commands import FIT, document, images
from ill import (
    bad_encoder,
    blind,
    collapsed,
    dead_unit,
    far_from_the_prior,
    healthy,
    lagging,
    small_family,
    weighted,
)
from linear import D, F
from torch import Tensor
from zoo import ZOO

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.cli.fitting import parser
from pyro_vae.cli.options import parse_options
from pyro_vae.data import load
from pyro_vae.evaluation import Estimate, doctor
from pyro_vae.evaluation.diagnosis import Diagnosis, Finding
from pyro_vae.evaluation.symptoms import SYMPTOMS, Seen
from pyro_vae.runs import Run

NAMES = [symptom.__name__ for symptom in SYMPTOMS]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_GAP_STEPS", 60)


AGGRESSIVE = ("--encoder-steps", "aggressive")
ELBO = ("--objective", "ELBO")
WARM_UP = (*ELBO, "--objective.beta", "Linear")
BALANCE = (*ELBO, "--objective.beta", "1")

# what is not well ("." is not compared), a few words of the worst, and the switch to try first
ILL: dict[Any, tuple[dict[str, str], str, tuple[str, ...]]] = {
    healthy: ({}, "Nothing needs to be done", ()),
    lagging: (
        {"collapse": "ill", "decoder": "unknown", "regularisation": "ill", "units": "ill"}
        | {"inference": "ill"},
        "an encoder that kept up would gain",
        AGGRESSIVE,
    ),
    collapsed: (
        {"collapse": "ill", "decoder": "unknown", "regularisation": "ill", "units": "ill"},
        "2 of 2 units are not in use: z[0], z[1]",
        WARM_UP,
    ),
    dead_unit: (
        {"units": "suspect"},
        "1 of 2 units is not in use: z[1].",
        (*ELBO, "--objective.free_bits", "0.1", "--objective.groups", "dimension"),
    ),
    blind: (
        {"decoder": "ill", "inference": "ill", "regularisation": "unknown", "prior": "."},
        "The decoder ignores its latents",
        WARM_UP,
    ),
    lambda: weighted(0.01): (
        {"regularisation": "ill", "inference": "ill"},
        "under-regularised, near an autoencoder's: they are as if trained with a beta of 0.01",
        BALANCE,
    ),
    lambda: weighted(4.0): (
        {"regularisation": "suspect", "inference": "ill"},
        "over-regularised: they are as if trained with a beta of 4: one more nat",
        BALANCE,
    ),
    far_from_the_prior: (
        {"prior": "ill", "inference": ".", "regularisation": "ill"},
        "Encodings are elsewhere than the prior",
        BALANCE,
    ),
    bad_encoder: (
        {"inference": "ill"},
        "of them as its encoder misses the family's best",
        ("--encoder-steps", "5"),
    ),
    small_family: (
        {"inference": "suspect"},
        "of them as its family is too small",
        ("--guide", "AmortizedMultivariateNormal"),
    ),
}
NAMED = ["healthy", "lagging", "collapsed", "dead_unit", "blind", "under", "over", "far_prior"]


@pytest.mark.parametrize("make", ILL, ids=[*NAMED, "bad_encoder", "small_family"])
def test_what_is_wrong_is_said(make: Any) -> None:
    expected, words, flags = ILL[make]
    linear = make()
    found = pyro_vae.diagnose(linear.model, linear.guide, linear.model(n=300).detach())

    severities = {finding.name: finding.severity for finding in found.findings}
    for name, severity in severities.items():
        if expected.get(name) != ".":
            assert severity == expected.get(name, "well"), name
    assert words in " ".join(str(found).split())
    assert (found.first.flags if found.first else ()) == flags
    assert (found.rows, found.size) == (256, 300)


def test_some_rows_are_looked_at_and_the_same_again() -> None:
    linear = healthy()
    x = linear.model(n=90).detach()
    setting: dict[str, Any] = {"rows": 40, "particles": 20, "seed": 3}
    found = pyro_vae.diagnose(linear.model, linear.guide, {"x": x, "y": x + 9}, **setting)

    index = torch.randperm(90, generator=torch.Generator().manual_seed(3))[:40].sort().values
    part = pyro_vae.evaluate(
        linear.model, linear.guide, x[index], ("rate_distortion", "shuffled"), 20, seed=3
    )
    assert (found.rows, found.size) == (40, 90)
    assert found["collapse"].figures["rate"] == part["rate"]
    assert found["decoder"].figures["shuffled.loss"] == part["shuffled.loss"]
    assert "40 of 90 data were looked at." in str(found)
    again = pyro_vae.diagnose(linear.model, linear.guide, x, **setting)
    assert again.to_dict() == found.to_dict()


# What does not apply


@pytest.mark.parametrize("name", ZOO)
def test_any_pair_is_diagnosed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_GAP_STEPS", 2)
    model, guide, batch = ZOO[name]()
    fields = {f"field{i}": field for i, field in enumerate(batch)}
    found = pyro_vae.diagnose(model, guide, fields, particles=8, inputs=tuple(fields))
    assert [finding.name for finding in found.findings] == NAMES
    assert json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "name, words, end",
    [
        (
            "global_latent",
            "expected a guide that draws latents of each datum, got ['mu'] outside",
            "Nothing can be said.",
        ),
        (
            "no_plate",
            "expected a data plate, in which each datum has latents of its own, got none",
            "Try first, for inference",
        ),
    ],
)
def test_what_does_not_apply_is_said_once(name: str, words: str, end: str) -> None:
    model, guide, batch = ZOO[name]()
    found = pyro_vae.diagnose(model, guide, batch[0], rows=2, particles=8)

    text = " ".join(str(found).split())
    assert text.count(f"Does not apply: {words}") == 1
    assert text.count("As for collapse.") == 4
    assert end in text
    # the gap is that of the whole data, where they are one datum
    known = {finding.name for finding in found.findings if finding.severity != "unknown"}
    assert known == (set() if name == "global_latent" else {"inference"})
    # without a data plate a part of the data is another datum
    assert found.rows == (2 if name == "global_latent" else len(batch[0]))


def test_categorical_latents_are_units_by_their_divergence() -> None:
    centres = torch.tensor([-3.0, 0.0, 3.0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            c = pyro.sample("c", dist.Categorical(torch.ones(3)))
            pyro.sample("d", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Normal(centres[c], 0.5), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("c", dist.Categorical(logits=-2 * (x[:, None] - centres).square()))
            pyro.sample("d", dist.Categorical(torch.ones(2)))

    found = pyro_vae.diagnose(model, guide, centres[torch.arange(60) % 3])
    assert found["collapse"].severity == found["decoder"].severity == "well"
    assert "1 of 2 units is not in use: d[0]." in found["units"].words
    for name in ("regularisation", "prior", "inference"):
        assert found[name].severity == "unknown"
    assert found["collapse"].figures["rate"].value == pytest.approx(math.log(3), abs=1e-3)


# From figures to words


def seen(independent: bool = True, **figures: float | Estimate) -> dict[str, Finding]:
    known = {"rate": 10.0, "trade_off": 1.0, "trade_off.fit": 1.0, "gap": 1.0} | {
        name.replace("__", "."): value for name, value in figures.items()
    }
    estimates = {
        name: value if isinstance(value, Estimate) else Estimate(value, 1e-3, 1e-3)
        for name, value in known.items()
    }
    estimates.setdefault("active_units.z", Estimate(2, 0, 0, torch.tensor([0.5, 0.5])))
    parts = ("gap.approximation", "gap.amortisation", "prior_mismatch", "shuffled.loss")
    for name, value in zip(parts, (0.5, 0.5, 0.1, 9.0), strict=True):
        estimates.setdefault(name, Estimate(value, 1e-3, 1e-3))
    whole = Seen(estimates, {}, 256, independent)
    return {name: symptom(whole) for name, symptom in zip(NAMES, SYMPTOMS, strict=True)}


def test_latents_tell_no_more_than_they_cost() -> None:
    words = seen(rate=1.61, mutual_information=1.65)["collapse"].words
    assert "1.61 nats a datum, of which 1.61 or more" in words


@pytest.mark.parametrize(
    "weight, severity",
    [
        *[(-0.001, "ill"), (0.19, "ill"), (0.21, "suspect"), (0.49, "suspect"), (0.51, "well")],
        *[(1.9, "well"), (2.1, "suspect"), (4.9, "suspect"), (5.1, "ill")],
    ],
)
def test_how_far_the_weight_is_off(weight: float, severity: str) -> None:
    found = seen(trade_off=weight)["regularisation"]
    assert found.severity == severity
    assert ("under-" in found.words) == (weight < 0.5)
    assert ("over-" in found.words) == (weight > 2)


@pytest.mark.parametrize("figures", [{"trade_off__fit": 0.4}, {"trade_off": Estimate(9, 3, 0)}])
def test_a_weight_that_is_not_certain_is_not_told(figures: dict[str, Any]) -> None:
    assert seen(**{"trade_off": 9.0, **figures})["regularisation"].severity == "unknown"


@pytest.mark.parametrize("loss, severity", [(0.9, "ill"), (1.1, "suspect"), (5.1, "well")])
def test_how_much_the_decoder_reads(loss: float, severity: str) -> None:
    assert seen(shuffled__loss=loss)["decoder"].severity == severity
    # where the information is known, it counts, and the rate does not
    assert seen(shuffled__loss=loss, mutual_information=1.0)["decoder"].severity == "well"


@pytest.mark.parametrize("gap, severity", [(3.2, "well"), (3.5, "suspect"), (5.1, "ill")])
def test_how_much_the_guide_loses(gap: float, severity: str) -> None:
    assert seen(gap=gap)["inference"].severity == severity
    assert seen(gap=Estimate(gap, 2.0, 0.0))["inference"].severity in ("well", "unknown")
    assert seen(prior_mismatch=gap)["prior"].severity == severity


@pytest.mark.parametrize("weight, flags", [(1.0, ("--objective", "InfoVAE")), (0.4, ())])
def test_encodings_are_pressed_to_the_prior_by_the_weight_first(
    weight: float, flags: tuple[str, ...]
) -> None:
    found = seen(prior_mismatch=6.0, trade_off=weight)["prior"]
    assert (found.severity, found.flags) == ("ill", flags)


def test_a_mismatch_that_comes_by_chance_is_none() -> None:
    r"""Of 100 features and 256 data a mismatch of 0.39 is expected, and 0.78 is let pass."""
    for mismatch, severity in ((4.0, "well"), (4.2, "suspect")):
        estimate = Estimate(mismatch, 1e-3, 0.0, torch.full((100,), mismatch / 100))
        assert seen(prior_mismatch=estimate)["prior"].severity == severity


def test_numbers_have_no_exponents() -> None:
    figures = {"prior_mismatch": 1123.4, "rate": 2345.6, "gap": 1e-9}
    words = " ".join(finding.words for finding in seen(**figures).values())
    assert "1123 of 2346 nats" in words
    assert "costs 0 nats" in words
    assert not re.search(r"\de[+-]", words)


@pytest.mark.parametrize("gap", [1.0, 6.0])
@pytest.mark.parametrize("khat, loose", [(0.05, False), (0.2, True), (math.nan, True)])
def test_a_gap_of_few_weights_is_at_least_what_it_costs(
    gap: float, khat: float, loose: bool
) -> None:
    parts = {"gap__approximation": 0.8 * gap, "gap__amortisation": 0.2 * gap}
    found = seen(gap=gap, gap__khat=khat, **parts)["inference"]
    assert ("at least" in found.words) == loose
    assert found.severity == ("well" if gap == 1 else "ill")
    assert ("What is left to gain lies in the model" in found.words) == (gap == 1 and not loose)


def test_a_full_covariance_is_too_small_a_family_too() -> None:
    figures = {"gap": 6.0, "gap__approximation": 5.0, "gap__amortisation": 1.0}
    assert seen(True, **figures)["inference"].flags[0] == "--guide"
    assert seen(False, **figures)["inference"].flags[:2] == ("--objective", "IWAE")
    linear = healthy()
    full = pyro_vae.guides.AmortizedMultivariateNormal((F,), {"z": D})
    for guide, independent in ((linear.guide, True), (full, False)):
        pair = doctor.Pair(linear.model, guide)
        assert doctor._is_independent(pair, (linear.x,)) is independent


def test_the_worst_is_first_and_causes_before_effects() -> None:
    names = ("ill", "suspect", "ill", "well", "ill")
    findings = [Finding(str(i), s, "words", advice="try") for i, s in enumerate(names)]  # type: ignore[arg-type]
    findings[0] = replace(findings[0], advice="")
    found = Diagnosis(tuple(findings), 4, 4)
    assert found.first is findings[2]
    assert found.severity == "ill"
    assert Diagnosis((findings[3], findings[1]), 4, 4).severity == "suspect"


def test_many_units_are_counted() -> None:
    variances = torch.zeros(12)
    variances[3] = 1
    units = seen(**{"active_units.z": Estimate(1, 0, 0, variances)})["units"]
    assert "11 of 12 units are not in use: z[0], z[1], z[2], z[4]" in units.words
    assert units.words.endswith("and 3 others.")


# Errors, and the command


@pytest.mark.parametrize(
    "setting, match",
    [
        ({"rows": 0}, "expected rows of at least 1, got 0"),
        ({"particles": 0}, "expected particles of at least 1, got 0"),
        ({"inputs": ("y",)}, r"expected inputs among the fields \['x'\], got \['y'\]"),
    ],
)
def test_errors(setting: dict[str, Any], match: str) -> None:
    linear = healthy()
    with pytest.raises(ValueError, match=match):
        pyro_vae.diagnose(linear.model, linear.guide, {"x": linear.x}, **setting)


@pytest.mark.parametrize("make", ILL, ids=[*NAMED, "bad_encoder", "small_family"])
def test_switches_are_those_of_fit(make: Any) -> None:
    flags = ILL[make][2]
    options = parse_options(parser(), flags, recorded=["out", "particles"])
    assert options["objective"] is not None


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images()
    assert main([*FIT, "--quiet", "--out", "run"]) == 0
    words = ["diagnose", "run", "--particles", "20", "--count", "6", "--seed", "2"]
    found = document(capsys, *words)

    torch.set_default_dtype(torch.float32)
    run, data = Run.load("run"), load("images.npz")
    expected = pyro_vae.diagnose(run.model, run.guide, data, 6, 20, seed=2)
    about = {"run": "run", "weights": run.weights, "data": data.name, "split": "test"}
    assert found == {**about, **expected.to_dict()}
    assert json.loads(Path("run/diagnosis.json").read_text()) == found

    assert main([*words, "--split", "train"]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("images, train data, ")
    assert "6 of 64 data were looked at." in out
    assert json.loads(Path("run/diagnosis-train.json").read_text())["split"] == "train"
