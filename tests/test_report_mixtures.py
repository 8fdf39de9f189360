r"""Pictures of mixtures, read back from what is drawn."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from pyro_vae.em import GaussianMixture
from pyro_vae.report import contours, responsibilities, save
from pyro_vae.report.densities import MASSES, _Gaussians, _levels
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
    shades, scaled = (panel.collections[0] for panel in figure.axes)
    np.testing.assert_allclose(shades.levels, scaled.levels)


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


def standard(mean: float = 0.0, variance: float = 1.0) -> dict[str, Any]:
    return {"one": (np.ones(1), np.full((1, 2), mean), np.full(1, variance))}


def levels_of(figure: Figure) -> np.ndarray:
    return np.asarray(figure.axes[0].collections[1].levels)  # of the lines


@pytest.mark.parametrize("reach", [6.0, 1.0])
def test_shades_hold_the_masses_that_they_say(reach: float) -> None:
    r"""Of a standard normal with two features, density (1 - m) / 2 pi bounds the mass m.

    Where the window holds 0.55 of the mass alone, the levels that reach into it are the same.
    """
    corners = np.array([[-reach, -reach], [reach, reach]])
    expected = [(1 - m) / (2 * math.pi) for m in MASSES]
    figure = contours(corners, standard())
    np.testing.assert_allclose(levels_of(figure), expected, rtol=1e-3)
    shades = figure.axes[0].collections[0]
    assert len(shades.levels) == len(MASSES) + 1
    np.testing.assert_allclose(shades.levels[:-1], expected, rtol=1e-3)


def test_shades_of_a_mixture_hold_the_masses_of_its_draws() -> None:
    r"""Within 0.01, ten standard errors of 40,000 draws."""
    weights, means, covariances = MIXTURE
    random = np.random.RandomState(1)
    c = random.choice(2, size=40_000, p=weights)
    x = means[c] + np.einsum(
        "nij,nj->ni", np.linalg.cholesky(covariances)[c], random.randn(len(c), 2)
    )
    mixture = _Gaussians(weights, means, covariances)
    held = [(mixture.density(x) > level).mean() for level in _levels(mixture)]
    np.testing.assert_allclose(held, MASSES, atol=0.01)


@pytest.mark.parametrize("shown", range(len(MASSES) + 1))
def test_what_lies_out_of_sight_has_no_shade(shown: int) -> None:
    r"""The window ends between the circles that bound two masses, or shows none."""
    within = [1.0, *MASSES, 0.0][shown : shown + 2]
    radius = math.sqrt(-2 * math.log1p(-(within[1] + (min(within[0], 0.999) - within[1]) / 2)))
    corner = np.full((1, 2), 1 + radius / math.sqrt(2))  # there is room of 1 around one datum
    collections = contours(corner, standard()).axes[0].collections
    assert len(collections) == (3 if shown else 1)
    if shown:
        assert len(collections[1].levels) == shown


@pytest.mark.parametrize("variance", [1e-12, 1e12])
def test_needles_and_plains_are_drawn(variance: float) -> None:
    levels = [(1 - m) / (2 * math.pi * variance) for m in MASSES]
    mixture = _Gaussians(np.ones(1), np.zeros((1, 2)), variance * np.eye(2)[None])
    np.testing.assert_allclose(_levels(mixture), levels, rtol=1e-3)
    assert contours(X, standard(variance=variance)).axes[0].patches


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


@pytest.mark.parametrize("size", [1, 3, 200])
@pytest.mark.parametrize("K", [1, 40])
def test_ticks_are_at_data_and_components(size: int, K: int) -> None:
    for labels in (None, np.zeros(size, int)):
        figure = responsibilities(np.eye(K)[np.zeros(size, int)], labels)
        assert figure.axes[0].images[0].get_clim() == (0, 1)
        heat, data = figure.axes[0], figure.axes[labels is not None]
        for ticks in (heat.get_yticks(), data.get_xticks()):
            np.testing.assert_array_equal(ticks, np.round(ticks))


def test_data_lie_over_ellipses_and_these_over_shades() -> None:
    panel = contours(X, {"one": MIXTURE}).axes[0]
    *shades, points = [collection.zorder for collection in panel.collections]
    ellipses = [patch.zorder for patch in panel.patches]
    assert max(shades) < min(ellipses) <= max(ellipses) < points < panel.lines[0].zorder


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
