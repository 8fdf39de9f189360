r"""Images: from files and Pillow's objects to levels of one shape."""

__all__ = ["SizeError", "decode", "pixels", "stack"]

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = ("1", "L", "LA")
ENLARGED = 16  # times that a side may be, of which more is a slip
NUMBERS = 2**26  # that a scaled image may have before it is cropped


class SizeError(ValueError):
    r"""That an image would be scaled to what nobody means, before it takes the memory."""


def decode(path: Path, size: int | None) -> Tensor:
    r"""Reads an image file as levels, with shape :math:`(C, H, W)`.

    Raises:
        ValueError: If the file holds no image, or one that is damaged or enormous.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            # of which one is an image so large that it must be an attack
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return pixels(image, size)
    except PermissionError:  # which says it all
        raise
    except SizeError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # decoders fail in many ways
        raise ValueError(
            f"{path}: expected an image, got a file that is damaged or of another kind ({error}); "
            "remove it or fetch it again"
        ) from error


def pixels(image: "Image", size: int | None) -> Tensor:
    r"""The levels of an image, grey or else red, green and blue, with shape :math:`(C, H, W)`.

    Arguments:
        image: The image.
        size: What its shorter side is scaled to, of which the central square is kept.

    Raises:
        SizeError: If that is far more than the image has.
    """
    image = image.convert("L" if image.mode in GREY else "RGB")
    if size is not None:
        check_scale(image, size)
        from torchvision.transforms.v2.functional import center_crop, resize

        image = center_crop(resize(image, [size]), [size])
    levels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return levels[None] if levels.dim() == 2 else levels.permute(2, 0, 1).contiguous()


def check_scale(image: "Image", size: int) -> None:
    r"""Raises unless an image may be scaled."""
    short, long = sorted(image.size)
    numbers = size * (size * long // short) * len(image.getbands())
    if size > ENLARGED * short or numbers > NUMBERS:
        raise SizeError(
            f"expected a size of at most {ENLARGED} times the shorter side, and {NUMBERS} numbers "
            f"an image, got size {size} for an image of {image.width} x {image.height}; give a "
            "smaller size= (--data.size)"
        )


def stack(images: Sequence[Tensor], names: Sequence[str], origin: str) -> Tensor:
    r"""Images of one size in one tensor, with shape :math:`(N, C, H, W)`.

    Raises:
        ValueError: If there are none, or they differ in size.
    """
    if not images:
        raise ValueError(f"{origin}: expected images, got none")
    first = images[0].shape[1:]
    other = next((i for i, image in enumerate(images) if image.shape[1:] != first), None)
    if other is not None:
        raise ValueError(
            f"{origin}: expected images of one size, got {tuple(first)} in {names[0]} and "
            f"{tuple(images[other].shape[1:])} in {names[other]}; give size=32 (--data.size 32), "
            "say, to scale and crop them all"
        )
    channels = max(image.shape[0] for image in images)  # grey among coloured ones
    return torch.stack([image.expand(channels, *first) for image in images])
