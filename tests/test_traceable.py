r"""What stands in for torch's own while programs are traced gives what torch gives."""

from functools import partial
from typing import Any

import pyro
import pytest
import torch
from captures import traced
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.distributions import transforms
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pyro_vae import SVI
from pyro_vae.models import BayesianMixture
from pyro_vae.models.components import FullGaussianComponents
from pyro_vae.models.weights import DirichletWeights
from pyro_vae.objectives import ELBO
from pyro_vae.traceable import traceable


@pytest.mark.parametrize("size", [2, 3, 6])
def test_correlations_are_torchs(size: int) -> None:
    transform = transforms.CorrCholeskyTransform()
    x = torch.randn(4, 3, size * (size - 1) // 2)
    y = transform(x)
    inverse, jacobian = transform.inv(y), transform.log_abs_det_jacobian(x, y)

    with traceable():
        found = transforms.CorrCholeskyTransform()
        assert found(x).equal(y)
        assert found.inv(y.clone()).equal(inverse)
        assert found.log_abs_det_jacobian(x, y).equal(jacobian)


def test_correlations_are_captured() -> None:
    found = []
    for capture in (False, True):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model = BayesianMixture(FullGaussianComponents(3), DirichletWeights(2))
        x = torch.randn(9, 3)
        guide = AutoNormal(poutine.block(model, hide=["component"]), init_scale=0.1)
        optim = partial(torch.optim.SGD, lr=1e-2)
        svi = traced(SVI(model, guide, optim, ELBO(), reduction="mean", capture=capture))
        losses = []
        for seed in range(3):
            pyro.set_rng_seed(seed)
            losses.append(svi.step(x))
        found.append(torch.stack(losses))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=0)


class Biases(TorchFunctionMode):
    r"""Notes whether affine maps add a bias themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[bool] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear:
            self.found.append(len(args) > 2 and args[2] is not None)
        return func(*args, **(kwargs or {}))


def affine(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = (shape, (6, shape[-1]), (6,))
    return tuple(torch.randn(s, generator=generator).requires_grad_() for s in sizes)


@pytest.mark.parametrize(
    ("shape", "together"), [((5,), True), ((4, 5), True), ((3, 4, 5), False), ((2, 3, 4, 5), False)]
)
def test_affine_maps_of_particles_add_their_bias_after_the_product(
    shape: tuple[int, ...], together: bool
) -> None:
    x, weight, bias = affine(*shape)
    expected = F.linear(x, weight, bias)
    gradients = torch.autograd.grad(expected.square().sum(), (x, weight, bias))
    with Biases() as seen, traceable():
        found = F.linear(x, weight, bias=bias) if together else F.linear(x, weight, bias)
    torch.testing.assert_close(found, expected)
    found_gradients = torch.autograd.grad(found.square().sum(), (x, weight, bias))
    torch.testing.assert_close(found_gradients, gradients)
    assert seen.found == [together]


def test_affine_maps_without_a_bias_or_elsewhere_are_left_alone() -> None:
    x, weight, bias = affine(3, 4, 5)
    with Biases() as seen, traceable():
        assert F.linear(x, weight).equal(x @ weight.T)
        F.linear(x.to("meta"), weight.to("meta"), bias.to("meta"))
    assert seen.found == [False, True]
