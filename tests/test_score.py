r"""Gradients without reparametrisation, against sums over all that can be drawn."""

import bits as small
import pytest
import torch
from bits import Bits, Global, GlobalLast, OneLayer, TwoLayers, exact
from torch import nn

from pyro_vae.objectives import VIMCO, ScoreFunction

BASELINES = {
    "none": lambda: ScoreFunction(baseline="none"),
    "sampled": lambda: ScoreFunction(baseline="none", kl="sampled"),
    "average": lambda: averaged(ScoreFunction()),
    "leave_one_out": lambda: ScoreFunction(2, "leave_one_out"),
    "network": lambda: averaged(ScoreFunction(baseline="network", event_shape=(2,))),
    "module": lambda: averaged(ScoreFunction(baseline="network", network=nn.Linear(2, 1))),
}


def averaged(objective: ScoreFunction) -> ScoreFunction:
    r"""Its average is not zero any more."""
    assert objective.signal is not None
    objective.signal.update(torch.tensor(-2.7))
    return objective


def close(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert any(g.abs().max() > 1e-3 for g in expected)


@pytest.mark.parametrize("pair", [OneLayer, TwoLayers, Global, GlobalLast])
@pytest.mark.parametrize("baseline", BASELINES)
def test_the_mean_is_the_gradient_of_the_elbo(pair: type[Bits], baseline: str) -> None:
    r"""Exactly, as a sum over all draws: no baseline moves it."""
    bits, objective = pair(), BASELINES[baseline]()
    theta, phi, (value,) = bits.gradients(objective)

    bound = small.elbo(bits)
    close(theta, exact(bits, bound, "theta"))
    close(phi, exact(bits, bound, "phi"))
    assert value.mean().item() == pytest.approx(bound.item())


def test_a_batch_is_a_part_of_the_data() -> None:
    r"""Global sites then have 2 / 10 of a share, and learn from all data all the same."""
    bits = Global(data_size=10)
    theta, phi, _ = bits.gradients(ScoreFunction(baseline="none"))
    bound = small.elbo(bits)
    close(theta, exact(bits, bound, "theta"))
    close(phi, exact(bits, bound, "phi"))


def test_beta_is_in_the_signal() -> None:
    bits = OneLayer()
    one, half, none = (
        bits.gradients(ScoreFunction(beta=beta))[1] for beta in (1.0, 0.5, 0.0)
    )
    close([2 * h for h in half], [a + b for a, b in zip(one, none, strict=True)])


@pytest.mark.parametrize(("pair", "k"), [(OneLayer, 2), (OneLayer, 3), (TwoLayers, 2)])
def test_vimco_is_the_gradient_of_the_importance_weighted_bound(pair: type[Bits], k: int) -> None:
    bits = pair()
    theta, phi, (value,) = bits.gradients(VIMCO(k))
    bound = small.iwae(bits, k)
    close(theta, exact(bits, bound, "theta"))
    close(phi, exact(bits, bound, "phi"))
    assert value.mean().item() == pytest.approx(bound.item())


@pytest.mark.parametrize("pair", [Global, GlobalLast])
def test_vimco_with_global_latents_bounds_all_data_as_one(pair: type[Bits]) -> None:
    bits = pair()
    theta, phi, (value,) = bits.gradients(VIMCO(2))
    bound = small.iwae(bits, 2, whole=True)
    close(theta, exact(bits, bound, "theta"))
    close(phi, exact(bits, bound, "phi"))
    assert value.mean().item() == pytest.approx(bound.item())
