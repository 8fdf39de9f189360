r"""What every picture shares: arrays, axes, colours and the way to a file."""

__all__ = [
    "COLORS",
    "DPI",
    "MISSING",
    "Array",
    "Range",
    "array",
    "limits",
    "palette",
    "panels",
    "save",
    "whole_ticks",
]

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

Array = Tensor | NDArray[Any]
Range = tuple[float, float]

COLORS = tuple(matplotlib.color_sequences["petroff10"])  # told apart by colour-blind eyes too
MISSING = (0.96, 0.66, 0.66)  # of no scale of greys, nor of the heat maps
DPI = 128  # a power of two, so that pixels / DPI * DPI is exact


def array(x: Array, name: str, missing: bool = False) -> NDArray[np.float64]:
    r"""Returns ``x`` as an array of finite floats with shape :math:`(N, *)`.

    Arguments:
        x: A tensor on any device, or an array, with shape :math:`(N, *)`.
        name: What an error calls it.
        missing: Whether values may be missing: NaN.

    Raises:
        ValueError: If ``x`` is a scalar, is empty or holds values that are not finite.
    """
    values = np.asarray(x.detach().cpu().double() if isinstance(x, Tensor) else x, dtype=float)

    if values.ndim == 0 or values.size == 0:
        raise ValueError(f"expected {name} with shape (N, *) and N > 0, got {values.shape}")
    wrong = np.isinf(values) if missing else ~np.isfinite(values)
    if bad := np.count_nonzero(wrong):
        found = "infinite" if missing else "NaN or infinite"
        raise ValueError(f"expected finite {name}, got {bad} of {values.size} values {found}")

    return values


def limits(value_range: Range | None, *arrays: NDArray[np.float64]) -> Range:
    r"""Returns ``value_range`` or else the least and the greatest value of the arrays, but NaN.

    Raises:
        ValueError: If ``value_range`` is not two finite numbers in increasing order.
    """
    if value_range is None:
        known = np.concatenate([x[~np.isnan(x)] for x in arrays])
        return float(known.min()), float(known.max())

    low, high = value_range
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(
            f"expected a value_range of two finite numbers in order, got {value_range}"
        )
    return low, high


def palette(number: int) -> NDArray[np.float64]:
    r"""Returns so many colours, which begin anew where there are no more, with shape (K, 3)."""
    return np.array([to_rgb(COLORS[k % len(COLORS)]) for k in range(number)])


def panels(
    rows: int, columns: int, width: float, height: float, **shared: Any
) -> tuple[Figure, Any]:
    r"""Returns a figure and its axes, an object array with shape (rows, columns).

    Arguments:
        rows: The number of panels from top to bottom.
        columns: The number of panels from left to right.
        width: The width of one panel, in inches.
        height: The height of one panel, in inches.
        shared: What ``Figure.subplots`` takes, for example ``sharey=True``.
    """
    figure = Figure(figsize=(width * columns, height * rows), dpi=DPI, layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1, wspace=0.02, hspace=0.02)
    axes = figure.subplots(rows, columns, squeeze=False, **shared)

    panel: Axes
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="0.92")
        panel.set_axisbelow(True)

    return figure, axes


def whole_ticks(axis: Axis) -> None:
    r"""Lets an axis have ticks at whole numbers alone, such as those of data, however few."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    r"""Writes ``figure`` to ``path`` as PNG, whole or not at all, and returns the path.

    Arguments:
        figure: What to write, in the size and resolution that it was made with.
        path: Where to; missing folders are made, a file that is there is replaced.

    Raises:
        ValueError: If the name of ``path`` does not end in ``.png``.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"expected a path that ends in .png, got {path.name!r}")

    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi="figure")

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(buffer.getvalue())
        return draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
