r"""Networks against loops over their leading dimensions and their layers applied by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Size, Tensor, nn

from pyro_vae.nn import (
    check_event_shape,
    check_sites,
    check_width,
    conv_decoder,
    conv_encoder,
    flatten_event,
    mlp,
    plate_size,
    positive,
)

IMAGES = [(1, 8, 8), (3, 8, 8), (1, 9, 14), (2, 15, 11), (1, 28, 28), (3, 33, 8)]


def loop(network: nn.Module, x: Tensor) -> Tensor:
    r"""Applies a network to one vector at a time, with shape (*, F) -> (*, G)."""
    rows = [network(row) for row in x.reshape(-1, x.shape[-1])]
    return torch.stack(rows).reshape(*x.shape[:-1], -1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "mlp": (lambda: mlp(6, 4, (5, 3)), 6, 4),
    **{
        f"encoder {shape}": (lambda shape=shape: conv_encoder(shape, 5), math.prod(shape), 5)
        for shape in IMAGES
    },
    **{
        f"decoder {shape}": (
            lambda shape=shape: conv_decoder(5, shape, parameters=2),
            5,
            2 * math.prod(shape),
        )
        for shape in IMAGES
    },
    "one layer": (lambda: conv_encoder((1, 8, 8), 3, (4,), 7), 64, 3),
    "three layers": (lambda: conv_decoder(2, (1, 8, 9), 1, (4, 3, 2), 7), 2, 72),
    "no convolution": (lambda: conv_encoder((2, 8, 8), 3, ()), 128, 3),
}


@pytest.mark.parametrize("leading", [(), (2,), (3, 2), (1, 3, 2), (0,)])
@pytest.mark.parametrize("name", NETWORKS)
def test_leading_dimensions_are_a_loop(name: str, leading: tuple[int, ...]) -> None:
    make, inputs, outputs = NETWORKS[name]
    network, x = make(), torch.randn(*leading, inputs)
    y = network(x)

    assert y.shape == (*leading, outputs)
    if 0 not in leading:
        torch.testing.assert_close(y, loop(network, x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_has_a_gradient(name: str) -> None:
    make, inputs, _ = NETWORKS[name]
    network = make()
    network(torch.randn(20, inputs)).square().sum().backward()

    assert all(p.grad.abs().sum() > 0 for p in network.parameters())


def test_mlp_is_its_equation() -> None:
    network = mlp(3, 2, (4,), nn.Tanh)
    first, _, last = network
    x = torch.randn(5, 3)

    torch.testing.assert_close(
        network(x), torch.tanh(x @ first.weight.T + first.bias) @ last.weight.T + last.bias
    )


def test_mlp_without_hidden_layers_is_affine() -> None:
    assert [type(layer) for layer in mlp(3, 2, ())] == [nn.Linear]


@pytest.mark.parametrize("shape", IMAGES)
def test_encoder_sees_the_image(shape: tuple[int, int, int]) -> None:
    network = conv_encoder(shape, 4)
    x = torch.randn(6, *shape)
    first, *rest = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]

    h = first(x).relu()
    for layer in rest:
        h = layer(h).relu()
    hidden, last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]

    assert h.shape[-2:] == (shape[1] // 4, shape[2] // 4)
    torch.testing.assert_close(network(x.flatten(1)), last(hidden(h.flatten(1)).relu()))


@pytest.mark.parametrize("shape", IMAGES)
def test_decoder_returns_parameters_then_the_image(shape: tuple[int, int, int]) -> None:
    network = conv_decoder(4, shape, parameters=2)
    z = torch.randn(6, 4)
    hidden, corner = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    first, last = [layer for layer in network.modules() if isinstance(layer, nn.ConvTranspose2d)]

    h = corner(hidden(z).relu()).reshape(6, 64, shape[1] // 4, shape[2] // 4).relu()
    images = last(first(h).relu())

    # The p-th parameter of channel c is the last layer's channel p C + c.
    assert images.shape == (6, 2 * shape[0], *shape[1:])
    torch.testing.assert_close(network(z), images.reshape(6, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_positive(dtype: torch.dtype) -> None:
    raw = torch.tensor([-1e4, -50, -1, 0, 1, 50, 1e4], dtype=dtype).requires_grad_()
    scale = positive(raw)
    (slope,) = torch.autograd.grad(scale.sum(), raw)

    expected = [1e-6, 1e-6, math.log1p(math.exp(-1)) + 1e-6, math.log(2) + 1e-6]
    expected += [math.log1p(math.e) + 1e-6, 50 + 1e-6, 1e4 + 1e-6]
    torch.testing.assert_close(scale.detach(), torch.tensor(expected, dtype=dtype))
    torch.testing.assert_close(slope, raw.detach().sigmoid())
    assert positive(torch.tensor(-1e4), floor=0.5) == 0.5


@pytest.mark.parametrize("event_shape", [(), (5,), (1, 8, 8)])
@pytest.mark.parametrize("leading", [(3,), (4, 3), (2, 4, 3)])
def test_plates_and_flat_events(leading: tuple[int, ...], event_shape: tuple[int, ...]) -> None:
    x = torch.randn(*leading, *event_shape)
    flat = flatten_event(x, Size(event_shape))

    assert plate_size(x, Size(event_shape)) == 3
    assert flat.shape == (*leading, math.prod(event_shape))
    assert (flat.flatten() == x.flatten()).all()


@pytest.mark.parametrize(
    "shape, event_shape, match",
    [
        ((8, 8), (8, 8), r"expected x with shape \(N, 8, 8\), .* got shape \(8, 8\); reshape"),
        ((3, 64), (8, 8), r"shape \(N, 8, 8\), .* got shape \(3, 64\)"),
        ((3, 8, 9), (8, 8), r"got shape \(3, 8, 9\)"),
        ((), (), r"shape \(N,\), for N data with event shape \(\), got shape \(\)"),
    ],
)
def test_wrong_shapes_of_data(shape: tuple, event_shape: tuple, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        plate_size(torch.zeros(shape), Size(event_shape))


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: check_event_shape("64"), TypeError, r"tuple such as \(64,\), got '64'"),
        (lambda: check_event_shape(64), TypeError, r"tuple such as \(64,\), got 64"),
        (lambda: check_event_shape((8, 8.0)), TypeError, r"hold integers, got \(8, 8.0\)"),
        (lambda: check_event_shape((0, 8)), ValueError, r"positive sizes .* got \(0, 8\)"),
        (lambda: check_sites(16), TypeError, r'such as {"z": 16}, got 16'),
        (lambda: check_sites({}), ValueError, "at least one site"),
        (lambda: check_sites({"z": 0}), ValueError, "features of site 'z', got 0"),
        (lambda: check_sites({"y": 2, "z": 1.5}), ValueError, "features of site 'z', got 1.5"),
        (lambda: check_width((1, 2), 2, "a pair"), TypeError, "a pair in one tensor, got tuple"),
        (
            lambda: check_width(torch.zeros(3, 4), 5, "the net to work"),
            ValueError,
            r"the net to work: shape \(\*, 5\), got shape \(3, 4\); give it an output layer of wid",
        ),
        (lambda: conv_encoder((64,), 2), ValueError, r"width\) with .* got \(64,\)"),
        (lambda: conv_encoder((8, 8), 2), ValueError, r"got \(8, 8\); reshape the data"),
        (lambda: conv_encoder((1, 8, 3), 2), ValueError, "at least 4, as 2 layers halve them"),
        (
            lambda: conv_decoder(2, (1, 8, 8), channels=(8, 8, 8, 8)),
            ValueError,
            r"at least 16, as 4 layers halve them, got \(1, 8, 8\)",
        ),
        (lambda: conv_decoder(2, (1, 8, 8), channels=()), ValueError, "at least one number of ch"),
    ],
)
def test_errors(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
