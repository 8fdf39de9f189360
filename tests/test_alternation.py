r"""Steps of the guide alone."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor, nn
from zoo import ZOO, D, F

from pyro_vae import SVI, fit
from pyro_vae.alternation import Alternation, only_guide
from pyro_vae.data import load
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE

quiet = partial(fit, progress=False, device="cpu", batch_size=20)
sgd = partial(torch.optim.SGD, lr=1e-3)


def tensors(svi: SVI) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in svi.tensors().items()}


@pytest.mark.parametrize("row", ["vae", "plain_functions", "top_down", "mixture", "auto_normal"])
@pytest.mark.parametrize("capture", [False, True])
def test_the_guide_moves_as_in_a_step_of_both_and_the_model_not(row: str, capture: bool) -> None:
    found = []
    for alone in (False, True):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model, guide, batch = ZOO[row]()
        svi = SVI(model, guide, sgd, capture=capture)
        svi.capture.compiling = {"backend": "aot_eager"}
        svi.step(*batch)
        svi.step(*batch)
        before = tensors(svi)
        for seed in range(2):  # the first of its kind, and one more
            pyro.set_rng_seed(seed)
            for name, tensor in svi.tensors().items():
                with torch.no_grad():
                    tensor.copy_(before[name])
            if alone:
                with only_guide(svi.pair, svi.pair.plan(batch, {})):
                    svi.step(*batch)
            else:
                svi.step(*batch)
        found.append((before, tensors(svi)))
    (before, both), (_, alone) = found
    trained = {name for name in before if not torch.equal(before[name], both[name])}
    assert any(name.startswith("guide.") for name in trained)
    for name in before:
        expected = both[name] if name.startswith("guide.") else before[name]
        torch.testing.assert_close(alone[name], expected, rtol=1e-12, atol=1e-14, msg=name)
    assert any(name.startswith("model.") for name in trained) or row == "auto_normal"
    assert all(parameter.requires_grad for parameter in svi.pair.parameters.values())


def test_every_third_step_trains_both() -> None:
    assert [Alternation(3).next() for _ in range(1)] == [False]
    alternation = Alternation(3)
    assert [alternation.next() for _ in range(7)] == [False, False, True] * 2 + [False]
    alternation = Alternation(1)
    assert [alternation.next() for _ in range(3)] == [True] * 3


def steps_until_both(alternation: Alternation, losses: list[float]) -> int:
    for taken, loss in enumerate(losses):
        if alternation.next():
            return taken
        alternation.took(torch.tensor(loss))
    return len(losses)


def test_the_guide_goes_on_while_ten_losses_are_better_than_ten_before() -> None:
    losses = [3.0] * 10 + [2.0] * 10 + [1.0] * 9 + [1.5] + [1.2] * 10 + [0.0] * 70
    assert steps_until_both(Alternation("aggressive"), losses) == 40
    assert steps_until_both(Alternation("aggressive"), [1.0] * 200) == 20
    falling = [-float(step) for step in range(200)]
    assert steps_until_both(Alternation("aggressive"), falling) == 100


def test_the_next_round_compares_with_nothing_of_the_last() -> None:
    alternation = Alternation("aggressive")
    assert steps_until_both(alternation, [1.0] * 200) == 20
    assert steps_until_both(alternation, [5.0] * 10 + [4.0] * 10 + [4.0] * 20) == 30


def test_all_steps_train_both_once_information_stops_growing() -> None:
    alternation = Alternation("aggressive")
    for information in (1.0, 2.0):
        alternation.compare(information)
        assert not alternation.next()
    alternation.compare(2.0)
    assert all(alternation.next() for _ in range(5))
    assert not alternation.is_due(1)


def test_information_is_compared_after_so_many_steps_of_both() -> None:
    alternation = Alternation("aggressive")
    for _ in range(3):
        assert not alternation.is_due(2)
        steps_until_both(alternation, [1.0] * 200)
        assert not alternation.is_due(2)
        steps_until_both(alternation, [1.0] * 200)
        assert alternation.is_due(2)
        alternation.compare(float(alternation.information > 0) + 1)
        alternation.aggressive = True


def test_steps_of_two_kinds_are_inspected_and_compiled_once_each() -> None:
    model, guide, batch = ZOO["vae"]()
    svi = SVI(model, guide, sgd, capture=True)
    svi.capture.compiling = {"backend": "aot_eager"}
    plans = set()
    for _ in range(4):
        svi.step(*batch)
        with only_guide(svi.pair, svi.pair.plan(batch, {})):
            svi.step(*batch)
            plans.add(svi.pair.plan(batch, {}))
    assert len(plans) == 1
    assert svi.capture.compilations == 2


def test_what_is_half_done_goes_on_where_it_was() -> None:
    one = Alternation("aggressive")
    for loss in range(15):
        one.next()
        one.took(torch.tensor(-float(loss)))
    other = Alternation("aggressive")
    other.load_state_dict(one.state_dict())
    losses = [-20.0] * 5 + [-14.0] * 40
    assert steps_until_both(other, losses) == steps_until_both(one, losses)


@pytest.mark.parametrize("encoder_steps", [3, "aggressive"])
def test_a_run_goes_on_as_if_nothing_happened(encoder_steps: Any, tmp_path: Path) -> None:
    def run(epochs: int, **options: Any) -> Any:
        pyro.set_rng_seed(0)
        model, guide = VAE((F,), D), AmortizedNormal((F,), {"z": D})
        data = load(torch.rand(300, F), validation=0.2, test=0.0, binarization="dynamic")
        return quiet(model, guide, data, epochs=epochs, encoder_steps=encoder_steps, **options)

    whole = run(4)
    run(2, run_dir=tmp_path / "run")
    resumed = run(4, run_dir=tmp_path / "run", resume=True)
    assert resumed.history == whole.history
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])
    assert not any("mutual_information" in row for row in whole.history)  # too few of the model


def test_mutual_information_decides_after_as_many_steps_of_the_model_as_an_epoch_has() -> None:
    r"""Two batches an epoch, and at least 20 steps of the guide before each of the model."""
    pyro.set_rng_seed(0)
    model, guide = VAE((F,), D), AmortizedNormal((F,), {"z": D})
    x = torch.rand(40, F).round()
    run = quiet(model, guide, x, epochs=50, encoder_steps="aggressive")
    told = {row["epoch"]: row.get("mutual_information") for row in run.history}
    told = {epoch: information for epoch, information in told.items() if information is not None}
    assert 21 <= min(told) <= 50 - 21 * (len(told) - 1)
    assert all(abs(information) <= math.log(40) for information in told.values())


def test_of_three_steps_one_trains_the_model() -> None:
    r"""With plain SGD on one batch: the model of a run of three steps has moved once."""
    x = torch.bernoulli(torch.full((20, F), 0.5))
    model, guide = VAE((F,), D), AmortizedNormal((F,), {"z": D})
    before = [parameter.detach().clone() for parameter in model.parameters()]
    moved = []

    def note(event: Any) -> None:
        now = [parameter.detach().clone() for parameter in model.parameters()]
        moved.append(not all(map(torch.equal, before, now)))
        before[:] = now

    quiet(model, guide, x, epochs=6, encoder_steps=3, optimizer=sgd, callbacks=[note])
    assert moved == [False, False, True] * 2


@pytest.mark.parametrize(
    ("encoder_steps", "error", "match"),
    [
        (0, ValueError, "encoder_steps of at least 1, got 0"),
        (1.5, TypeError, "an integer or 'aggressive', got 1.5"),
        ("agressive", TypeError, "an integer or 'aggressive', got 'agressive'"),
    ],
)
def test_errors(encoder_steps: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Alternation(encoder_steps)
    model, guide = VAE((F,), D), AmortizedNormal((F,), {"z": D})
    with pytest.raises(error, match=match):
        quiet(model, guide, torch.ones(20, F), encoder_steps=encoder_steps)


def test_a_guide_without_parameters_cannot_lag_behind() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", x.shape[0], dim=-1):
                zeros = x.new_zeros(D)
                pyro.sample("z", pyro.distributions.Normal(zeros, 1.0).to_event(1))

    with pytest.raises(ValueError, match="a guide with parameters of its own for encoder_steps"):
        quiet(VAE((F,), D), Fixed(), torch.rand(20, F).round(), encoder_steps=2)
