r"""Captured steps of objectives with targets and aggregate posteriors are the eager ones."""

from functools import partial
from typing import Any

import pyro
import pytest
import torch
from test_captured_zoo import OBJECTIVES, check
from zoo import ZOO

from pyro_vae import SVI
from pyro_vae.objectives import ELBO, GECO, BetaTC, Capacity, InfoVAE
from pyro_vae.schedules import Cyclical, Linear

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pyro")

MINE: dict[str, Any] = {
    "warm-up": lambda: ELBO(beta=Linear(0.2, 1, 3), free_bits=Cyclical(0.5, 0, 4, 2)),
    "stl, free bits": lambda: ELBO(gradient="stl", free_bits=0.3, particles=2),
    "GECO": lambda: GECO(delta=Linear(1, 2, 3), rate=Linear(0.01, 0.1, 3), particles=2),
    "Capacity": lambda: Capacity(gamma=3.0, capacity=Linear(0.1, 2, 3)),
    "BetaTC": BetaTC,
    "InfoVAE": lambda: InfoVAE(particles=2, kernel="rbf", bandwidth=Linear(1, 2, 3)),
}
ROWS = {
    "BetaTC": ("plain_functions", "batch_norm_and_dropout"),
    "InfoVAE": ("plain_functions", "masked_and_scaled"),
    "stl, free bits": ("top_down", "global_latent"),
}


@pytest.mark.parametrize("name", MINE)
@pytest.mark.parametrize("number", range(2))
def test_traced(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    monkeypatch.setitem(OBJECTIVES, name, MINE[name])
    row = ROWS.get(name, ("bottom_up", "global_latent"))[number]
    check(row, name, {"backend": "aot_eager"})


def test_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "GECO", MINE["GECO"])
    check("vae", "GECO", {"options": {"fallback_random": True}})


@pytest.mark.parametrize("name", ["GECO", "BetaTC"])
def test_batches_of_any_size_share_two_graphs(name: str) -> None:
    adam = partial(torch.optim.Adam, lr=1e-3)
    losses: list[list[float]] = []
    for capture in (False, True):
        pyro.set_rng_seed(0)
        model, guide, (x,) = ZOO["vae"]()
        svi = SVI(model, guide, adam, MINE[name](), capture=capture, data_size=20)
        svi.capture.compiling = {"backend": "aot_eager"}
        svi.capture.others = 100  # of other sizes already
        losses.append([])
        for size in (7, 7, 5, 3):
            pyro.set_rng_seed(size)
            losses[-1].append(svi.step(x[:size]).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-10)
    assert svi.capture.compilations <= 2
