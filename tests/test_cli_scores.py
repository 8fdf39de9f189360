r"""Tables of figures, and figures that were computed at other times."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_vae.cli.merging import merged
from pyro_vae.cli.scores import Scores
from pyro_vae.evaluation import Estimate


def table(estimates: dict[str, Estimate], **others: Any) -> dict[str, list[str]]:
    r"""The rows by name."""
    scores = Scores(estimates, {}, {}, torch.arange(3), **others)
    names, *columns = (list(column.cells) for column in scores.table("title").columns)
    return dict(zip(map(str, names), map(list, zip(*columns, strict=True)), strict=True))


def test_many_features_are_folded() -> None:
    features = {f"kl.z[{d}]": Estimate(float(d), 0.0, 0.1) for d in range(50)}
    found = table({"elbo": Estimate(-9.0, 0.1, 0.2), "kl.z": Estimate(1.0, 0.0, 0.1), **features})
    first = [f"KL of z[{d}]" for d in range(49, 44, -1)]
    assert list(found) == ["ELBO", "KL of z", *first, "KL of z, 45 others"]
    assert found["KL of z, 45 others"][-1] == "nats, on average"


@pytest.mark.parametrize(
    "shape, loose", [(0.0, False), (0.1, False), (0.2, True), (math.nan, True)]
)
@pytest.mark.parametrize(
    "name, khat, sign, words",
    [
        ("nll", "khat", -1, "evidence"),
        ("prior", "prior.khat", 1, "evidence by prior"),
        ("gap", "gap.khat", 1, "gap of the bound"),
        ("gap.approximation", "gap.khat", 1, "gap, by the family"),
    ],
)
def test_evidence_of_few_weights_is_a_bound(
    shape: float, loose: bool, name: str, khat: str, sign: int, words: str
) -> None:
    share = Estimate(shape, math.nan, 0.0)
    estimates = {name: Estimate(sign * -31.0, 0.5, 1.0), khat: share}
    found = table(estimates)
    (row,) = found.items()
    assert row[0] == (f"{words}, at least" if loose else words)
    assert row[1] == ["-31.0", "–" if loose else "± 0.5", "± 1.0", "nats"]
    remark = Scores(estimates, {}, {}, torch.arange(3)).remark
    what = words.split()[0].rstrip(",")
    assert remark.startswith(f"The {what} is a lower bound") == loose
    assert ("20%" in remark) == (shape == 0.2)


@pytest.mark.parametrize("rate, above, shown", [(24.2, 71.4, "24.20"), (24.2, 9.3, "9.30")])
def test_the_smaller_upper_bound_on_information_is_shown(
    rate: float, above: float, shown: str
) -> None:
    known = {"mutual_information.above": above, "mutual_information.kl": rate}
    found = table({name: Estimate(value, 0.12, 0.34) for name, value in known.items()})
    assert found == {"information, at most": [shown, "± 0.12", "± 0.34", "nats"]}


@pytest.mark.parametrize(
    "size, below, words",
    [
        (200, 0.09, "of 200 data no more than log 200 = 5.30 nats"),
        (200, 0.11, ""),
        (9000, 0.09, "of 4096 data no more than log 4096 = 8.32 nats"),
        (9000, 0.11, ""),
    ],
)
def test_few_data_tell_no_more_than_their_number(size: int, below: float, words: str) -> None:
    information = Estimate(math.log(min(size, 4096)) - below, 0.001, 0.001)
    scores = Scores({"mutual_information": information}, {}, {}, torch.arange(size))
    assert words in scores.remark
    assert bool(scores.remark) == bool(words)


def test_units_of_one_site_stand_once() -> None:
    def units(*sites: str) -> list[str]:
        names = ("active_units", *(f"active_units.{site}" for site in sites))
        return list(table({name: Estimate(3.0, math.nan, math.nan) for name in names}))

    assert units("z") == ["active units of z"]
    assert units("a", "b") == ["active units", "active units of a", "active units of b"]


BEFORE = {
    **{"weights": "best", "data": "digits", "split": "test"},
    **{"rows": 250, "particles": 9, "metrics": ["elbo", "nll"]},
    "estimates": {"elbo": {"value": 1.0}, "ais": {"value": 4.0, "rows": 2, "particles": 3}},
}
NOW = {
    **{"weights": "best", "data": "digits", "split": "test"},
    **{"rows": 7, "particles": 5, "metrics": ["prior", "nll"]},
    "estimates": {"prior": {"value": 2.0}},
}


def test_other_figures_are_kept_with_what_they_were_made_with(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    assert merged(NOW, path) == NOW
    path.write_text(json.dumps(BEFORE))
    assert merged(NOW, path) == {
        **NOW,
        "metrics": ["elbo", "nll", "prior"],
        "estimates": {
            "elbo": {"value": 1.0, "rows": 250, "particles": 9},
            "ais": {"value": 4.0, "rows": 2, "particles": 3},
            "prior": {"value": 2.0},
        },
    }
    again = {**NOW, "estimates": {"elbo": {"value": 3.0}}}
    assert merged(again, path)["estimates"]["elbo"] == {"value": 3.0}


@pytest.mark.parametrize(
    "text",
    [
        *(json.dumps({**BEFORE, name: "other"}) for name in ("weights", "data", "split")),
        *("", "[]", "null", "{}", json.dumps({**BEFORE, "estimates": [1]})),
    ],
)
def test_figures_of_other_weights_or_data_are_not(text: str, tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    assert merged(NOW, tmp_path / "evaluation.json") == NOW
