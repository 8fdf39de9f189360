r"""Pictures of moved latents, read back pixel by pixel and point by point."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from pyro_vae.report import latent_plane, save, traversals

NAMES = ["z[1]  2.50 nats", "z[0]  0.01 nats"]


def pixels(figure: Figure) -> np.ndarray:
    return np.asarray(figure.axes[0].images[0].get_array())


def labels(ticks: list) -> list[str]:
    return [text.get_text() for text in ticks]


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_every_image_of_a_row_stands_at_its_place(channels: int | None) -> None:
    shape = (5, 7) if channels is None else (channels, 5, 7)
    x = torch.rand(2, 3, *shape)

    figure = traversals(x, torch.tensor([-3.0, 1e-7, 3.0]), NAMES, value_range=(0, 1))

    grid, panel = pixels(figure), figure.axes[0]
    assert grid.shape == (2 * 6 + 1, 3 * 8 + 1, 3)
    for k in range(2):
        for s in range(3):
            tile = grid[1 + 6 * k : 6 + 6 * k, 1 + 8 * s : 8 + 8 * s]
            expected = x[k, s].reshape(-1, 5, 7).permute(1, 2, 0).numpy()
            np.testing.assert_allclose(tile, np.broadcast_to(expected, (5, 7, 3)))
    assert labels(panel.get_yticklabels()) == NAMES
    assert labels(panel.get_xticklabels()) == ["−3", "0", "3"]
    # an image's middle, in pixels of which the first has its centre at 0
    np.testing.assert_allclose(panel.get_yticks(), [3, 9])
    np.testing.assert_allclose(panel.get_xticks(), [4, 12, 20])


def test_values_that_differ_between_rows_are_not_named_below() -> None:
    values = torch.tensor([[-3.0, 3.0], [-2.0, 2.0]])
    panel = traversals(torch.rand(2, 2, 4, 4), values, NAMES).axes[0]

    assert labels(panel.get_xticklabels()) == ["", ""]


def test_the_plane_has_its_first_feature_to_the_right_and_its_second_upwards() -> None:
    x = torch.rand(3, 2, 1, 8, 8)
    values = (torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([10.0, 20.0]))

    figure = latent_plane(x, values, ("z[0]", "w[1]"), value_range=(0, 1))

    grid, panel = pixels(figure), figure.axes[0]
    assert grid.shape == (2 * 9 + 1, 3 * 9 + 1, 3)
    for i in range(3):
        for j in range(2):
            top, left = 1 + 9 * (1 - j), 1 + 9 * i
            np.testing.assert_allclose(grid[top : top + 8, left : left + 8, 0], x[i, j, 0])
    assert labels(panel.get_xticklabels()) == ["−1", "0", "1"]
    assert labels(panel.get_yticklabels()) == ["20", "10"]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("z[0]", "w[1]")


def test_short_vectors_are_lines_in_a_panel_for_each_feature() -> None:
    x = torch.randn(5, 3, 6)
    figure = traversals(x, torch.randn(5, 3), [f"z[{k}]" for k in range(5)])

    shown = [panel for panel in figure.axes if panel.axison]
    assert [panel.get_title() for panel in shown] == [f"z[{k}]" for k in range(5)]
    for panel, vectors in zip(shown, x, strict=True):
        np.testing.assert_array_equal([line.get_ydata() for line in panel.get_lines()], vectors)
    brightness = [sum(line.get_color()[:3]) for line in shown[0].get_lines()]
    assert brightness == sorted(brightness)


def test_long_vectors_are_rows_of_a_heat_map_for_each_feature() -> None:
    x = torch.randn(2, 3, 49)
    figure = traversals(x, torch.tensor([-1.0, 0.0, 2.0]), NAMES, value_range=(-3, 3))

    for panel, vectors in zip(figure.axes, x, strict=True):
        np.testing.assert_array_equal(panel.images[0].get_array(), vectors)
        assert panel.images[0].get_clim() == (-3, 3)
    assert labels(figure.axes[0].get_yticklabels()) == ["−1", "2"]


def test_vectors_over_the_plane_are_a_heat_map_for_each_feature() -> None:
    x, values = torch.randn(4, 3, 20), (torch.arange(4.0), torch.arange(3.0))
    figure = latent_plane(x, values, ("z[0]", "z[1]"))

    maps = [panel for panel in figure.axes if panel.get_title()]
    assert [panel.get_title() for panel in maps] == [f"feature {k}" for k in range(16)]
    for k, panel in enumerate(maps):
        np.testing.assert_array_equal(np.asarray(panel.collections[0].get_array()), x[..., k].T)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: traversals(torch.randn(2, 4, 1, 8, 8), torch.arange(4), NAMES),
        lambda: traversals(
            torch.randn(40, 4, 1, 8, 8), torch.arange(4), [f"z[{k}]" for k in range(40)]
        ),
        lambda: traversals(torch.randn(2, 4, 5), torch.arange(4), NAMES),
        lambda: traversals(torch.randn(2, 4, 99), torch.arange(4), NAMES),
        lambda: latent_plane(torch.randn(4, 4, 1, 8, 8), torch.randn(2, 4), ("z[0]", "z[1]")),
        lambda: latent_plane(torch.randn(4, 4, 5), torch.arange(8).reshape(2, 4), ("a", "b")),
    ],
)
def test_nothing_is_cut_off(draw: Callable[[], Figure], tmp_path: Path) -> None:
    page = imread(save(draw(), tmp_path / "page.png"))[..., :3]

    for edge in (page[0], page[-1], page[:, 0], page[:, -1]):
        assert (edge == 1).all()


X, Z = torch.zeros(2, 3, 1, 8, 8), torch.zeros(2, 3)

ERRORS: list[tuple[str, Callable[[], object], str]] = [
    ("names", lambda: traversals(X, Z, ["z"]), r"D names, got \(2, 3, 1, 8, 8\), .* and 1 names"),
    ("values", lambda: traversals(X, Z[:, :2], NAMES), r"values with shape \(D, S\) .*\(2, 2\)"),
    ("means", lambda: traversals(X[:, 0, 0, 0, 0], Z, NAMES), r"expected means with shape"),
    ("not finite", lambda: traversals(X, Z + math.nan, NAMES), r"finite values, got 6 of 6"),
    ("range", lambda: traversals(X, Z, NAMES, (1, 0)), r"in order, got \(1, 0\)"),
    ("plane", lambda: latent_plane(X, Z, ("a", "b")), r"S and T values .* 3 and 3 values"),
    ("one name", lambda: latent_plane(X[:, :2], Z[:, :2], ("a",)), r"two names, .* 1 names"),
]


@pytest.mark.parametrize("name, call, match", ERRORS, ids=[name for name, *_ in ERRORS])
def test_errors(name: str, call: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
