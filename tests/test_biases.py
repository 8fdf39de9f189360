r"""Affine maps whose bias is added apart: the same values and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pyro_vae.biases import BiasesApart


class Seen(TorchFunctionMode):
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
    with Seen() as seen, BiasesApart():
        found = F.linear(x, weight, bias=bias) if together else F.linear(x, weight, bias)
    torch.testing.assert_close(found, expected)
    found_gradients = torch.autograd.grad(found.square().sum(), (x, weight, bias))
    torch.testing.assert_close(found_gradients, gradients)
    assert seen.found == [together]


def test_affine_maps_without_a_bias_or_elsewhere_are_left_alone() -> None:
    x, weight, bias = affine(3, 4, 5)
    with Seen() as seen, BiasesApart():
        assert F.linear(x, weight).equal(x @ weight.T)
        F.linear(x.to("meta"), weight.to("meta"), bias.to("meta"))
    assert seen.found == [False, True]
