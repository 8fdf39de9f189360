r"""Where a guide puts the data: its means in at most two dimensions, by class."""

__all__ = ["latents", "project"]

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from pyro_vae.report.figures import COLORS, Array, array, panels

MARKERS = "os^Dv*PX"  # one for every len(COLORS) classes
HALO = [withStroke(linewidth=3, foreground="white")]
LEGEND = 20  # classes in one column of the legend


def latents(
    means: Array,
    labels: Array | None = None,
    classes: Sequence[str] | None = None,
    title: str = "Latent means",
    names: Sequence[str] | None = None,
) -> Figure:
    r"""Draws the means of the latents, projected to two dimensions, coloured by class.

    With one dimension it draws a histogram, with two the latents themselves, with more
    their first two principal components.

    Arguments:
        means: The means with shape :math:`(N, D)`.
        labels: The class of each datum, whole numbers with shape :math:`(N)`.
        classes: The name of each class, so that ``classes[label]`` is that of a label. By
            default the labels themselves.
        title: What stands above.
        names: The name of each of the :math:`D` features. By default "latent 1", "latent 2".

    Raises:
        ValueError: If ``means`` has another shape or is not finite, or if ``labels`` is not one
            whole number for each datum, each with a name where ``classes`` are given.

    Example:
        >>> import torch
        >>> figure = latents(torch.randn(20, 3), torch.arange(20) % 2, ["even", "odd"])
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['even', 'odd']
    """
    z = array(means, "means")
    if z.ndim != 2:
        raise ValueError(f"expected means with shape (N, D), got {z.shape}")

    axis_names = [f"latent {k + 1}" for k in range(z.shape[1])] if names is None else list(names)
    if len(axis_names) != z.shape[1]:
        raise ValueError(f"expected {z.shape[1]} names, one of each feature, got {axis_names}")
    groups = by_class(len(z), labels, classes)
    figure, axes = panels(1, 1, 6.8 if labels is None else 7.8, 5.8)
    if z.shape[1] == 1:
        histogram(axes[0, 0], z[:, 0], groups, axis_names[0])
    else:
        scatter(axes[0, 0], z, groups, axis_names)
    axes[0, 0].set_title(title)

    if labels is not None:
        handles, names = axes[0, 0].get_legend_handles_labels()
        legend = figure.legend(
            handles,
            names,
            loc="outside right upper",
            frameon=False,
            ncols=-(-len(names) // LEGEND),
        )
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
    return figure


def project(z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Returns the first two principal components and their shares of the variance.

    Arguments:
        z: Points with shape :math:`(N, D)`, where both are at least two.

    Raises:
        ValueError: If there is only one point.
    """
    if len(z) < 2:
        raise ValueError(f"expected at least two data to project, got means of shape {z.shape}")

    from sklearn.decomposition import PCA  # takes seconds

    pca = PCA(n_components=2, svd_solver="full")  # "auto" may be random
    with np.errstate(invalid="ignore"):  # collapsed posteriors have no variance to share
        points = pca.fit_transform(z)
    return points, np.nan_to_num(pca.explained_variance_ratio_)


def by_class(
    n: int, labels: Array | None, classes: Sequence[str] | None
) -> dict[str | None, NDArray[np.bool_]]:
    r"""Returns a mask with shape :math:`(N)` over the data for each class, by name."""
    if labels is None:
        return {None: np.ones(n, dtype=bool)}

    values = array(labels, "labels")
    if values.shape != (n,) or (values % 1).any():
        raise ValueError(f"expected one whole number for each of {n} data, got {values.shape}")
    present = np.unique(values).astype(int)
    if classes is None:
        return {str(label): values == label for label in present}
    if present[0] < 0 or present[-1] >= len(classes):
        raise ValueError(
            f"expected labels from 0 to {len(classes) - 1}, one for each of the classes, "
            f"got {present[0]} to {present[-1]}"
        )
    return {str(name): values == label for label, name in enumerate(classes)}


def histogram(
    panel: Axes, z: NDArray[np.float64], groups: dict[str | None, NDArray[np.bool_]], name: str
) -> None:
    edges = np.histogram_bin_edges(z, bins=40)
    panel.hist(
        [z[mask] for mask in groups.values()],
        bins=edges.tolist(),
        stacked=True,
        label=[name or "" for name in groups],
        color=[COLORS[k % len(COLORS)] for k in range(len(groups))],
    )
    panel.set(xlabel=name, ylabel="data")


def scatter(
    panel: Axes,
    z: NDArray[np.float64],
    groups: dict[str | None, NDArray[np.bool_]],
    names: list[str],
) -> None:
    if z.shape[1] > 2:
        z, shares = project(z)
        names = [f"component {k + 1} ({share:.0%} of variance)" for k, share in enumerate(shares)]

    for k, (name, mask) in enumerate(groups.items()):
        panel.scatter(
            z[mask, 0],
            z[mask, 1],
            s=float(np.clip(3e4 / len(z), 4, 24)),
            alpha=0.7,
            color=COLORS[k % len(COLORS)],
            marker=MARKERS[k // len(COLORS) % len(MARKERS)],
            linewidths=0,
            label=name,
        )
        if name is not None and mask.any() and len(groups) <= len(COLORS):
            centre = z[mask].mean(0)
            panel.annotate(name, centre, ha="center", va="center", weight="bold", path_effects=HALO)
    panel.set(xlabel=names[0], ylabel=names[1])
    panel.set_aspect("equal", adjustable="datalim")
