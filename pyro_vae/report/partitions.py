r"""Who belongs to whom: the co-clustering matrix, ordered."""

__all__ = ["co_clustering"]

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pyro_vae.report.figures import Array, array, panels, whole_ticks


def co_clustering(together: Array, title: str = "How often two data are in one cluster") -> Figure:
    r"""Draws the probability of each pair of data to be in one cluster, with clusters as blocks.

    Rows and columns are in the order of a tree of the data, by average linkage of what is not
    together, in which the branch with the earlier data comes first. Data that were sorted stay
    so wherever clusters allow.

    Arguments:
        together: The probabilities, symmetric, with shape :math:`(N, N)`
            (:meth:`pyro_vae.gibbs.Partitions.co_clustering`).
        title: What stands above.

    Raises:
        ValueError: If they are no symmetric matrix of probabilities.

    Example:
        >>> import torch
        >>> labels = torch.tensor([0, 1, 0, 1])
        >>> figure = co_clustering((labels[:, None] == labels).float())
        >>> print(figure.axes[0].images[0].get_array()[0])
        [1. 1. 0. 0.]
    """
    P = array(together, "co-clustering probabilities")
    _check(P)
    order = _order(P)
    figure, axes = panels(1, 1, 6.2, 5.4)
    panel = axes[0, 0]
    image = panel.imshow(
        P[np.ix_(order, order)], cmap="cividis", vmin=0, vmax=1, interpolation="nearest"
    )
    panel.grid(False)
    panel.spines[:].set_visible(False)
    for axis in (panel.xaxis, panel.yaxis):
        whole_ticks(axis)
    panel.set(title=title, xlabel="datum, by cluster", ylabel="datum, by cluster")
    figure.colorbar(image, ax=panel, label="posterior probability", shrink=0.9)
    return figure


def _check(P: NDArray[np.float64]) -> None:
    if P.ndim != 2 or P.shape[0] != P.shape[1]:
        raise ValueError(f"expected co-clustering probabilities of shape (N, N), got {P.shape}")
    if P.min() < -1e-6 or P.max() > 1 + 1e-6 or not np.allclose(P, P.T, atol=1e-6):
        raise ValueError(
            "expected a symmetric matrix of probabilities, got values from "
            f"{P.min():g} to {P.max():g}, apart from the transpose by up to "
            f"{np.abs(P - P.T).max():g}"
        )


def _order(P: NDArray[np.float64]) -> NDArray[np.intp]:
    r"""The leaves of the tree, from the earliest on."""
    N = len(P)
    if N < 2:
        return np.arange(N)

    from scipy.cluster.hierarchy import average  # takes a while
    from scipy.spatial.distance import squareform

    apart = 1 - (P + P.T) / 2
    np.fill_diagonal(apart, 0)
    merged = average(squareform(apart.clip(min=0), checks=False))
    leaves = [np.array([n]) for n in range(N)]
    for left, right, *_ in merged:
        branches = leaves[int(left)], leaves[int(right)]
        leaves.append(np.concatenate(sorted(branches, key=lambda branch: float(branch.min()))))
    return leaves[-1]
