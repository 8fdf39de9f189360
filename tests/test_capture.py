r"""Which steps are captured, and what they do besides."""

from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from captures import (
    N,
    adam,
    assert_same_steps,
    binary,
    captures,
    pair_of_svi,
    programs,
    sgd,
    traced,
)
from torch import Tensor

from pyro_vae import SVI
from pyro_vae.graph import Graph
from pyro_vae.objectives import ELBO


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


class TestWhich:
    r"""When a step is captured."""

    @pytest.mark.parametrize(
        ("mode", "steps", "first"),
        [(False, 10**6, None), (True, 10, 2), ("auto", 3999, None), ("auto", 4000, 2)],
    )
    def test_by_the_number_of_planned_steps(self, mode: Any, steps: int, first: int | None) -> None:
        svi = traced(SVI(*programs(), adam, capture=mode, steps=steps))
        for step in range(1, 5):
            svi.step(binary())
            assert captures(svi) == (first is not None and step >= first)

    def test_after_500_steps_where_nobody_knows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        svi = traced(SVI(*programs(), adam))
        assert svi.capture.start == 500
        svi.capture.start = 3
        for step in range(1, 6):
            svi.step(binary())
            assert captures(svi) == (step > 3)

    def test_each_size_is_eager_while_rare_then_all_share_a_graph(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pyro_vae.capture._RARE", 2)
        eager, captured = pair_of_svi()
        sizes = [N, N, 3, N, 4, 3, 5, 6, N, 9, 11]
        counts = []
        for size in sizes:
            assert_same_steps(eager, captured, (binary(size),))
            counts.append(captures(captured))
        # N from its second step; 3 and 4 are rare, 3 comes with a graph for 5, 6, 9, 11, too
        assert counts == [0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]

    def test_arguments_are_checked(self) -> None:
        with pytest.raises(ValueError, match="capture to be True, False or 'auto', got 'yes'"):
            SVI(*programs(), adam, capture="yes")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="positive number of steps, got 0"):
            SVI(*programs(), adam, steps=0)


class TestSteps:
    r"""What a captured step does besides."""

    def test_clipping(self) -> None:
        eager, captured = pair_of_svi(optim=sgd, clip_norm=0.5)
        before = {name: tensor.clone() for name, tensor in captured.tensors().items()}
        assert_same_steps(eager, captured, (binary(),), (binary(),))
        moved = [captured.tensors()[n] - t for n, t in before.items()]
        assert torch.cat([m.flatten() for m in moved]).norm() < 2.01 * 0.5 * 1e-2

    def test_a_loss_that_is_not_finite_trains_nothing(self) -> None:
        _, svi = pair_of_svi()
        for _ in range(2):
            svi.step(binary())
        before = svi.state_dict()
        with pytest.raises(ValueError, match="finite loss, got nan: the guide's site 'z'"):
            svi.step(binary() * torch.nan)
        after = svi.state_dict()
        for name, tensor in before["tensors"].items():
            assert torch.equal(after["tensors"][name], tensor)
        for name, state in before["state"].items():
            assert all(torch.equal(after["state"][name][key], v) for key, v in state.items())

    @pytest.mark.parametrize("reason", ["not finite", "interrupted"])
    def test_a_step_that_is_not_taken_decays_no_rate(
        self, reason: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        optim = pyro.optim.ClippedAdam({"lr": 0.01, "lrd": 0.5})
        eager, captured = pair_of_svi(optim=optim)
        assert_same_steps(eager, captured, *[(binary(),)] * 3)
        if reason == "not finite":
            for svi in (eager, captured):
                with pytest.raises(ValueError, match=r"finite|invalid values"):
                    svi.step(binary() * torch.nan)
        else:
            with monkeypatch.context() as patch:
                patch.setattr(Graph, "__call__", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    captured.step(binary())
        assert_same_steps(eager, captured, *[(binary(),)] * 2)

    def test_gradients_are_left_where_they_are_asked_for(self) -> None:
        eager, captured = pair_of_svi()
        assert_same_steps(eager, captured, (binary(),), (binary(),))
        assert all(p.grad is None for p in captured.pair.parameters.values())
        captured = traced(SVI(*programs(), adam, capture=True))
        captured.capture.keeps_gradients = True
        for _ in range(2):
            captured.step(binary())
        assert all(p.grad is not None for p in captured.pair.parameters.values())

    def test_randomness(self) -> None:
        r"""Through the compiler, whose random numbers are others than torch's."""
        svi = SVI(*programs(), partial(sgd, lr=0.0), ELBO(kl="sampled"), capture=True)
        svi.step(binary())
        losses = []
        for seed in (0, 0, 1):
            pyro.set_rng_seed(seed)
            losses.append([svi.step(binary()).item() for _ in range(3)])
        assert losses[0] == losses[1]
        assert len({*losses[0], *losses[2]}) == 6

    def test_particles_differ(self) -> None:
        def model(x: Tensor) -> None:
            with pyro.plate("data", x.shape[0], dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            loc = pyro.param("loc", lambda: torch.tensor(0.0))
            with pyro.plate("data", x.shape[0], dim=-1):
                pyro.sample("z", dist.Normal(loc, 1.0))

        # d/dloc of the bound is the mean of (x - z) over particles: one value if they were one
        found = {}
        for particles in (1, 1000):
            pyro.clear_param_store()
            bound = ELBO("analytic", particles)
            svi = traced(SVI(model, guide, partial(sgd, lr=0.0), bound, capture=True))
            svi.capture.keeps_gradients = True
            x = torch.zeros(1)
            svi.step(x)
            gradients = []
            for seed in range(8):
                pyro.set_rng_seed(seed)
                svi.step(x)
                gradients.append(pyro.get_param_store()._params["loc"].grad.item())
            found[particles] = torch.tensor(gradients).std().item()
        # the standard errors are 1 and 0.032, each known to 1/4 from eight draws
        assert 0.4 < found[1] < 2.0
        assert 0.01 < found[1000] < 0.08


class TestResuming:
    @pytest.mark.parametrize(("optim", "stops"), [(adam, (5, 8)), (sgd, (1,))])
    def test_state_goes_on_where_it_was(
        self, optim: Any, stops: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        r"""Bit for bit, whatever was captured before and after; through batches of two sizes."""
        monkeypatch.setattr("pyro_vae.capture._PATIENCE", 3)
        monkeypatch.setattr("pyro_vae.capture._RARE", 1)
        batches = [binary(n) for n in (N, N, 3, N, N, 3, N, 3, N)]

        def run(stop: int | None) -> tuple[list[float], dict[str, Tensor]]:
            pyro.set_rng_seed(0)
            svi = traced(SVI(*programs(), optim))
            losses = []
            for step, batch in enumerate(batches):
                if step == stop:
                    saved = svi.state_dict()
                    random = torch.get_rng_state()
                    svi = traced(SVI(*programs(), optim))
                    svi.load_state_dict(saved)
                    svi.prepare(batch)
                    torch.set_rng_state(random)
                losses.append(svi.step(batch).item())
            return losses, svi.tensors()

        losses, tensors = run(None)
        for stop in stops:
            again, others = run(stop)
            assert again == losses
            assert all(torch.equal(tensors[name], others[name]) for name in tensors)
