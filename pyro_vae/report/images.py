r"""Data drawn from a model, and data beside their reconstructions."""

__all__ = ["reconstructions", "samples"]

import math

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pyro_vae.report.figures import DPI, MISSING, Array, Range, array, limits
from pyro_vae.report.vectors import paired, plain

PAGE = 1024  # pixels that the longer side of a grid is enlarged to
TITLE = 48  # pixels above the grid


def samples(
    images: Array,
    value_range: Range | None = None,
    columns: int | None = None,
    title: str = "Samples",
) -> Figure:
    r"""Draws data from a model, images as a grid and vectors as lines or a heat map.

    Arguments:
        images: Grey or RGB images with shape :math:`(N, H, W)`, :math:`(N, 1, H, W)` or
            :math:`(N, 3, H, W)`, or vectors: anything else with shape :math:`(N, *)`.
        value_range: The values drawn black and white; values outside are clipped. By default
            the least and the greatest value of ``images``.
        columns: The number of images side by side. By default about :math:`\sqrt{N}`.
        title: What stands above.

    Raises:
        ValueError: If ``images`` is empty or not finite, or the range is not two finite numbers
            in increasing order.

    Example:
        >>> figure = samples(torch.rand(9, 1, 8, 8), value_range=(0, 1))
        >>> figure.axes[0].images[0].get_array().shape
        (28, 28, 3)
    """
    x = array(images, "images")
    extent = limits(value_range, x)
    if not depicts(x):
        return plain(x, value_range, title)

    columns = columns or math.ceil(math.sqrt(len(x)))
    return page(grid(x, extent, columns, padding=gap(x)), title)


def reconstructions(
    originals: Array,
    reconstructions: Array,
    value_range: Range | None = None,
    columns: int | None = None,
    title: str | None = None,
) -> Figure:
    r"""Draws each datum together with its reconstruction, on one scale.

    Arguments:
        originals: The data, images or vectors as in :func:`samples`. What is missing in them,
            NaN, is drawn light red; of lines there is nothing.
        reconstructions: Their reconstructions, with the shape of ``originals``.
        value_range: The values drawn black and white; values outside are clipped. By default
            the least and the greatest value of both.
        columns: The number of pairs side by side. By default about :math:`\sqrt{2 N}`.
        title: What stands above. By default what is what.

    Raises:
        ValueError: If the shapes differ, if either is empty or not finite but for what is
            missing, or the range is not two finite numbers in increasing order.

    Example:
        >>> x = torch.rand(8, 1, 8, 8)
        >>> reconstructions(x, x).axes[0].images[0].get_array().shape
        (43, 47, 3)
    """
    x, y = array(originals, "originals", missing=True), array(reconstructions, "reconstructions")
    if x.shape != y.shape:
        raise ValueError(
            f"expected reconstructions with the shape of the originals, {x.shape}, got {y.shape}"
        )
    extent = limits(value_range, x, y)
    if not depicts(x):
        return paired(x, y, value_range, title or "Originals and reconstructions")

    columns = columns or math.ceil(math.sqrt(2 * len(x)))
    between = np.full_like(x[..., : gap(x), :], extent[1])
    pairs = np.concatenate([x, between, y], axis=-2)
    tiles = grid(pairs, extent, columns, padding=3 * gap(x))
    red = "; red is missing" if np.isnan(x).any() else ""
    return page(tiles, title or f"Originals (above{red}) and reconstructions (below)")


def depicts(x: NDArray[np.float64]) -> bool:
    return x.ndim == 3 or (x.ndim == 4 and x.shape[1] in (1, 3))


def gap(x: NDArray[np.float64]) -> int:
    return max(1, x.shape[-2] // 14)


def grid(x: NDArray[np.float64], extent: Range, columns: int, padding: int) -> NDArray[np.float64]:
    r"""Lays images out on white, scaled to :math:`[0, 1]`, as one with shape (H, W, 3).

    Pixels that are missing, NaN in some channel, are light red.
    """
    from torchvision.utils import make_grid  # takes seconds, and vectors need none

    images = torch.tensor(x if x.ndim == 4 else x[:, None])
    tiles = make_grid(images, columns, padding, normalize=True, value_range=extent, pad_value=1.0)
    page = tiles.permute(1, 2, 0).numpy()
    return np.where(np.isnan(page).any(-1, keepdims=True), MISSING, page)


def page(
    tiles: NDArray[np.float64], title: str, left: int = 0, below: int = 0, least: float = 1
) -> Figure:
    r"""Draws an image with shape (H, W, 3), each of its pixels a square of whole pixels.

    Arguments:
        tiles: The image.
        title: What stands above.
        left: Pixels that are left free beside the image.
        below: Pixels that are left free below the image.
        least: How many times it is enlarged at least.
    """
    height, width = tiles.shape[0], tiles.shape[1]
    zoom = max(1, PAGE // max(height, width), math.ceil(least))
    height, width = zoom * height, zoom * width
    right = min(left, TITLE)
    across, down = max(left + width + right, PAGE // 2), height + below + TITLE

    figure = Figure(figsize=(across / DPI, down / DPI), dpi=DPI, facecolor="white")
    start = left + (across - left - width - right) // 2
    panel = figure.add_axes((start / across, below / down, width / across, height / down))
    panel.imshow(tiles, interpolation="nearest", aspect="auto")
    panel.set_axis_off()
    middle = (start + width / 2) / across
    figure.text(middle, 1 - TITLE / 2 / down, title, ha="center", va="center", fontsize=11)
    return figure
