r"""A whole step of the digits VAE as one compiled graph equals the eager step.

The step keeps Python and tensors apart, so that it can be captured; the library's own captured
step will be built on what this test does by hand.
"""

import copy
import inspect
import types
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import pyro
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from pyro_vae import SVI
from pyro_vae.data import load
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.nn import mlp

# before torch 2.15 the name is not public
nonstrict_trace = getattr(torch.compiler, "nonstrict_trace", None)
if nonstrict_trace is None:
    from torch._dynamo import nonstrict_trace


class Swap(TorchFunctionMode):
    r"""Replaces tensors by others, by identity, wherever a program uses them."""

    def __init__(self, table: dict[int, Tensor]) -> None:
        super().__init__()
        self.table = table

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        swapped = tree_map_only(Tensor, lambda t: self.table.get(id(t), t), (args, kwargs or {}))
        return func(*swapped[0], **swapped[1])


def digits_svi() -> tuple[SVI, Tensor]:
    pyro.set_rng_seed(0)
    data = load("digits")
    model = VAE(data.event_shape, 8, data.likelihood, mlp(8, 64, (64,)))
    guide = AmortizedNormal(data.event_shape, {"z": 8}, mlp(64, 16, (64,)))
    return SVI(model, guide, partial(torch.optim.SGD, lr=1e-3)), data.train["x"][:64]


def shadow_step(svi: SVI, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    r"""The optimiser's own code on copies: ``step`` itself would break the graph."""
    real = list(svi.pair.parameters.values())
    copies = {id(r): p.detach().clone() for r, p in zip(real, parameters, strict=True)}
    for r, gradient in zip(real, gradients, strict=True):
        copies[id(r)].grad = gradient
    shadow = copy.copy(svi.optimizer)
    shadow.state = defaultdict(dict)
    shadow.param_groups = [
        {
            **group,
            "params": [copies[id(p)] for p in group["params"]],
            "fused": None,
            "foreach": True,
        }
        for group in svi.optimizer.param_groups
    ]
    with torch.no_grad(), mock.patch("torch.compiler.is_compiling", return_value=True):
        inspect.unwrap(type(shadow).step)(shadow)
    return [copies[id(r)] for r in real]


def captured(svi: SVI, x: Tensor) -> Callable[[Tensor], tuple[Tensor, list[Tensor]]]:
    real, plan = list(svi.pair.parameters.values()), svi.pair.plan((x,), {})
    known = {id(p) for p in real}
    buffers = [b for b in svi.tensors().values() if id(b) not in known] + [svi.loss.beta]

    @nonstrict_trace
    def traced(
        parameters: list[Tensor], constants: list[Tensor], x: Tensor
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        leaves = [p.detach().requires_grad_() for p in parameters]
        swaps = zip([*real, *buffers], [*leaves, *constants], strict=True)
        table = {id(old): new for old, new in swaps}
        model, guide = ([table[id(p)] for p in ps] for ps in (plan.model, plan.guide))
        swapped = replace(plan, model=tuple(model), guide=tuple(guide))
        with torch.enable_grad(), Swap(table), pyro.validation_enabled(False):
            loss, gradients, _ = svi.gradients(swapped, (x,), {})
        return loss, list(gradients), shadow_step(svi, leaves, gradients)

    inputs = [p.detach() for p in real]

    def step(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        loss, gradients, new = traced(inputs, buffers, x)
        for p, value in zip(inputs, new, strict=True):
            p.copy_(value)
        return loss, gradients

    # the compiler caches by code object and guards nothing that was traced
    own = types.FunctionType(
        step.__code__.replace(), step.__globals__, "step", None, step.__closure__
    )
    return torch.compile(own, fullgraph=True, options={"fallback_random": True})


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_captured_step_equals_the_eager_step() -> None:
    eager, x = digits_svi()
    mirrored, _ = digits_svi()
    for svi in (eager, mirrored):  # the first step makes the optimiser
        pyro.set_rng_seed(1)
        svi.step(x)
    step = captured(mirrored, x)

    for seed in (2, 3, 4):
        pyro.set_rng_seed(seed)
        expected = eager.step(x)
        pyro.set_rng_seed(seed)
        with torch.no_grad():
            loss, gradients = step(x)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        for gradient, parameter in zip(gradients, eager.pair.parameters.values(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-9, atol=1e-10)
        for name, parameter in eager.pair.parameters.items():
            torch.testing.assert_close(
                mirrored.pair.parameters[name], parameter, rtol=1e-10, atol=1e-12
            )
