r"""Which steps are captured, and that whatever changes is seen."""

import argparse
import itertools
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro.infer import RenyiELBO, ReweightedWakeSleep, Trace_ELBO, TraceGraph_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae import SVI
from pyro_vae.graph import Graph
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.nn import mlp
from pyro_vae.objectives import ELBO
from pyro_vae.schedules import Constant
from pyro_vae.uncapturable import Uncapturable

N, F, D = 7, 5, 2
sgd = partial(torch.optim.SGD, lr=1e-2)
adam = partial(torch.optim.Adam, lr=1e-2)


def binary(n: int = N) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return (torch.rand(n, F, generator=generator) < 0.4).to(torch.get_default_dtype())


def programs(dropout: float = 0.0) -> tuple[VAE, AmortizedNormal]:
    decoder = nn.Sequential(mlp(D, 8, ()), nn.Dropout(dropout), nn.ReLU(), nn.Linear(8, F))
    return VAE((F,), D, decoder=decoder), AmortizedNormal((F,), {"z": D})


def traced(svi: SVI) -> SVI:
    r"""Without the compiler, which takes seconds: what is traced is the same."""
    svi.capture.compiling = {"backend": "aot_eager"}
    return svi


def pair_of_svi(optim: Any = adam, loss: Any = ELBO, **options: Any) -> tuple[SVI, SVI]:
    r"""The same twice, eager and captured."""
    found = []
    dropout = options.pop("dropout", 0.0)
    for capture in (False, True):
        pyro.set_rng_seed(0)
        svi = SVI(*programs(dropout), optim, loss(), capture=capture, **options)
        found.append(traced(svi))
    return found[0], found[1]


def assert_same_steps(
    eager: SVI, captured: SVI, *batches: tuple[Any, ...], before: Callable[[SVI], Any] | None = None
) -> None:
    r"""Loss and all tensors are equal after each batch, on the same noise."""
    for seed, batch in enumerate(batches):
        losses = []
        for svi in (eager, captured):
            if before is not None:
                before(svi)
            pyro.set_rng_seed(seed)
            losses.append(svi.step(*batch).item())
        assert losses[1] == pytest.approx(losses[0], rel=1e-12)
        ours, theirs = captured.tensors(), eager.tensors()
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-10, atol=1e-12, msg=name)


def captures(svi: SVI) -> int:
    return svi.capture.compilations


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


class TestWhatChanges:
    r"""No graph outlives what it was traced with; no test resets the compiler."""

    def test_training_modes(self) -> None:
        eager, captured = pair_of_svi(dropout=0.5)

        def evaluating(svi: SVI) -> None:
            svi.pair.model.__self__.eval()  # type: ignore[attr-defined]

        assert_same_steps(eager, captured, *[(binary(),)] * 3)
        assert_same_steps(eager, captured, *[(binary(),)] * 3, before=evaluating)
        assert captures(captured) == 2

    # Pyro's own, where a parameter is frozen and its module is not in evaluation mode
    @pytest.mark.filterwarnings("ignore:.* was not registered in the param store")
    def test_frozen_parameters(self) -> None:
        eager, captured = pair_of_svi(optim=sgd)
        assert_same_steps(eager, captured, *[(binary(),)] * 3)
        for svi in (eager, captured):
            for parameter in svi.pair.model.__self__.decoder.parameters():  # type: ignore[attr-defined]
                parameter.requires_grad_(False)
        before = {n: t.clone() for n, t in captured.tensors().items()}
        assert_same_steps(eager, captured, *[(binary(),)] * 3)
        after = captured.tensors()
        same = {name for name in before if torch.equal(before[name], after[name])}
        assert {n for n in before if n.startswith("model.decoder")} <= same
        assert not any(name.startswith("guide.encoder") for name in same)

    def test_two_objectives_on_one_pair(self) -> None:
        pyro.set_rng_seed(0)
        model, guide = programs()
        x = binary()
        bounds = [ELBO(), ELBO(kl="sampled", particles=3), ELBO(beta=4.0), Trace_ELBO()]
        pairs = [
            [traced(SVI(model, guide, partial(sgd, lr=0.0), b, capture=c)) for c in (False, True)]
            for b in bounds
        ]
        for _ in range(3):
            for eager, captured in pairs:
                assert_same_steps(eager, captured, (x,))
        assert [captures(captured) for _, captured in pairs] == [1] * 4

    def test_two_models_of_one_class(self) -> None:
        for width in (3, 4):
            pyro.set_rng_seed(width)
            found = []
            for capture in (False, True):
                pyro.set_rng_seed(width)
                model = VAE((F,), width)
                guide = AmortizedNormal((F,), {"z": width})
                found.append(traced(SVI(model, guide, adam, capture=capture)))
            assert_same_steps(*found, *[(binary(),)] * 3)

    def test_the_weight_beta_costs_no_compilation(self) -> None:
        eager, captured = pair_of_svi()
        for step in range(6):
            for svi in (eager, captured):
                svi.loss.beta.number.fill_(0.1 * step)  # type: ignore[union-attr]
            assert_same_steps(eager, captured, (binary(),))
        assert captures(captured) == 1

    def test_nor_does_the_learning_rate(self) -> None:
        eager, captured = pair_of_svi()
        for step in range(6):
            for svi in (eager, captured):
                svi.prepare(binary()).param_groups[0]["lr"] = 0.01 / (1 + step)
            assert_same_steps(eager, captured, (binary(),))
        assert captures(captured) == 1

    def test_a_schedule_by_step_sees_the_steps(self) -> None:
        svi = pair_of_svi()[1]
        schedule = torch.optim.lr_scheduler.ExponentialLR(svi.prepare(binary()), 0.5)
        for _ in range(4):
            svi.step(binary())
            schedule.step()  # which warns where it saw no step
        assert schedule.get_last_lr() == [pytest.approx(0.01 / 16)]

    def test_numbers_in_python_arguments_and_attributes(self) -> None:
        class Tempered(PyroModule):
            def __init__(self) -> None:
                super().__init__()
                self.decoder, self.temperature = mlp(D, F, ()), 1.0

            def forward(self, x: Tensor, scale: Any = 1.0) -> None:
                with pyro.plate("data", x.shape[0], dim=-1):
                    z = pyro.sample("z", dist.Normal(x.new_zeros(D), 1.0).to_event(1))
                    logits = self.decoder(z) * self.temperature * scale
                    pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

        class Guide(AmortizedNormal):
            def forward(self, x: Tensor, scale: Any = 1.0) -> Any:
                return super().forward(x)

        found = []
        for capture in (False, True):
            pyro.set_rng_seed(0)
            found.append(traced(SVI(Tempered(), Guide((F,), {"z": D}), adam, capture=capture)))
        eager, captured = found
        assert_same_steps(eager, captured, *[(binary(),)] * 3)
        for temperature in (0.5, 2.0):
            for svi in found:
                svi.pair.model.__self__.temperature = temperature  # type: ignore[attr-defined]
            assert_same_steps(eager, captured, *[(binary(),)] * 2)
        assert captures(captured) == 3
        assert_same_steps(eager, captured, *[(binary(), s) for s in (0.3, 0.6)])
        assert captures(captured) == 5
        scales = [torch.tensor(s) for s in (0.1, 0.2, 0.3, 0.4)]
        assert_same_steps(eager, captured, *[(binary(), s) for s in scales])
        assert captures(captured) == 6

    def test_what_changes_at_every_step_is_left_eager_and_said(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pyro_vae.capture._KINDS", 3)
        eager, captured = pair_of_svi()

        def with_beta(step: int) -> None:
            for svi in (eager, captured):
                svi.loss.beta = Constant(0.1 * step)  # type: ignore[union-attr]
            assert_same_steps(eager, captured, (binary(),))

        for step in range(4):
            with_beta(step)
        match = "at most 3 kinds.*what changed: module 'beta' of objective.*as a tensor"
        with pytest.warns(UserWarning, match=match):
            with_beta(4)
        with_beta(5)  # said once
        assert captures(captured) == 3

    def test_parameters_in_the_place_of_others(self) -> None:
        eager, captured = pair_of_svi(optim=sgd)
        assert_same_steps(eager, captured, *[(binary(),)] * 3)
        for svi in (eager, captured):
            svi.pair.model.__self__.decoder[3] = nn.Linear(8, F)  # type: ignore[attr-defined]
            with torch.no_grad():
                svi.pair.model.__self__.decoder[3].weight.fill_(0.1)  # type: ignore[attr-defined]
                svi.pair.model.__self__.decoder[3].bias.fill_(0.2)  # type: ignore[attr-defined]
        assert_same_steps(eager, captured, *[(binary(),)] * 3)

    def test_memory_in_the_place_of_other_memory(self) -> None:
        eager, captured = pair_of_svi()
        assert_same_steps(eager, captured, *[(binary(),)] * 3)
        for svi in (eager, captured):
            for parameter in svi.pair.parameters.values():
                parameter.data = parameter.data.clone() * 1.5  # as Module.to does
        assert_same_steps(eager, captured, *[(binary(),)] * 3)
        assert captures(captured) == 1

    def test_memory_that_is_looked_at_otherwise(self) -> None:
        pyro.set_rng_seed(0)
        found = []
        for capture in (False, True):
            pyro.set_rng_seed(0)
            model = VAE((F,), F, decoder=nn.Linear(F, F))
            guide = AmortizedNormal((F,), {"z": F})
            found.append((traced(SVI(model, guide, sgd, capture=capture)), model))
        (eager, _), (captured, _) = found
        assert_same_steps(eager, captured, *[(binary(),)] * 3)
        for _, model in found:
            model.decoder.weight.data = model.decoder.weight.data.t()
        assert_same_steps(eager, captured, *[(binary(),)] * 3)

    def test_settings_and_hooks_of_modules(self) -> None:
        settings = argparse.Namespace(scale=1.0)
        found = []
        for capture in (False, True):
            pyro.set_rng_seed(0)
            model, guide = Slow(lambda: settings.scale), AmortizedNormal((F,), {"z": D})
            found.append(traced(SVI(model, guide, sgd, capture=capture)))
        assert_same_steps(*found, *[(binary(),)] * 3)
        settings.scale = 0.5
        assert_same_steps(*found, *[(binary(),)] * 3)
        for svi in found:
            encoder = svi.pair.guide.__self__.encoder  # type: ignore[attr-defined]
            encoder.register_forward_hook(lambda module, args, output: output * 0.5)
        assert_same_steps(*found, *[(binary(),)] * 3)
        assert captures(found[1]) == 3

    def test_the_greatest_norm(self) -> None:
        eager, captured = pair_of_svi(optim=sgd, clip_norm=5.0)
        assert_same_steps(eager, captured, *[(binary(),)] * 3)
        for svi in (eager, captured):
            svi.clip_norm = 0.01
        assert_same_steps(eager, captured, *[(binary(),)] * 2)

    def test_a_parameter_whose_state_is_gone(self) -> None:
        eager, captured = pair_of_svi()
        assert_same_steps(eager, captured, *[(binary(),)] * 3)
        for svi in (eager, captured):
            svi.prepare(binary()).state.clear()
        assert_same_steps(eager, captured, *[(binary(),)] * 3)
        assert captures(captured) == 2

    @pytest.mark.parametrize("optim", [torch.optim.Adam, torch.optim.Rprop])
    def test_a_parameter_that_joins_has_an_eager_step_first(self, optim: Any) -> None:
        def model(x: Tensor, shifted: bool) -> None:
            shift = pyro.param("shift", lambda: torch.tensor(0.3)) if shifted else 0.0
            with pyro.plate("data", x.shape[0], dim=-1):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                pyro.sample("x", dist.Normal(z + shift, 1.0), obs=x)

        def guide(x: Tensor, shifted: bool) -> None:
            with pyro.plate("data", x.shape[0], dim=-1):
                pyro.sample("z", dist.Normal(pyro.param("loc", lambda: torch.tensor(0.0)), 1.0))

        found = []
        for capture in (False, True):
            pyro.clear_param_store()
            svi = traced(SVI(model, guide, partial(optim, lr=0.1), capture=capture))
            found.append([])
            for seed, shifted in enumerate((False, False, True, True, False)):
                pyro.set_rng_seed(seed)
                found[-1].append(svi.step(torch.ones(4), shifted).item())
        assert found[1] == pytest.approx(found[0], rel=1e-12)
        assert captures(svi) == 3

    def test_the_optimisers_state_in_the_place_of_other_state(self) -> None:
        eager, captured = pair_of_svi()
        assert_same_steps(eager, captured, *[(binary(),)] * 3)
        for svi in (eager, captured):
            state = svi.prepare(binary()).state_dict()
            for entry in state["state"].values():
                entry["exp_avg"] = entry["exp_avg"] * 2
            svi.prepare(binary()).load_state_dict(state)
        assert_same_steps(eager, captured, *[(binary(),)] * 3)


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
            svi = SVI(model, guide, partial(torch.optim.SGD, lr=0.0), bound, capture=True)
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
    @pytest.mark.parametrize("optim", [adam, sgd])
    def test_state_goes_on_where_it_was(self, optim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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
        for stop in (1, 3, 5, 7, 8):
            again, others = run(stop)
            assert again == losses
            assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def branching(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(D), 1.0).to_event(1))
        if z.sum() > 0:
            z = z * 2
        pyro.sample(
            "x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand(x.shape).to_event(1), obs=x
        )


class Slow(PyroModule):
    r"""A model whose scale is read from somewhere."""

    def __init__(self, read: Callable[[], Any]) -> None:
        super().__init__()
        self.read = read

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(D), 1.0).to_event(1))
            loc = (z.sum(-1, keepdim=True) * self.read()).expand(*z.shape[:-1], F)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


class TestWhatCannotBe:
    def test_programs_that_advance_an_iterator(self) -> None:
        count = itertools.count()
        svi = SVI(Slow(lambda: next(count)), AmortizedNormal((F,), {"z": D}), adam, capture=True)
        with pytest.raises(Uncapturable, match="got an iterator, closure variable 'count'"):
            svi.step(binary())

    def test_programs_that_set_a_seed(self) -> None:
        def seed() -> float:
            pyro.set_rng_seed(3)
            return 1.0

        svi = SVI(Slow(seed), AmortizedNormal((F,), {"z": D}), adam, capture=True)
        with pytest.raises(Uncapturable, match="a seed that is set inside"):
            svi.step(binary())

    def test_parameters_with_hooks(self) -> None:
        _, svi = pair_of_svi()
        for _ in range(2):
            svi.step(binary())
        next(iter(svi.pair.parameters.values())).register_hook(lambda g: g * 0.1)
        with pytest.raises(Uncapturable, match="parameters without hooks"):
            svi.step(binary())

    def test_it_trains_eagerly_and_says_why_once(self) -> None:
        svi = SVI(branching, AmortizedNormal((F,), {"z": D}), adam, steps=10**5)
        svi.step(binary())
        match = r"taken eagerly.*test_capture.py:\d+.*z.sum\(\)"
        with pytest.warns(UserWarning, match=match) as said:
            svi.step(binary())
        assert said[0].filename == __file__
        for _ in range(2):
            svi.step(binary())
        assert captures(svi) == 0

    def test_which_is_an_error_where_it_must_be_captured(self) -> None:
        svi = SVI(branching, AmortizedNormal((F,), {"z": D}), adam, capture=True)
        with pytest.raises(Uncapturable, match=r"test_capture.py:\d+.*z.sum\(\).*torch.where"):
            svi.step(binary())

    def test_never_it_is_not_tried(self) -> None:
        svi = SVI(branching, AmortizedNormal((F,), {"z": D}), adam, capture=False, steps=10**5)
        for _ in range(4):
            svi.step(binary())

    @pytest.mark.parametrize("elbo", [RenyiELBO, TraceGraph_ELBO, ReweightedWakeSleep])
    def test_losses_that_call_backward_themselves(self, elbo: Any) -> None:
        loss = elbo(num_particles=2)
        svi = SVI(*programs(), adam, loss, capture=True)
        with pytest.raises(Uncapturable, match=f"got {elbo.__name__}, which calls backward"):
            svi.step(binary())
        svi = SVI(*programs(), adam, loss, steps=10**5)
        svi.step(binary())
        with pytest.warns(UserWarning, match="which calls backward itself"):
            svi.step(binary())

    def test_arguments_that_are_no_tensors(self) -> None:
        inner, encoder = programs()

        def model(x: Tensor, extra: Any) -> None:
            inner(x)

        def guide(x: Tensor, extra: Any) -> None:
            encoder(x)

        svi = SVI(model, guide, adam, capture=True)
        with pytest.raises(Uncapturable, match="tensors, numbers and strings, got object"):
            svi.step(binary(), object())

    def test_an_optimiser_with_a_users_hook(self) -> None:
        svi = SVI(*programs(), adam, capture=True)
        svi.prepare(binary()).register_step_pre_hook(lambda *_: None)
        svi.step(binary())
        with pytest.raises(Uncapturable, match="without hooks"):
            svi.step(binary())

    def test_without_a_compiler(self) -> None:
        r"""In a process whose path has no program at all."""
        code = (
            "import torch, warnings\n"
            "from functools import partial\n"
            "from pyro_vae import SVI\n"
            "from pyro_vae.guides import AmortizedNormal\n"
            "from pyro_vae.models import VAE\n"
            "model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {'z': 2})\n"
            "svi = SVI(model, guide, torch.optim.Adam, steps=10**5)\n"
            "with warnings.catch_warnings(record=True) as said:\n"
            "    warnings.simplefilter('always')\n"
            "    for _ in range(4):\n"
            "        svi.step(torch.eye(4))\n"
            "said = [str(w.message) for w in said if 'eagerly' in str(w.message)]\n"
            "print(len(said), said[0], svi.capture.compilations)\n"
        )
        environment = {"PATH": "", "HOME": "/nowhere"}
        found = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.startswith(
            "1 steps are not captured, but taken eagerly: expected a C++"
        )
        assert "found no 'g++': install one" in found.stdout
        assert found.stdout.rstrip().endswith(" 0")
