r"""Data that are not images: short vectors as lines, long ones as a heat map."""

__all__ = ["paired", "plain"]

import math

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pyro_vae.report.figures import COLORS, MISSING, Range, limits, panels

Vectors = NDArray[np.float64]

LONG = 48  # features beyond which lines cannot be read


def plain(x: Vectors, value_range: Range | None, title: str) -> Figure:
    r"""Draws vectors, anything with shape :math:`(N, *)`, one line or one row each."""
    x = x.reshape(len(x), -1)
    if x.shape[1] > LONG:
        return heat([x], value_range, [""], title)

    figure, axes = panels(1, 1, 7.5, 4.5)
    panel = axes[0, 0]
    alpha = max(0.15, min(0.8, 8 / len(x)))
    panel.plot(x.T, color=COLORS[0], alpha=alpha, marker="o", markersize=3, linewidth=1)
    label(panel, value_range)
    panel.set(title=title, xlabel="feature", ylabel="value")
    return figure


def paired(x: Vectors, y: Vectors, value_range: Range | None, title: str) -> Figure:
    r"""Draws each vector and its reconstruction, in one panel or in two heat maps.

    What is missing, NaN, has no point in panels, and is light red in heat maps.
    """
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    if x.shape[1] > LONG:
        red = " (red is missing)" if np.isnan(x).any() else ""
        return heat([x, y], value_range, [f"Originals{red}", "Reconstructions"], title)

    columns = min(4, len(x))
    rows = math.ceil(len(x) / columns)
    figure, axes = panels(rows, columns, 2.5, 1.8, sharex=True, sharey=True)
    for panel, original, reconstruction in zip(axes.flat, x, y, strict=False):
        panel.plot(original, "o", color="0.25", markersize=4)
        panel.plot(reconstruction, ".-", color=COLORS[0], markersize=4)
        label(panel, value_range)
    for panel in axes.flat[len(x) :]:
        panel.set_axis_off()

    figure.suptitle(title)
    for panel in axes[-1]:
        panel.set_xlabel("feature")
    for panel in axes[:, 0]:
        panel.set_ylabel("value")
    lines = axes[0, 0].get_lines()
    names = ["original", "reconstruction"]
    figure.legend(lines, names, loc="outside lower center", ncols=2, frameon=False)
    return figure


def heat(maps: list[Vectors], value_range: Range | None, names: list[str], title: str) -> Figure:
    r"""Draws matrices with shape :math:`(N, F)` side by side, on one scale of colours."""
    low, high = limits(value_range, *maps)
    colors = matplotlib.colormaps["cividis"].with_extremes(bad=MISSING)
    figure, axes = panels(1, len(maps), 6.0, 4.5, sharey=True)
    for panel, x, name in zip(axes.flat, maps, names, strict=True):
        image = panel.imshow(
            x, aspect="auto", interpolation="nearest", cmap=colors, vmin=low, vmax=high
        )
        panel.grid(False)
        panel.set(title=name, xlabel="feature")
        panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].set_ylabel("datum")
    figure.suptitle(title)
    figure.colorbar(image, ax=axes, label="value", shrink=0.9)
    return figure


def label(panel: Axes, value_range: Range | None) -> None:
    panel.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    if value_range is not None:
        panel.set_ylim(*value_range)
