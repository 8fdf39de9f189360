r"""The parts of benchmarks that a figure can go wrong by; none is run here."""

import argparse
import json
import sys
from pathlib import Path

import pyro
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import contenders
import iwae_mnist
from sizes import SIZES, Contender
from steps import block

FOLDER = Path(contenders.__file__).parent
SCRIPTS = [path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text()]


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_the_readme_has_a_section_with_the_command_of_each_script(name: str) -> None:
    _, _, section = (FOLDER / "README.md").read_text().partition(f"\n## `{name}`\n")
    assert f"benchmarks/{name}" in section.partition("\n## ")[0]


@pytest.mark.parametrize("at_once", [False, True])
def test_contenders_have_stores_of_their_own(at_once: bool) -> None:
    def counted(found: dict[str, Tensor] | Tensor) -> Tensor | list[Tensor]:
        value = pyro.param("count", torch.zeros(()))
        with torch.no_grad():
            value += 1
        loss = value.detach().clone()
        return [loss] if at_once else loss

    found = [Contender(counted, prepare=list if at_once else None) for _ in range(2)]
    losses = [block(each, [torch.ones(1)], 1).losses for each in (*found, *found)]
    assert losses == [[1.0], [1.0], [2.0], [2.0]]
    assert not list(pyro.get_param_store().keys())


@pytest.mark.parametrize(
    "only, files",
    [(None, ["numpyros", "pythaes"]), (contenders.SCAN, ["numpyros"]), (contenders.CAPTURED, [])],
)
def test_one_contender_needs_no_other_library(
    monkeypatch: pytest.MonkeyPatch, only: str | None, files: list[str]
) -> None:
    tried = []

    def missing(name: str) -> None:
        tried.append(name)
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(contenders, "import_module", missing)
    assert contenders.CAPTURED in contenders.makers(SIZES["digits"], only)
    assert tried == files


def options(steps: int) -> argparse.Namespace:
    return argparse.Namespace(steps=steps, images=1000, particles=5000, out="")


def test_a_result_of_other_steps_is_none(tmp_path: Path) -> None:
    assert iwae_mnist.result(options(20), tmp_path) is None
    row = {"nll": 90.0, "setting": iwae_mnist.setting(options(20))}
    (tmp_path / iwae_mnist.RESULT).write_text(json.dumps(row))
    assert iwae_mnist.result(options(20), tmp_path) == row
    assert iwae_mnist.result(options(30), tmp_path) is None


def test_what_is_being_written_is_not_read(tmp_path: Path) -> None:
    assert iwae_mnist.reached(tmp_path) == "not begun"
    whole = "epoch,step,objective\n1,500,-212.2155\n"
    for text in (whole, whole + "2,10", whole + "2,1000,-1"):
        (tmp_path / "metrics.csv").write_text(text)
        assert iwae_mnist.reached(tmp_path) == "at step 500, bound -212.22"
