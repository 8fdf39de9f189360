r"""Densities of Gaussian mixtures over the data that they were fitted to."""

__all__ = ["contours"]

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from torch.distributions import MultivariateNormal

from pyro_vae.report.figures import Array, array, palette, panels

Floats = NDArray[np.float64]

MASSES = (0.99, 0.9, 0.75, 0.5, 0.25)  # of the regions of highest density
SHADES = LinearSegmentedColormap.from_list("shades", ["#eef1f6", "#9fb0cc"])
GRID = 240  # points in each direction
RINGS, SPOKES = 100, 16  # of points that stand for a component
DEVIATIONS = 2  # how far ellipses reach


class _Gaussians(NamedTuple):
    weights: Floats
    means: Floats
    covariances: Floats

    def log_joint(self, x: Floats) -> Floats:
        r"""The log of weight times density, with shape :math:`(N, K)`."""
        means, covariances = torch.from_numpy(self.means), torch.from_numpy(self.covariances)
        log_density = MultivariateNormal(means, covariances).log_prob(torch.from_numpy(x)[:, None])
        with np.errstate(divide="ignore"):  # a weight may be zero
            return np.log(self.weights) + log_density.numpy()

    def density(self, x: Floats) -> Floats:
        r"""The density of the mixture, with shape :math:`(N)`."""
        return np.exp(self.log_joint(x)).sum(1)


def contours(
    x: Array,
    mixtures: Mapping[str, tuple[Array, Array, Array]],
    title: str = "Mixtures",
    names: tuple[str, str] = ("feature 1", "feature 2"),
) -> Figure:
    r"""Draws data with two features and the density of Gaussian mixtures, one in each panel.

    Shades are the regions of highest density that hold 25, 50, 75, 90 and 99 per cent of the
    mixture. Each component has a colour, a cross at its mean and an ellipse at two standard
    deviations; each datum has the components' colours, mixed as its responsibilities are.

    Arguments:
        x: The data, with shape :math:`(N, 2)`.
        mixtures: By name, the weights with shape :math:`(K)`, the means :math:`(K, 2)`, and the
            covariances :math:`(K, 2, 2)`, or variances :math:`(K, 2)` or :math:`(K)`.
        title: What stands above.
        names: The names of the two features.

    Raises:
        ValueError: If shapes are others, values are not finite, weights are negative or none, or
            covariances are not positive-definite; if there is no mixture.

    Example:
        >>> import torch
        >>> mixture = torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None]
        >>> figure = contours(torch.randn(50, 2), {"one Gaussian": mixture})
        >>> figure.axes[0].get_title()
        'one Gaussian'
    """
    points = array(x, "x")
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(
            f"expected x with shape (N, 2), got {points.shape}: choose or project to two features"
        )
    if not mixtures:
        raise ValueError("expected at least one mixture, got none")
    parts = {name: _gaussians(name, *mixture) for name, mixture in mixtures.items()}

    figure, axes = panels(1, len(parts), 4.6, 4.9, sharex=True, sharey=True)
    low, high = _window(points)
    for panel, (name, mixture) in zip(axes.flat, parts.items(), strict=True):
        _shade(panel, mixture, low, high)
        _points(panel, points, mixture)
        _ellipses(panel, mixture)
        panel.grid(False)
        panel.set(title=name, xlabel=names[0], xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes[0, 0].set_ylabel(names[1])
    figure.suptitle(title)
    return figure


def _gaussians(name: str, weights: Array, means: Array, covariances: Array) -> _Gaussians:
    pi, mu, sigma = (
        array(value, f"{what} of {name!r}")
        for what, value in (("weights", weights), ("means", means), ("covariances", covariances))
    )
    K = len(pi)
    if pi.shape != (K,) or mu.shape != (K, 2) or sigma.shape not in ((K, 2, 2), (K, 2), (K,)):
        raise ValueError(
            f"expected weights of {name!r} with shape (K,), means (K, 2) and covariances "
            f"(K, 2, 2), (K, 2) or (K,), got {pi.shape}, {mu.shape} and {sigma.shape}"
        )
    if sigma.ndim < 3:
        sigma = sigma.reshape(K, -1, 1) * np.eye(2)
    if (pi < 0).any() or not pi.any():
        raise ValueError(f"expected weights of {name!r} of at least 0, not all 0, got {pi}")
    if not np.allclose(sigma, sigma.mT) or not (np.linalg.eigvalsh(sigma) > 0).all():
        raise ValueError(f"expected covariances of {name!r} to be positive-definite, got others")
    return _Gaussians(pi / pi.sum(), mu, sigma)


def _window(points: Floats) -> tuple[Floats, Floats]:
    r"""The corners of what is shown: the data, and some room around them."""
    low, high = points.min(0), points.max(0)
    room = np.where(high > low, 0.12 * (high - low), 1.0)
    return low - room, high + room


def _shade(panel: Axes, mixture: _Gaussians, low: Floats, high: Floats) -> None:
    sides = [np.linspace(low[d], high[d], GRID) for d in range(2)]
    grid = np.stack(np.meshgrid(*sides), -1)
    density = mixture.density(grid.reshape(-1, 2)).reshape(GRID, GRID)
    levels = _levels(mixture)
    shades = SHADES(np.linspace(0, 1, len(levels)))
    shown = levels < density.max()  # the rest lies out of sight
    if shown.any():
        bounds = [*levels[shown], 2 * density.max()]
        panel.contourf(*sides, density, bounds, colors=shades[shown], zorder=0)
        panel.contour(*sides, density, levels[shown], colors="white", linewidths=0.8, zorder=0.5)


def _levels(mixture: _Gaussians) -> Floats:
    r"""The densities above which lie the masses, ascending, wherever the mixture has them.

    Each component is shared out among points of equal mass, on rings around its mean.
    """
    within = (np.arange(RINGS) + 0.5) / RINGS
    angles = np.linspace(0, 2 * np.pi, SPOKES, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], -1)
    standard = (np.sqrt(-2 * np.log1p(-within))[:, None, None] * ring).reshape(-1, 2)
    points = mixture.means[:, None] + standard @ np.linalg.cholesky(mixture.covariances).mT
    density = mixture.density(points.reshape(-1, 2))
    mass = np.repeat(mixture.weights / len(standard), len(standard))
    order = np.argsort(-density)
    held = np.cumsum(mass[order]) - mass[order] / 2
    return np.unique(np.interp(MASSES, held, density[order]))


def _points(panel: Axes, points: Floats, mixture: _Gaussians) -> None:
    log_joint = mixture.log_joint(points)
    r = np.exp(log_joint - log_joint.max(1, keepdims=True))
    r /= r.sum(1, keepdims=True)
    size = float(np.clip(6e3 / len(points), 3, 22))
    colors = np.clip(r @ palette(len(mixture.weights)), 0, 1)
    across, up = points.T
    panel.scatter(across, up, s=size, c=colors, alpha=0.8, linewidths=0, zorder=2)


def _ellipses(panel: Axes, mixture: _Gaussians) -> None:
    halo = [withStroke(linewidth=3.6, foreground="white")]
    squares, axes = np.linalg.eigh(mixture.covariances)
    for k, color in enumerate(palette(len(mixture.weights))):
        width, height = 2 * DEVIATIONS * np.sqrt(squares[k])
        angle = np.degrees(np.arctan2(axes[k, 1, 0], axes[k, 0, 0]))
        ellipse = Ellipse(
            (mixture.means[k, 0], mixture.means[k, 1]),
            width,
            height,
            angle=angle,
            fill=False,
            edgecolor=tuple(color),
            linewidth=1.8,
            zorder=1,
            path_effects=halo,
        )
        panel.add_patch(ellipse)
        panel.plot(
            *mixture.means[k], "X", color=color, markersize=9, markeredgecolor="white", zorder=4
        )
