r"""Saved states: what goes on from them is what would have gone on without."""

import copy
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from zoo import ZOO, D, F, N, mlp

from pyro_vae import SVI
from pyro_vae.models import VAE

adam = partial(torch.optim.Adam, lr=1e-2)


@pytest.mark.parametrize(
    "name", ["vae", "plain_functions", "auto_normal", "batch_norm_and_dropout"]
)
def test_a_saved_state_goes_on_as_if_nothing_happened(name: str) -> None:
    def run(steps: int, saved: dict[str, Any] | None) -> SVI:
        pyro.clear_param_store()
        pyro.set_rng_seed(0 if saved is None else 5)  # another initialisation
        model, guide, batch = ZOO[name]()
        pyro.set_rng_seed(0)
        batch = ZOO[name]()[2]
        svi = SVI(model, guide, adam)
        if saved is not None:
            svi.load_state_dict(saved)
        for step in range(steps, steps + 3):
            pyro.set_rng_seed(step)
            svi.step(*batch)
        return svi

    saved = copy.deepcopy(run(0, None).state_dict())
    whole = run(0, None)
    pyro.set_rng_seed(0)
    batch = ZOO[name]()[2]
    for step in range(3, 6):
        pyro.set_rng_seed(step)
        whole.step(*batch)
    expected = {n: t.detach().clone() for n, t in whole.tensors().items()}

    found = run(3, saved).tensors()
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


def test_a_state_of_another_model_is_refused() -> None:
    model, guide, (x,) = ZOO["vae"]()
    svi = SVI(model, guide, adam)
    svi.step(x)
    other = SVI(VAE((F,), D, decoder=mlp(D, F, (3,))), guide, adam)
    other.load_state_dict(svi.state_dict())
    with pytest.raises(ValueError, match=r"model.decoder.0.weight': \(3, 2\)"):
        other.step(x)


def test_a_saved_state_waits_for_what_a_later_batch_uses() -> None:
    def model(x: Tensor, late: bool = False) -> None:
        loc = pyro.param("late" if late else "early", lambda: torch.tensor(0.0))
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x: Tensor, late: bool = False) -> None: ...

    def run(svi: SVI, steps: range) -> None:
        for step in steps:
            svi.step(torch.ones(N), late=bool(step % 2))

    svi = SVI(model, guide, adam)
    run(svi, range(4))
    saved = svi.state_dict()
    run(svi, range(4, 8))  # which leaves the saved state as it is
    expected = {name: pyro.param(name).item() for name in ("early", "late")}

    pyro.clear_param_store()
    resumed = SVI(model, guide, adam)
    resumed.load_state_dict(saved)
    run(resumed, range(4, 8))
    assert {name: pyro.param(name).item() for name in expected} == expected
