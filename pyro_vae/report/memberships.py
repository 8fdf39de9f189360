r"""Which component each datum belongs to."""

__all__ = ["responsibilities"]

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from pyro_vae.report.figures import Array, array, palette, panels, whole_ticks
from pyro_vae.report.projections import LEGEND, by_class

NAMED = 30  # components beyond which not each one has a tick


def responsibilities(
    probabilities: Array,
    labels: Array | None = None,
    classes: Sequence[str] | None = None,
    title: str = "Responsibilities",
) -> Figure:
    r"""Draws the probability of each component for each datum, as a heat map.

    Data stand by their most probable component, the surest first, so that a clear clustering is
    a staircase, and what lies between clusters ends each stair. With labels a band below shows
    their classes, and data of one component stand by class first.

    Arguments:
        probabilities: With shape :math:`(N, K)`, as :func:`pyro_vae.responsibilities` returns
            them.
        labels: The class of each datum, whole numbers with shape :math:`(N)`.
        classes: The name of each class, so that ``classes[label]`` is that of a label. By
            default the labels themselves.
        title: What stands above.

    Raises:
        ValueError: If ``probabilities`` have another shape, or do not lie from 0 to 1 and sum to
            1; if ``labels`` are not one whole number for each datum, each with a name where
            ``classes`` are given.

    Example:
        >>> import torch
        >>> figure = responsibilities(torch.eye(3)[[2, 0, 1, 0]])
        >>> figure.axes[0].images[0].get_array().argmax(0).tolist()
        [0, 0, 1, 2]
    """
    r = array(probabilities, "probabilities")
    if r.ndim != 2:
        raise ValueError(f"expected probabilities with shape (N, K), got {r.shape}")
    if r.min() < -1e-6 or abs(r.sum(1) - 1).max() > 1e-3:
        raise ValueError("expected probabilities from 0 to 1 that sum to 1 for each datum")
    groups = by_class(len(r), labels, classes)
    label = np.argmax(np.stack(list(groups.values())), axis=0)
    order = np.lexsort((-r.max(1), label, r.argmax(1)))

    band = labels is not None
    heights = {"height_ratios": [1, 0.07]} if band else {}
    K = r.shape[1]
    figure, axes = panels(
        1 + band,
        1,
        8.2,
        float(np.clip(0.24 * K + 1.6, 2.6, 7)) / (1 + band),
        sharex=True,
        **heights,
    )
    _heat(figure, axes[0, 0], r[order])
    if band:
        axes[0, 0].tick_params(bottom=False)
        _band(figure, axes[1, 0], label[order], list(groups))
    whole_ticks(axes[-1, 0].xaxis)
    axes[-1, 0].set_xlabel("data, by their most probable component")
    axes[0, 0].set_title(title)
    return figure


def _heat(figure: Figure, panel: Axes, r: NDArray[np.float64]) -> None:
    image = panel.imshow(
        r.T, aspect="auto", interpolation="nearest", cmap="cividis", vmin=0, vmax=1
    )
    panel.grid(False)
    panel.spines[:].set_visible(False)
    panel.hlines(np.arange(1, r.shape[1]) - 0.5, -0.5, len(r) - 0.5, color="white", linewidth=0.8)
    panel.set_ylabel("component")
    if r.shape[1] <= NAMED:
        panel.set_yticks(range(r.shape[1]))
    else:
        whole_ticks(panel.yaxis)
    figure.colorbar(image, ax=panel, label="probability", pad=0.015)


def _band(
    figure: Figure, panel: Axes, label: NDArray[np.intp], names: Sequence[str | None]
) -> None:
    colors = palette(len(names))
    panel.imshow(colors[label][None], aspect="auto", interpolation="nearest")
    panel.grid(False)
    panel.set_yticks([])
    panel.spines[:].set_visible(False)
    panel.set_ylabel("class", rotation=0, ha="right", va="center")
    handles = [Patch(color=tuple(colors[k]), label=name) for k, name in enumerate(names)]
    figure.legend(
        handles=handles,
        loc="outside right upper",
        frameon=False,
        ncols=-(-len(handles) // LEGEND),
    )
