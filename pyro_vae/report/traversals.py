r"""What moved latents make: rows of one feature each, and the plane of two."""

__all__ = ["latent_plane", "traversals"]

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pyro_vae.report.figures import Array, Range, array, limits, panels
from pyro_vae.report.images import depicts, gap, grid, page
from pyro_vae.report.vectors import LONG, label

Values = NDArray[np.float64]

CHARACTER = 10  # pixels that a letter of a label takes
LINE = 26  # pixels that a line of labels takes
MOST = 16  # panels in a picture


def traversals(
    means: Array,
    values: Array,
    names: Sequence[str],
    value_range: Range | None = None,
    title: str = "Means given z, one feature moved",
) -> Figure:
    r"""Draws what a model makes of each latent feature as it is moved, one row each.

    Images stand side by side, short vectors are lines, from dark to light as the feature grows,
    and long ones the rows of a heat map.

    Arguments:
        means: The means with shape :math:`(D, S, *)`, images or vectors as in :func:`samples`.
        values: What each feature takes, with shape :math:`(D, S)`, or :math:`(S)` for all.
        names: What each feature is called.
        value_range: The values drawn black and white; values outside are clipped. By default
            the least and the greatest value of ``means``.
        title: What stands above.

    Raises:
        ValueError: If shapes or numbers do not fit, or something is not finite.

    Example:
        >>> import torch
        >>> figure = traversals(torch.rand(2, 5, 1, 8, 8), torch.arange(5), ["z[0]", "z[1]"])
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['z[0]', 'z[1]']
    """
    x = array(means, "means")
    z = array(values, "values")
    if x.ndim < 2 or len(names) != len(x) or z.shape not in (x.shape[:2], x.shape[1:2]):
        raise ValueError(
            "expected means with shape (D, S, *), values with shape (D, S) or (S) and D names, got "
            f"{x.shape}, {z.shape} and {len(names)} names"
        )
    z = np.broadcast_to(z, x.shape[:2])
    extent = limits(value_range, x)
    rows = x.reshape(-1, *x.shape[2:])
    if not depicts(rows):
        return lines(x.reshape(*x.shape[:2], -1), z, names, value_range, title)

    common = bool(np.allclose(z, z[0]))
    tiles = grid(rows, extent, x.shape[1], gap(rows))
    left = CHARACTER * max(map(len, names)) + CHARACTER
    figure = page(tiles, title, left, LINE if common else 0, least=LINE / rows.shape[-2])
    ticks(figure, rows, x.shape[1], numbers(z[0]) if common else [""] * x.shape[1], names)
    return figure


def latent_plane(
    means: Array,
    values: Array,
    names: tuple[str, str],
    value_range: Range | None = None,
    title: str = "Means given z, over two features",
) -> Figure:
    r"""Draws what a model makes of two latent features: the first to the right, the second up.

    Images stand where their latents are; of vectors, each feature has a heat map over the
    latents, at most 16 in all.

    Arguments:
        means: The means with shape :math:`(S, T, *)`, images or vectors as in :func:`samples`.
        values: What the two features take, with shape :math:`(2, S)` where :math:`S = T`, or
            else one array for each.
        names: What the two features are called.
        value_range: The values drawn black and white; values outside are clipped. By default
            the least and the greatest value of ``means``.
        title: What stands above.

    Raises:
        ValueError: If shapes or numbers do not fit, or something is not finite.

    Example:
        >>> import torch
        >>> figure = latent_plane(torch.rand(3, 3, 1, 8, 8), torch.randn(2, 3), ("z[0]", "z[1]"))
        >>> figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()
        ('z[0]', 'z[1]')
    """
    x = array(means, "means")
    first, second = (array(value, "values") for value in values)
    if x.ndim < 2 or x.shape[:2] != (len(first), len(second)) or len(names) != 2:
        raise ValueError(
            f"expected means with shape (S, T, *), S and T values and two names, got {x.shape}, "
            f"{len(first)} and {len(second)} values and {len(names)} names"
        )
    extent = limits(value_range, x)
    rows = x.swapaxes(0, 1)[::-1].reshape(-1, *x.shape[2:])
    if not depicts(rows):
        return maps(x.reshape(*x.shape[:2], -1), first, second, names, value_range, title)

    tiles = grid(rows, extent, len(first), gap(rows))
    figure = page(tiles, title, 7 * CHARACTER + LINE, 2 * LINE)
    ticks(figure, rows, len(first), numbers(first), numbers(second)[::-1])
    figure.axes[0].set(xlabel=names[0], ylabel=names[1])
    return figure


def ticks(
    figure: Figure, rows: Values, columns: int, below: Sequence[str], left: Sequence[str]
) -> None:
    r"""Labels the columns and rows of a page of images."""
    panel, between = figure.axes[0], gap(rows)
    panel.set_axis_on()
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0, labelsize=8)
    high, wide = rows.shape[-2] + between, rows.shape[-1] + between
    panel.set_xticks([between + wide * k + (wide - between - 1) / 2 for k in range(columns)], below)
    panel.set_yticks(
        [between + high * k + (high - between - 1) / 2 for k in range(len(rows) // columns)], left
    )


def numbers(values: Values) -> list[str]:
    r"""Two digits of each; what is 0 but for rounding is 0."""
    least = 1e-5 * np.abs(values).max()
    rounded = [0.0 if abs(value) < least else value for value in values]
    return [f"{value:.2g}".replace("-", "−") for value in rounded]


def lines(
    x: Values, z: Values, names: Sequence[str], value_range: Range | None, title: str
) -> Figure:
    r"""Draws vectors with shape :math:`(D, S, F)` in a panel for each feature."""
    columns = min(4, len(x))
    high = math.ceil(len(x) / columns)
    figure, axes = panels(high, columns, 3.0, 2.3, sharex=True, sharey=True)
    low, top = limits(value_range, x)
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, x.shape[1]))
    for panel, vectors, value, name in zip(axes.flat, x, z, names, strict=False):
        if x.shape[2] > LONG:
            panel.imshow(
                vectors, aspect="auto", interpolation="nearest", cmap="cividis", vmin=low, vmax=top
            )
            panel.grid(False)
            panel.set_yticks([0, len(value) - 1], numbers(value[[0, -1]]))
        else:
            for vector, color in zip(vectors, colors, strict=True):
                panel.plot(vector, ".-", color=color, linewidth=1, markersize=3)
            label(panel, value_range)
        panel.set_title(name, fontsize=9)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    outside(axes, len(x), "feature", "z" if x.shape[2] > LONG else "value")
    figure.suptitle(title)
    return figure


def outside(axes: Any, shown: int, below: str, left: str) -> None:
    r"""Labels the axes of the lowest and the leftmost of the panels that are shown."""
    columns = axes.shape[1]
    for k, panel in enumerate(axes.flat):
        if k >= shown:
            panel.set_axis_off()
        if shown - columns <= k < shown:
            panel.set_xlabel(below)
            panel.tick_params(labelbottom=True)
    for panel in axes[:, 0]:
        panel.set_ylabel(left)


def maps(
    x: Values,
    first: Values,
    second: Values,
    names: tuple[str, str],
    value_range: Range | None,
    title: str,
) -> Figure:
    r"""Draws features of vectors with shape :math:`(S, T, F)` over the plane."""
    shown = min(MOST, x.shape[2])
    columns = min(4, shown)
    high = math.ceil(shown / columns)
    figure, axes = panels(high, columns, 2.8, 2.5, sharex=True, sharey=True)
    low, top = limits(value_range, x)
    for k, panel in enumerate(axes.flat[:shown]):
        image = panel.pcolormesh(
            first, second, x[..., k].T, cmap="cividis", vmin=low, vmax=top, shading="nearest"
        )
        panel.grid(False)
        panel.set_title(f"feature {k}", fontsize=9)
    outside(axes, shown, *names)
    figure.suptitle(title)
    figure.colorbar(image, ax=axes, label="value", shrink=0.9)
    return figure
