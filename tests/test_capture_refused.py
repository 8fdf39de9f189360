r"""Steps that cannot be captured: they are taken eagerly, or are errors, and it is said why."""

import itertools
import subprocess
import sys
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
from captures import D, F, Slow, adam, binary, captures, pair_of_svi, programs
from pyro.infer import RenyiELBO, ReweightedWakeSleep, TraceGraph_ELBO
from torch import Tensor

from pyro_vae import SVI
from pyro_vae.guides import AmortizedNormal
from pyro_vae.uncapturable import Uncapturable


def branching(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(D), 1.0).to_event(1))
        if z.sum() > 0:
            z = z * 2
        pyro.sample(
            "x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand(x.shape).to_event(1), obs=x
        )


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
        match = r"taken eagerly.*test_capture_refused.py:\d+.*z.sum\(\)"
        with pytest.warns(UserWarning, match=match) as said:
            svi.step(binary())
        assert said[0].filename == __file__
        for _ in range(2):
            svi.step(binary())
        assert captures(svi) == 0

    def test_which_is_an_error_where_it_must_be_captured(self) -> None:
        svi = SVI(branching, AmortizedNormal((F,), {"z": D}), adam, capture=True)
        with pytest.raises(Uncapturable, match=r"refused.py:\d+.*z.sum\(\).*torch.where"):
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
