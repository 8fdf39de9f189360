r"""What steers training: schedules, clipping, patience and callbacks, against steps by hand."""

from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.optim import lr_scheduler

from pyro_vae import SVI, fit
from pyro_vae.data import Data
from pyro_vae.guides import AmortizedNormal
from pyro_vae.likelihoods import Normal
from pyro_vae.loop import Event
from pyro_vae.models import VAE

RATE, ROWS = 0.125, 8
quiet = partial(
    fit,
    progress=False,
    device="cpu",
    batch_size=ROWS,
    optimizer=partial(torch.optim.SGD, lr=RATE),
)


class Mean(PyroModule):
    r"""Both x ~ N(loc, 1): the gradient of the bound is 2 (mean(x) - loc), without noise."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("x", dist.Normal(self.loc, 1.0).expand([2]).to_event(1), obs=x)


def nothing(x: Tensor) -> None:
    r"""The guide of a model without latents."""


def rows(train: float, validation: float | None = None) -> Data | Tensor:
    r"""Data whose rows have this mean each, so that every batch has, in splits of their own."""
    spread = torch.tensor([-0.5, 0.5]).expand(ROWS, 2)
    if validation is None:
        return train + spread
    splits = {"train": train + spread, "validation": validation + spread, "test": spread}
    return Data("rows", *({"x": x} for x in splits.values()), Normal(1.0), (-1.0, 3.0))


def located(**options: Any) -> tuple[float, list[dict[str, float]]]:
    model = Mean()
    run = quiet(model, nothing, **{"validation": False, **options})
    return model.loc.item(), run.history


def moved(rates: list[float], target: float) -> float:
    r"""Where steps of these rates lead."""
    loc = 0.0
    for rate in rates:
        loc += 2 * rate * (target - loc)
    return loc


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_schedule_sets_the_rate(interval: Any) -> None:
    gamma, epochs = 0.5, 3
    schedule = partial(lr_scheduler.ExponentialLR, gamma=gamma)
    options = {"schedule": schedule, "schedule_interval": interval}
    found, history = located(data=rows(2.0), epochs=epochs, batch_size=ROWS // 2, **options)
    exponents = range(2 * epochs) if interval == "step" else [n // 2 for n in range(2 * epochs)]
    rates = [RATE * gamma**n for n in exponents]
    assert found == pytest.approx(moved(rates, 2.0), rel=1e-12)
    ends = [rates[2 * epoch + 1] * (gamma if interval == "step" else 1) for epoch in range(epochs)]
    assert [row["learning_rate"] for row in history] == pytest.approx(ends)


def test_a_schedule_warms_up_before_the_first_step() -> None:
    schedule = partial(lr_scheduler.LinearLR, start_factor=0.1, total_iters=2)
    found, _ = located(data=rows(2.0), epochs=3, schedule=schedule)
    assert found == pytest.approx(moved([0.1 * RATE, 0.55 * RATE, RATE], 2.0), rel=1e-12)


def test_a_plateau_is_one_of_the_validation_bound() -> None:
    # validation gets worse with every step towards the training data
    schedule = partial(lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=0)
    model = Mean()
    run = quiet(model, nothing, rows(1.0, -1.0), epochs=4, schedule=schedule)
    rates = [row["learning_rate"] for row in run.history]
    assert rates == pytest.approx([RATE, RATE, RATE / 2, RATE / 4])


def test_gradients_are_clipped_by_their_common_norm() -> None:
    far, _ = located(data=rows(100.0), epochs=4, clip_norm=2.0)
    assert far == pytest.approx(4 * RATE * 2.0, rel=1e-5)  # torch adds 1e-6 to the norm
    near, _ = located(data=rows(0.9), epochs=1, clip_norm=2.0)
    assert near == pytest.approx(RATE * 1.8, rel=1e-12)


def test_the_common_norm_is_that_of_all_parameters() -> None:
    class Two(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.tensor(0.0))
            self.b = nn.Parameter(torch.tensor(0.0))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", x.shape[0], dim=-1):
                pyro.sample("x", dist.Normal(3 * self.a + 4 * self.b, 1.0), obs=x)

    model = Two()
    svi = SVI(model, nothing, partial(torch.optim.SGD, lr=1.0), reduction="mean", clip_norm=1.0)
    svi.step(torch.full((ROWS,), 10.0))  # gradients of 30 and 40
    assert (model.a.item(), model.b.item()) == pytest.approx((0.6, 0.8), rel=1e-6)


def test_patience_ends_training_and_the_best_weights_stay() -> None:
    # loc goes from 0 towards 1, past the validation data at 0.5
    model = Mean()
    run = quiet(model, nothing, rows(1.0, 0.5), epochs=50, patience=3)
    path = [moved([RATE] * n, 1.0) for n in range(1, 51)]
    best = min(range(50), key=lambda n: abs(path[n] - 0.5))
    assert len(run.history) == best + 1 + 3
    assert run.weights == "best"
    assert model.loc.item() == pytest.approx(path[best], rel=1e-12)
    bounds = [row["validation.elbo"] for row in run.history]
    assert max(range(len(bounds)), key=bounds.__getitem__) == best


def test_callbacks_are_told_and_may_end_training() -> None:
    model, seen = Mean(), []

    def note(event: Event) -> bool:
        assert event.model is model
        seen.append((event.row["epoch"], event.model.loc.item()))
        return event.row["epoch"] == 3

    run = quiet(model, nothing, rows(2.0), epochs=10, validation=False, callbacks=[note])
    assert seen == [(n, pytest.approx(moved([RATE] * n, 2.0))) for n in (1, 2, 3)]
    assert len(run.history) == 3


def test_what_a_callback_ended_goes_on_for_more_epochs(tmp_path: Any) -> None:
    def ended(epochs: int, **options: Any) -> int:
        model = Mean()
        two = [lambda event: event.row["epoch"] == 2]
        found = quiet(
            model, nothing, data, epochs=epochs, run_dir=tmp_path, callbacks=two, **options
        )
        return len(found.history)

    data = rows(2.0)
    assert ended(5) == 2
    assert ended(5, resume=True) == 2
    assert ended(6, resume=True) == 6


ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "patience": ({"patience": 0}, ValueError, "expected patience to be positive"),
    "nothing to wait for": (
        {"patience": 2, "validation": False},
        ValueError,
        "and validation data to be patient with",
    ),
    "clipping": ({"clip_norm": 0.0}, ValueError, "expected a positive clip_norm, got 0.0"),
    "interval": (
        {"schedule_interval": "batch"},
        ValueError,
        "expected an interval of 'epoch' or 'step', got 'batch'",
    ),
    "plateau": (
        {"schedule": lr_scheduler.ReduceLROnPlateau, "schedule_interval": "step"},
        ValueError,
        "expected ReduceLROnPlateau to go on after each epoch",
    ),
    "schedule": ({"schedule": lambda optimizer: 3}, TypeError, "got one that makes int"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    options, kind, match = ERRORS[name]
    model = Mean()
    with pytest.raises(kind, match=match):
        quiet(model, nothing, rows(1.0), epochs=1, **options)
    assert model.loc.item() == 0.0


def test_what_diverges_is_explained() -> None:
    x = (torch.rand(20, 3) < 0.5).double()
    model, guide = VAE((3,), 2), AmortizedNormal((3,), {"z": 2})
    match = r"loc of Normal .* lower the learning rate or clip gradients \(step 2\)"
    with pytest.raises(ValueError, match=match) as caught:
        quiet(model, guide, x, epochs=9, optimizer=partial(torch.optim.Adam, lr=1e300))
    assert "Trace Shapes" not in str(caught.value)
