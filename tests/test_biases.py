r"""Affine maps whose bias is added apart: the same values and gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vae.biases import BiasesApart

aten = torch.ops.aten


class Seen(BiasesApart):
    r"""Notes how many products a graph has with and without a bias."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        super().__call__(graph)
        kinds = (aten.addmm.default, aten.mm.default)
        nodes = [graph.find_nodes(op="call_function", target=kind) for kind in kinds]
        self.found = tuple(map(len, nodes))

    def uuid(self) -> None:
        return None  # so that the graph is compiled in each run of the tests


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5), (2, 3, 4, 5)])
def test_affine_maps_add_their_bias_after_the_product(shape: tuple[int, ...]) -> None:
    given = tensors(shape, (6, 5), (6,))
    expected = F.linear(*given)
    gradients = torch.autograd.grad(expected.square().sum(), given)
    seen = Seen()
    run = torch.compile(F.linear, fullgraph=True, options={"post_grad_custom_post_pass": seen})
    with torch.no_grad():
        torch.testing.assert_close(run(*given), expected)
    assert seen.found == (0, 1)
    found = torch.autograd.grad(run(*given).square().sum(), given)
    torch.testing.assert_close(found, gradients)


def test_maps_that_scale_their_parts_are_left_alone() -> None:
    given = tensors((4, 6), (4, 5), (5, 6))
    seen = Seen()

    def scaled(*given: Tensor) -> Tensor:
        return torch.addmm(*given, beta=2, alpha=3)

    run = torch.compile(scaled, fullgraph=True, options={"post_grad_custom_post_pass": seen})
    with torch.no_grad():
        torch.testing.assert_close(run(*given), 2 * given[0] + 3 * given[1] @ given[2])
    assert seen.found == (1, 0)
