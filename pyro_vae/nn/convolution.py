r"""Plain convolutional networks over images, with any leading dimensions."""

__all__ = ["conv_decoder", "conv_encoder"]

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from pyro_vae.nn.shapes import check_event_shape


class Vectorized(nn.Module):
    r"""A network over batches :math:`(B, F) \to (B, G)` as one over :math:`(*, F) \to (*, G)`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()

        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        r"""Applies the network to each vector of ``x``, with shape :math:`(*, F)`."""
        outputs = self.network(x.reshape(-1, x.shape[-1]))
        return outputs.reshape(*x.shape[:-1], outputs.shape[-1])


def halvings(event_shape: Sequence[int], layers: int) -> list[tuple[int, int]]:
    r"""Returns an image's height and width after each of so many halvings, itself first."""
    shape = check_event_shape(event_shape)
    least = 2**layers
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ValueError(
            f"expected event_shape (channels, height, width) with height and width of at least "
            f"{least}, as {layers} layers halve them, got {tuple(shape)}; reshape the data, use "
            "fewer layers, or use mlp"
        )

    return [(shape[1] >> i, shape[2] >> i) for i in range(layers + 1)]


def conv_encoder(
    event_shape: Sequence[int],
    outputs: int,
    channels: Sequence[int] = (32, 64),
    hidden: int = 256,
) -> nn.Module:
    r"""A convolutional encoder with shape :math:`(*, F) \to (*, \text{outputs})`.

    Each convolution halves height and width, rounding down; a perceptron follows.

    Arguments:
        event_shape: The shape :math:`(C, H, W)` of one image, with :math:`F = C H W`.
        outputs: The number of output features.
        channels: The number of channels after each convolution.
        hidden: The width of the perceptron's hidden layer.

    Raises:
        ValueError: If ``event_shape`` is not that of an image of at least
            :math:`2^\text{layers}` pixels each way.

    Example:
        >>> import torch
        >>> network = conv_encoder((3, 9, 14), outputs=4)
        >>> network(torch.zeros(5, 2, 3 * 9 * 14)).shape
        torch.Size([5, 2, 4])
    """
    height, width = halvings(event_shape, len(channels))[-1]
    layers: list[nn.Module] = [nn.Unflatten(-1, tuple(event_shape))]
    for source, target in pairwise((event_shape[0], *channels)):
        layers += [nn.Conv2d(source, target, kernel_size=4, stride=2, padding=1), nn.ReLU()]
    features = (event_shape[0], *channels)[-1] * height * width
    layers += [nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, outputs)]

    return Vectorized(nn.Sequential(*layers))


def conv_decoder(
    inputs: int,
    event_shape: Sequence[int],
    parameters: int = 1,
    channels: Sequence[int] = (64, 32),
    hidden: int = 256,
) -> nn.Module:
    r"""A convolutional decoder with shape :math:`(*, \text{inputs}) \to (*, P F)`.

    A perceptron comes first; each transposed convolution then doubles height and width.

    Arguments:
        inputs: The number of input features.
        event_shape: The shape :math:`(C, H, W)` of one image, with :math:`F = C H W`.
        parameters: The number of parameters per feature :math:`P` of the likelihood.
        channels: The number of channels before each transposed convolution.
        hidden: The width of the perceptron's hidden layer.

    Raises:
        ValueError: If ``event_shape`` is not that of an image of at least
            :math:`2^\text{layers}` pixels each way, or if there are no channels.

    Example:
        >>> import torch
        >>> network = conv_decoder(inputs=4, event_shape=(3, 9, 14), parameters=2)
        >>> network(torch.zeros(5, 2, 4)).shape
        torch.Size([5, 2, 756])
    """
    if not channels:
        raise ValueError("expected at least one number of channels, got none; or use mlp")

    sizes = halvings(event_shape, len(channels))[::-1]
    corner = (channels[0], *sizes[0])
    layers: list[nn.Module] = [nn.Linear(inputs, hidden), nn.ReLU()]
    layers += [nn.Linear(hidden, channels[0] * sizes[0][0] * sizes[0][1])]
    layers += [nn.Unflatten(-1, corner)]
    for (source, target), size in zip(
        pairwise((*channels, parameters * event_shape[0])), sizes[1:], strict=True
    ):
        # Doubling gives even sizes; an odd one is a pixel more.
        odd = (size[0] % 2, size[1] % 2)
        layers += [nn.ReLU(), nn.ConvTranspose2d(source, target, 4, 2, 1, output_padding=odd)]

    return Vectorized(nn.Sequential(*layers, nn.Flatten()))
