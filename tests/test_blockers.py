r"""What keeps a step from becoming a graph is said, with the line; and the trial leaves nothing."""

import copy
import random
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import uncapturable
from pyro.nn import PyroModule
from torch import Tensor, nn
from uncapturable import UNCAPTURABLE, Model, unit, validates_later
from zoo import ZOO, D, F, binary, standard

from pyro_vae import SVI
from pyro_vae.blockers import explain
from pyro_vae.guides import AmortizedNormal
from pyro_vae.reach import reach

adam = partial(torch.optim.Adam, lr=1e-2)


def step(model: Any, guide: Any, *batch: Tensor) -> Callable[[], str | None]:
    r"""What is said of a step that has been taken once before."""
    with pyro.validation_enabled(False):
        svi = SVI(model, guide, adam)
        svi.step(*batch)
        plan = svi.pair.plan(batch, {})

    def gradients(substitute: Any, *batch: Tensor) -> Any:
        return svi.gradients(plan, batch, {})

    return lambda: explain(gradients, {"model": model, "guide": guide}, batch)


def trial(model: Any) -> Callable[[], str | None]:
    return step(model, AmortizedNormal((F,), {"z": D}), binary(6, F))


@pytest.mark.parametrize("name", ZOO)
def test_nothing_is_said_of_the_zoo(name: str) -> None:
    model, guide, batch = ZOO[name]()
    assert step(model, guide, *batch)() is None


@pytest.mark.parametrize("name", UNCAPTURABLE)
def test_what_and_where_and_what_to_do(name: str) -> None:
    likelihood, code, words = UNCAPTURABLE[name]
    said = trial(Model(likelihood))()
    assert said is not None
    assert re.search(words, said)
    lines = Path(uncapturable.__file__).read_text().splitlines()
    found = re.search(r"uncapturable.py:(\d+) `(.*?)`", said)
    assert found is not None
    assert code in lines[int(found[1]) - 1]
    assert lines[int(found[1]) - 1].strip() == found[2]
    assert said.startswith("expected ")
    assert "\n" not in said
