r"""What every test and every doctest starts from: a seed, and no parameters of earlier ones."""

import pyro
import pytest


@pytest.fixture(autouse=True)
def seeded() -> None:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
