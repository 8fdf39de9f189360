r"""What is said of the bias of objectives."""

import pytest

from pyro_vae.cli.listing import run
from pyro_vae.components import bias, choices


@pytest.mark.parametrize("name", choices("objective"))
def test_each_objective_says_for_what_it_is_biased(name: str) -> None:
    text = bias(choices("objective")[name])
    assert "biased" in text.lower()
    assert "`" not in text


def test_the_list_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["objectives"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "-KL(p(z | x) ‖ q(z | x)) on the model's own data" in words
    assert "The importance-weighted bound. Unbiased for the bound of K particles" in words
