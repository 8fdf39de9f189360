r"""That whatever changes is seen."""

import argparse
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from captures import (
    D,
    F,
    Slow,
    adam,
    assert_same_steps,
    binary,
    captures,
    pair_of_svi,
    programs,
    sgd,
    traced,
)
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae import SVI
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.nn import mlp
from pyro_vae.objectives import ELBO
from pyro_vae.schedules import Constant


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
        bounds = [ELBO(kl="sampled", particles=3), ELBO(beta=4.0), Trace_ELBO()]
        pairs = [
            [traced(SVI(model, guide, partial(sgd, lr=0.0), b, capture=c)) for c in (False, True)]
            for b in bounds
        ]
        for _ in range(3):
            for eager, captured in pairs:
                assert_same_steps(eager, captured, (x,))
        assert [captures(captured) for _, captured in pairs] == [1] * 3

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
        for svi in found:
            svi.pair.model.__self__.temperature = 0.5  # type: ignore[attr-defined]
        assert_same_steps(eager, captured, *[(binary(),)] * 2)
        assert captures(captured) == 2
        assert_same_steps(eager, captured, (binary(), 0.3))
        assert captures(captured) == 3
        scales = [torch.tensor(s) for s in (0.1, 0.2, 0.3, 0.4)]
        assert_same_steps(eager, captured, *[(binary(), s) for s in scales])
        assert captures(captured) == 4

    def test_what_changes_at_every_step_is_left_eager_and_said(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pyro_vae.capture._KINDS", 2)
        eager, captured = pair_of_svi()

        def with_beta(step: int) -> None:
            for svi in (eager, captured):
                svi.loss.beta = Constant(0.1 * step)  # type: ignore[union-attr]
            assert_same_steps(eager, captured, (binary(),))

        for step in range(3):
            with_beta(step)
        match = "at most 2 kinds.*what changed: module 'beta' of objective.*as a tensor"
        with pytest.warns(UserWarning, match=match):
            with_beta(3)
        with_beta(4)  # said once
        assert captures(captured) == 2

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
