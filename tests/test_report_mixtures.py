r"""Pictures of mixtures, read back from what is drawn."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import Ellipse

from pyro_vae.em import GaussianMixture
from pyro_vae.report import contours, responsibilities, save
from pyro_vae.report.densities import MASSES, _levels
from pyro_vae.report.figures import COLORS

X = np.random.RandomState(0).randn(40, 2) * 2
COVARIANCES = np.array([[[2.0, 0.8], [0.8, 1.0]], [[0.3, -0.1], [-0.1, 0.5]]])
MIXTURE = np.array([0.3, 0.7]), np.array([[-1.0, 0.5], [1.0, -1.0]]), COVARIANCES


def test_data_have_the_colours_that_they_belong_to() -> None:
    weights, means, covariances = MIXTURE
    theirs = GaussianMixture(2, random_state=0).fit(X)
    theirs.weights_, theirs.means_ = weights, means
    theirs.covariances_ = covariances
    theirs.precisions_cholesky_ = np.linalg.inv(np.linalg.cholesky(covariances)).mT
    expected = theirs.predict_proba(X) @ np.array([to_rgb(COLORS[0]), to_rgb(COLORS[1])])

    figure = contours(X, {"one": MIXTURE, "scaled weights": (10 * weights, means, covariances)})
    assert [panel.get_title() for panel in figure.axes] == ["one", "scaled weights"]
    for panel in figure.axes:
        points = panel.collections[-1]
        np.testing.assert_allclose(points.get_offsets(), X)
        np.testing.assert_allclose(points.get_facecolor()[:, :3], expected, atol=1e-6)


@pytest.mark.parametrize("form", ["full", "diag", "spherical"])
def test_ellipses_are_at_two_standard_deviations(form: str) -> None:
    weights, means, covariances = MIXTURE
    given = {
        "full": covariances,
        "diag": torch.tensor([[2.0, 1.0], [0.3, 0.5]]),
        "spherical": torch.tensor([2.0, 0.5]),
    }[form]
    dense = {
        "full": covariances,
        "diag": np.array([np.diag([2.0, 1.0]), np.diag([0.3, 0.5])]),
        "spherical": np.array([2 * np.eye(2), 0.5 * np.eye(2)]),
    }[form]
    panel = contours(X, {"one": (weights, means, given)}).axes[0]
    ellipses = [patch for patch in panel.patches if isinstance(patch, Ellipse)]

    assert len(ellipses) == 2
    for k, ellipse in enumerate(ellipses):
        circle = ellipse.get_path().vertices
        on_it = circle[np.isclose(np.linalg.norm(circle, axis=1), 1)]  # not Bezier controls
        points = ellipse.get_patch_transform().transform(on_it) - means[k]
        squares = np.einsum("ni,ij,nj->n", points, np.linalg.inv(dense[k]), points)
        assert len(on_it) >= 8
        np.testing.assert_allclose(squares, 4.0)
        assert to_rgb(ellipse.get_edgecolor()) == pytest.approx(to_rgb(COLORS[k]))
    crosses = [np.ravel(line.get_xydata()) for line in panel.lines]
    np.testing.assert_allclose(crosses, means)


def test_shades_hold_the_masses_that_they_say() -> None:
    r"""Of a standard normal with two features, density (1 - m) / 2 pi bounds the mass m."""
    side = np.linspace(-6, 6, 400)
    density = np.exp(-(side[:, None] ** 2 + side**2) / 2) / (2 * math.pi)
    expected = [(1 - m) / (2 * math.pi) for m in MASSES]
    found = _levels(density, density * (side[1] - side[0]) ** 2)
    np.testing.assert_allclose(found, expected, rtol=0.02)
    # of a window that holds half the mass, what lies outside cannot be shaded
    assert len(_levels(density[:200], density[:200] * (side[1] - side[0]) ** 2)) == 1

    corners = np.array([[-6.0, -6.0], [6.0, 6.0]])
    panel = contours(corners, {"one": (np.ones(1), np.zeros((1, 2)), np.ones(1))}).axes[0]
    np.testing.assert_allclose(panel.collections[0].levels, expected, rtol=0.05)


def test_data_stand_by_component_and_the_surest_first() -> None:
    r = torch.tensor([[0.2, 0.8], [0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.0, 1.0]])
    labels = torch.tensor([1, 0, 0, 1, 1])
    plain, by_class = responsibilities(r), responsibilities(r, labels, ["a", "b"])

    found = np.asarray(plain.axes[0].images[0].get_array())
    np.testing.assert_allclose(found[0], [0.9, 0.7, 0.0, 0.2, 0.4])
    np.testing.assert_allclose(found.sum(0), 1)
    found = np.asarray(by_class.axes[0].images[0].get_array())
    np.testing.assert_allclose(found[0], [0.9, 0.7, 0.4, 0.0, 0.2])  # class 0 before class 1
    band = np.asarray(by_class.axes[1].images[0].get_array())[0]
    np.testing.assert_allclose(band, [to_rgb(COLORS[k]) for k in (0, 1, 0, 1, 1)])
    assert [text.get_text() for text in by_class.legends[0].get_texts()] == ["a", "b"]


def test_pictures_are_saved(tmp_path: Path) -> None:
    r = torch.eye(40)[torch.arange(500) % 40]  # more components than ticks
    for figure in (contours(X[:1], {"one": MIXTURE}), responsibilities(r)):
        assert save(figure, tmp_path / "x.png").stat().st_size > 5000


def one(**changed: Any) -> dict[str, Any]:
    parts = {"weights": MIXTURE[0], "means": MIXTURE[1], "covariances": MIXTURE[2], **changed}
    return {"one": tuple(parts.values())}


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "features": (lambda: contours(X.repeat(2, 1), one()), r"x with shape \(N, 2\), got \(40, 4\)"),
    "nothing": (lambda: contours(X, {}), "at least one mixture, got none"),
    "means": (
        lambda: contours(X, one(means=np.zeros((3, 2)))),
        r"weights of 'one' with shape \(K,\), .* got \(2,\), \(3, 2\) and \(2, 2, 2\)",
    ),
    "weights": (
        lambda: contours(X, one(weights=np.array([-0.5, 1.5]))),
        "weights of 'one' of at least 0",
    ),
    "no weights": (lambda: contours(X, one(weights=np.zeros(2))), "not all 0"),
    "covariances": (
        lambda: contours(X, one(covariances=-COVARIANCES)),
        "covariances of 'one' to be positive-definite",
    ),
    "not symmetric": (
        lambda: contours(X, one(covariances=np.triu(COVARIANCES))),
        "covariances of 'one' to be positive-definite",
    ),
    "not finite": (
        lambda: contours(X, one(means=np.full((2, 2), np.nan))),
        "expected finite means of 'one'",
    ),
    "one vector": (lambda: responsibilities(np.ones(3)), r"shape \(N, K\), got \(3,\)"),
    "sums": (lambda: responsibilities(np.ones((3, 2))), "from 0 to 1 that sum to 1"),
    "negative": (
        lambda: responsibilities(np.array([[-0.5, 1.5]])),
        "from 0 to 1 that sum to 1",
    ),
    "labels": (
        lambda: responsibilities(np.eye(3), np.arange(2)),
        "one whole number for each of 3 data",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake: str) -> None:
    call, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        call()
