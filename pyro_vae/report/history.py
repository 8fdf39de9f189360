r"""How a fit went: the bound and the divergences against epochs."""

__all__ = ["curves"]

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.report.figures import COLORS, panels, whole_ticks

Rows = Sequence[Mapping[str, float]]

VALIDATION = "validation."
_AXES = ("epoch", "iteration", "step")


def curves(history: Rows) -> Figure:
    r"""Draws the bound, and each site's divergence where it is known, against epochs.

    Arguments:
        history: One row for each epoch (or iteration, or step), in nats per datum: ``elbo``,
            ``objective``, ``kl`` and ``kl.<site>``, the same after ``validation.``, and
            ``epoch``, ``iteration`` or ``step``. Keys may be missing, in some rows or in all.

    Raises:
        ValueError: If no row has a bound beside an ``epoch`` or a ``step``.

    Example:
        >>> rows = [{"epoch": 1, "elbo": -40.0, "kl.z": 5.0}, {"epoch": 2, "elbo": -30.0}]
        >>> [panel.get_title() for panel in curves(rows).axes]
        ['Evidence lower bound', 'KL divergence']
    """
    axes_of_rows = [name for name in _AXES if any(name in row for row in history)]
    axis = axes_of_rows[0] if axes_of_rows else "step"
    rows = [row for row in history if axis in row]
    names = list(dict.fromkeys(key.removeprefix(VALIDATION) for row in rows for key in row))
    bounds = [name for name in ("elbo", "objective") if name in names]
    if not bounds:
        raise ValueError(
            "expected rows with 'elbo' or 'objective', and 'epoch' or 'step', "
            f"got {len(history)} rows with keys {names}"
        )
    pairs = [(row["elbo"], row.get("objective", row["elbo"])) for row in rows if "elbo" in row]
    if pairs and all(math.isclose(*pair, rel_tol=1e-5) for pair in pairs):
        bounds = ["elbo"]  # a line that is equal but for rounding would hide it
    divergences = [name for name in names if name.startswith("kl.")] or ["kl"]
    divergences = [name for name in divergences if name in names]

    figure, axes = panels(1, 1 + bool(divergences), 5.8, 4.2)
    draw(axes[0, 0], rows, axis, bounds)
    axes[0, 0].set_title("Evidence lower bound" if "elbo" in bounds else "Objective")
    if divergences:
        axes[0, 1].axhline(0, color="0.7", linewidth=1)
        draw(axes[0, 1], rows, axis, divergences)
        axes[0, 1].set_title("KL divergence")
    return figure


def draw(panel: Axes, rows: Rows, axis: str, names: Sequence[str]) -> None:
    r"""Draws a line for each name, and a dashed one where it has a value in validation."""
    for k, name in enumerate(names):
        label = name.removeprefix("kl.")
        lines = {name: (label, "-"), VALIDATION + name: (f"{label} (validation)", "--")}
        for key, (label, style) in lines.items():
            if points := [(row[axis], row[key]) for row in rows if key in row]:
                panel.plot(
                    *zip(*points, strict=True),
                    color=COLORS[k % len(COLORS)],
                    linestyle=style,
                    marker="o" if len(rows) < 30 else None,
                    markersize=3,
                    label=label,
                )
    panel.set(xlabel=axis, ylabel="nats per datum")
    whole_ticks(panel.xaxis)
    panel.legend(frameon=False)
