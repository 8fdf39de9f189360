r"""Small pairs, eager and captured, and whether their steps are the same."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae import SVI
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.nn import mlp
from pyro_vae.objectives import ELBO

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
