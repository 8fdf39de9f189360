r"""Importance-weighted objectives: the captured step is the eager step, on the same noise."""

from typing import Any

import pytest
import test_captured_zoo
from test_captured_zoo import check
from test_importance_pairs import FAMILY

from pyro_vae.objectives import CIWAE, TVO, Renyi
from pyro_vae.schedules import Linear

OBJECTIVES: dict[str, Any] = {
    **FAMILY,
    "CIWAE, scheduled": lambda: CIWAE(Linear(1, 0, length=2), 3),
    "TVO, scheduled": lambda: TVO(3, first=Linear(0.1, 0.4, length=2)),
    "Renyi, scheduled": lambda: Renyi(Linear(0, 1, length=2), 3),
}
TRACED = [
    ("vae", "IWAE"),
    ("vae", "PIWAE"),
    ("vae", "CIWAE, scheduled"),
    ("plain_functions", "Renyi, scheduled"),
    ("plain_functions", "TVO"),
    ("top_down", "IWAE, stl"),
    ("top_down", "IWAE, dreg"),
    ("mixture", "IWAE, dreg"),
    ("mixture", "TVO, scheduled"),
    ("global_latent", "MIWAE"),
    ("global_latent", "TVO"),
]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, make in OBJECTIVES.items():
        monkeypatch.setitem(test_captured_zoo.OBJECTIVES, name, make)


@pytest.mark.parametrize(("row", "objective"), TRACED)
def test_traced(row: str, objective: str) -> None:
    check(row, objective, {"backend": "aot_eager"})


def test_compiled() -> None:
    check("vae", "TVO", {"options": {"fallback_random": True}})
