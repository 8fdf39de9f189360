r"""Pictures, read back pixel by pixel and point by point, and the digits of tables."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from sklearn.decomposition import PCA

from pyro_vae.evaluation.estimate import Estimate, digits
from pyro_vae.report import curves, latents, reconstructions, samples, save, table
from pyro_vae.report.figures import MISSING

ROWS = [
    {"epoch": 1, "step": 9, "elbo": -50.0, "objective": -50.0, "kl": 9.0, "kl.z": 6.0},
    {"epoch": 2, "elbo": -40.0, "validation.elbo": -41.0, "kl.z": 7.0, "kl.w": 2.0},
    {"epoch": 3, "elbo": -35.0, "validation.elbo": -37.0, "validation.kl.z": 7.5},
]


def pixels(figure: Figure) -> np.ndarray:
    r"""Returns the image that a figure holds, with shape (H, W, 3)."""
    return np.asarray(figure.axes[0].images[0].get_array())


def drawn(figure: Figure, panel: int = 0) -> dict[str, tuple[list[float], list[float]]]:
    r"""Returns the points of each line that the legend names."""
    handles, labels = figure.axes[panel].get_legend_handles_labels()
    return {
        label: (list(line.get_xdata()), list(line.get_ydata()))
        for label, line in zip(labels, handles, strict=True)
    }


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_every_image_stands_at_its_place(channels: int | None) -> None:
    shape = (5, 7) if channels is None else (channels, 5, 7)
    x = torch.rand(10, *shape) * 40 - 20

    grid = pixels(samples(x, value_range=(-20, 20), columns=4))

    assert grid.shape == (3 * 6 + 1, 4 * 8 + 1, 3)
    for n, image in enumerate(x.reshape(10, -1, 5, 7)):
        top, left = 1 + 6 * (n // 4), 1 + 8 * (n % 4)
        tile = grid[top : top + 5, left : left + 7]
        expected = (image.permute(1, 2, 0).numpy() + 20) / 40
        np.testing.assert_allclose(tile, np.broadcast_to(expected, (5, 7, 3)))


def test_gaps_and_missing_images_are_white() -> None:
    grid = pixels(samples(torch.zeros(3, 1, 8, 8), value_range=(0, 1), columns=2))

    expected = np.ones((19, 19))
    expected[1:9, 1:9] = expected[1:9, 10:18] = expected[10:18, 1:9] = 0
    np.testing.assert_array_equal(grid, np.repeat(expected[..., None], 3, axis=-1))


@pytest.mark.parametrize(
    "value_range, expected",
    [(None, [0, 0.25, 0.75, 1]), ((-1, 1), [0, 0.5, 1, 1]), ((-2, 6), [0, 0.25, 0.75, 1])],
)
def test_values_are_scaled_and_clipped(value_range: Any, expected: list[float]) -> None:
    x = torch.tensor([-2.0, 0.0, 4.0, 6.0]).reshape(1, 1, 1, 4)

    np.testing.assert_allclose(pixels(samples(x, value_range))[0, :, 0], expected)


def test_a_constant_image_is_drawn() -> None:
    assert (pixels(samples(torch.full((1, 1, 4, 4), 3.0))) == 0).all()


def test_a_reconstruction_stands_below_its_original() -> None:
    x, y = torch.rand(6, 1, 8, 8), torch.rand(6, 1, 8, 8) * 2

    grid = pixels(reconstructions(x, y, columns=3))

    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    for n in range(6):
        top, left = 3 + 20 * (n // 3), 3 + 11 * (n % 3)
        for image, start in ((x[n, 0], top), (y[n, 0], top + 9)):
            tile = grid[start : start + 8, left : left + 8, 0]
            np.testing.assert_allclose(tile, (image - low) / (high - low))
        assert (grid[top + 8, left : left + 8] == 1).all()


def test_every_pixel_reaches_the_file(tmp_path: Path) -> None:
    x = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)

    page = imread(save(samples(x, value_range=(0, 255)), tmp_path / "samples.png"))

    grid = pixels(samples(x, value_range=(0, 255)))
    zoom = 1024 // 19
    assert page.shape == (19 * zoom + 48, 19 * zoom, 4)
    enlarged = np.kron(grid, np.ones((zoom, zoom, 1)))
    np.testing.assert_allclose(page[48:, :, :3], enlarged, atol=1 / 255)
    assert (page[:48, :, :3] < 0.5).any(), "no title"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_and_arrays_are_drawn_alike(dtype: torch.dtype) -> None:
    x = torch.rand(4, 1, 8, 8).round().to(dtype)

    images = [x, x.double().clone().requires_grad_(), x.double().numpy(), x.int().numpy()]
    grids = [pixels(samples(image)) for image in images]

    assert all((grid == grids[0]).all() for grid in grids)


def test_arguments_are_left_alone() -> None:
    x = torch.full((4, 1, 8, 8), 0.7)

    samples(x.numpy(), value_range=(0, 0.5))

    assert (x == 0.7).all()


def test_short_vectors_are_lines() -> None:
    x = torch.randn(6, 5)

    panel = samples(x, value_range=(-9, 9)).axes[0]

    lines = panel.get_lines()
    np.testing.assert_array_equal([line.get_ydata() for line in lines], x)
    np.testing.assert_array_equal(lines[0].get_xdata(), range(5))
    assert panel.get_ylim() == (-9, 9)


@pytest.mark.parametrize("shape", [(49,), (2, 5, 5), (7, 7, 3)])
def test_long_vectors_are_rows_of_a_heat_map(shape: tuple[int, ...]) -> None:
    x = torch.randn(6, *shape)

    figure = samples(x, value_range=(-3, 3))

    np.testing.assert_array_equal(pixels(figure), x.reshape(6, -1))
    assert figure.axes[0].images[0].get_clim() == (-3, 3)


def test_scalars_are_vectors_of_one_feature() -> None:
    assert len(samples(torch.randn(6)).axes[0].get_lines()) == 6


def test_short_reconstructions_share_a_panel_with_their_original() -> None:
    x, y = torch.randn(6, 5), torch.randn(6, 5)

    figure = reconstructions(x, y)

    for n, panel in enumerate(figure.axes[:6]):
        original, reconstruction = panel.get_lines()
        np.testing.assert_array_equal(original.get_ydata(), x[n])
        np.testing.assert_array_equal(reconstruction.get_ydata(), y[n])
    assert [panel.axison for panel in figure.axes] == [True] * 6 + [False] * 2
    assert legend(figure) == ["original", "reconstruction"]


def test_long_reconstructions_share_the_scale_of_their_originals() -> None:
    x = torch.randn(6, 99)

    left, right, _ = reconstructions(x, 2 * x).axes

    np.testing.assert_array_equal(left.images[0].get_array(), x)
    np.testing.assert_array_equal(right.images[0].get_array(), 2 * x)
    extent = ((2 * x).min().item(), (2 * x).max().item())
    assert left.images[0].get_clim() == right.images[0].get_clim() == extent


def test_many_dimensions_are_projected_as_scikit_learn_does() -> None:
    z = torch.randn(50, 6) * torch.arange(1, 7)
    pca = PCA(n_components=2, svd_solver="full").fit(z.numpy())

    panel = latents(z).axes[0]

    np.testing.assert_allclose(panel.collections[0].get_offsets(), pca.transform(z.numpy()))
    shares = [f"({share:.0%} of variance)" for share in pca.explained_variance_ratio_]
    assert panel.get_xlabel() == f"component 1 {shares[0]}"
    assert panel.get_ylabel() == f"component 2 {shares[1]}"
    assert panel.get_aspect() == 1


def test_two_dimensions_are_drawn_as_they_are() -> None:
    z = torch.randn(9, 2)

    panel = latents(z).axes[0]

    np.testing.assert_array_equal(panel.collections[0].get_offsets(), z)
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("latent 1", "latent 2")


def test_one_dimension_is_counted_by_class() -> None:
    z, labels = torch.randn(200, 1), torch.arange(200) % 2 * 4 + 3

    figure = latents(z, labels)

    edges = np.histogram_bin_edges(z.numpy(), bins=40)
    below = np.zeros(40)
    for label, bars in zip((3, 7), figure.axes[0].containers, strict=True):
        counts, _ = np.histogram(z[labels == label].numpy(), bins=edges)
        np.testing.assert_array_equal([bar.get_height() for bar in bars], counts)
        np.testing.assert_array_equal([bar.get_y() for bar in bars], below)
        below = below + counts
    assert legend(figure) == ["3", "7"]


def test_each_class_has_its_points_colour_and_name() -> None:
    z, labels = torch.randn(60, 2), torch.arange(60) % 12
    names = [f"class {k}" for k in range(12)]

    figure = latents(z, labels, names)

    assert legend(figure) == names
    groups = figure.axes[0].collections
    for label, group in enumerate(groups):
        np.testing.assert_array_equal(group.get_offsets(), z[labels == label])
    looks = {(*g.get_facecolor()[0], len(g.get_paths()[0].vertices)) for g in groups}
    assert len(looks) == 12


def test_names_stand_at_the_mean_of_their_class() -> None:
    z, labels = torch.randn(60, 2), torch.arange(60) % 3

    texts = latents(z, labels, ["a", "b", "c", "absent"]).axes[0].texts

    assert [text.get_text() for text in texts] == ["a", "b", "c"]
    for label, text in enumerate(texts):
        np.testing.assert_allclose(text.xy, z[labels == label].mean(0))


def test_collapsed_posteriors_explain_no_variance() -> None:
    panel = latents(torch.ones(20, 5)).axes[0]

    assert panel.get_xlabel() == "component 1 (0% of variance)"


def test_bounds_and_divergences_are_drawn_against_epochs() -> None:
    figure = curves(ROWS)

    assert drawn(figure, 0) == {
        "elbo": ([1, 2, 3], [-50, -40, -35]),
        "elbo (validation)": ([2, 3], [-41, -37]),
    }
    assert drawn(figure, 1) == {
        "z": ([1, 2], [6, 7]),
        "z (validation)": ([3], [7.5]),
        "w": ([2], [2]),
    }
    assert [line.get_linestyle() for line in figure.axes[0].get_lines()] == ["-", "--"]
    assert [panel.get_xlabel() for panel in figure.axes] == ["epoch", "epoch"]
    assert [panel.get_ylabel() for panel in figure.axes] == ["nats per datum"] * 2


def test_an_objective_that_is_not_the_bound_is_drawn() -> None:
    rows = [{"step": 10, "elbo": -50.0, "objective": -60.0, "kl": 3.0}]

    figure = curves(rows)

    assert drawn(figure, 0) == {"elbo": ([10], [-50]), "objective": ([10], [-60])}
    assert drawn(figure, 1) == {"kl": ([10], [3])}
    assert figure.axes[0].get_xlabel() == "step"


def test_an_objective_alone_is_drawn() -> None:
    figure = curves([{"epoch": 1, "objective": -50.0}, {"epoch": 2, "objective": -40.0}])

    assert drawn(figure) == {"objective": ([1, 2], [-50, -40])}
    assert [panel.get_title() for panel in figure.axes] == ["Objective"]


def test_bounds_alone_need_one_panel() -> None:
    assert len(curves([{"epoch": 1, "elbo": -50.0}]).axes) == 1


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "curves.png"
    save(curves([{"epoch": 1, "elbo": -50.0}]), path)
    before = path.read_bytes()

    broken = Figure()
    broken.text(0.5, 0.5, "$\\nonsense$")
    with pytest.raises(ValueError, match="nonsense"):
        save(broken, path)

    assert path.read_bytes() == before
    assert save(samples(torch.randn(2, 3)), str(path)) == path
    assert path.read_bytes() != before
    assert list(path.parent.iterdir()) == [path]


def test_no_draft_is_left_where_a_file_cannot_be_put(tmp_path: Path) -> None:
    (tmp_path / "page.png" / "full").mkdir(parents=True)

    with pytest.raises(OSError, match=r"page\.png"):
        save(Figure(), tmp_path / "page.png")

    assert [path.name for path in tmp_path.iterdir()] == ["page.png"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: samples(torch.randn(9, 1, 8, 8)),
        lambda: samples(torch.randn(9, 5)),
        lambda: samples(torch.randn(9, 99)),
        lambda: reconstructions(torch.randn(5, 5), torch.randn(5, 5)),
        lambda: latents(torch.randn(50, 5), torch.arange(50) + 1000),
        lambda: latents(torch.randn(50, 1)),
        lambda: curves(ROWS),
    ],
)
def test_nothing_is_cut_off(draw: Callable[[], Figure], tmp_path: Path) -> None:
    page = imread(save(draw(), tmp_path / "page.png"))[..., :3]

    for edge in (page[0], page[-1], page[:, 0], page[:, -1]):
        assert (edge == 1).all()


@pytest.mark.parametrize(
    "numbers, expected",
    [
        ((-31.2417, 0.021, 0.312), ["-31.24", "0.02", "0.31"]),
        ((-31.2417, 0.0996), ["-31.24", "0.10"]),
        ((-31.2417, 0.0994), ["-31.242", "0.099"]),
        ((12345.6, 312.0, 45.0), ["12346", "312", "45"]),
        ((1.23456, 0.0, 0.04), ["1.235", "0.000", "0.040"]),
        ((1.23456, 1e-7, 0.4), ["1.23", "1e-07", "0.40"]),
        ((1.23456, None, math.nan), ["1.235", "", ""]),
        ((1.23456, 0.0), ["1.235", "0"]),
        ((math.nan, 0.1), ["nan", "0.10"]),
        ((-math.inf, math.inf), ["-inf", "inf"]),
    ],
)
def test_digits_end_where_the_greatest_error_has_two(
    numbers: tuple[float, ...], expected: list[str]
) -> None:
    assert digits(*numbers) == expected


def test_rows_are_estimates() -> None:
    elbo = Estimate(-31.2417, 0.021, 0.312, unit="nats")
    share = Estimate(0.03125, math.nan, math.nan, unit="")

    rows = table({"elbo": elbo, "share": share}, title="test")

    assert [list(column.cells) for column in rows.columns] == [
        ["elbo", "share"],
        ["-31.24", "0.03125"],
        ["± 0.02", "–"],
        ["± 0.31", "–"],
        ["nats", ""],
    ]
    assert rows.title == "test"


@pytest.mark.parametrize("channels", [1, 3])
def test_missing_pixels_are_red_beside_whole_reconstructions(channels: int) -> None:
    x = torch.rand(1, channels, 5, 7)
    holed = x.clone()
    holed[0, -1, 2, 3] = math.nan

    figure = reconstructions(holed, x, (0, 1))
    expected = pixels(reconstructions(x, x, (0, 1)))
    expected[2, 3] = MISSING
    np.testing.assert_array_equal(pixels(figure), expected)
    assert figure.texts[0].get_text().startswith("Originals (above; red is missing)")
    # the scale is that of what is there
    np.testing.assert_allclose(
        pixels(reconstructions(holed, x))[6:], pixels(reconstructions(x, x))[6:]
    )


def test_missing_features_are_red_in_maps_and_have_no_points() -> None:
    x = torch.rand(3, 50)
    holed = x.clone()
    holed[1, 4] = math.nan

    maps = [axes.images[0] for axes in reconstructions(holed, x).axes[:2]]
    colors = [image.cmap(image.norm(image.get_array())) for image in maps]
    assert (np.abs(colors[0][1, 4] - [*MISSING, 1]) < 1e-6).all()
    colors[0][1, 4] = colors[1][1, 4]
    np.testing.assert_array_equal(*colors)
    assert reconstructions(holed, x).axes[0].get_title() == "Originals (red is missing)"
    assert reconstructions(x, x).axes[0].get_title() == "Originals"

    original, whole = reconstructions(holed[:, :9], x[:, :9]).axes[1].get_lines()
    assert np.isnan(original.get_ydata()).tolist() == [d == 4 for d in range(9)]
    assert np.isfinite(whole.get_ydata()).all()


X, Z = torch.zeros(2, 1, 8, 8), torch.zeros(2, 3)
BAD = torch.tensor([[0.0, math.nan, math.inf]])

ERRORS: list[tuple[str, Callable[[], object], str]] = [
    ("scalar", lambda: samples(torch.tensor(1.0)), r"images with shape \(N, \*\).*got \(\)"),
    ("empty", lambda: samples(X[:0]), r"N > 0, got \(0, 1, 8, 8\)"),
    ("not finite", lambda: samples(BAD), "finite images, got 2 of 3 values"),
    ("originals", lambda: reconstructions(BAD, BAD), "finite originals, got 1 of 3 .* infinite"),
    ("holes", lambda: reconstructions(Z, 0 / Z), "finite reconstructions, got 6 of 6 values NaN"),
    ("range", lambda: samples(X, (1, 0)), r"two finite numbers in order, got \(1, 0\)"),
    ("range of one value", lambda: samples(X, (1, 1)), r"in order, got \(1, 1\)"),
    ("range nan", lambda: reconstructions(X, X, (0, math.nan)), "two finite numbers in order"),
    ("range of lines", lambda: samples(Z, (1, 0)), "two finite numbers in order"),
    ("range of maps", lambda: reconstructions(X[:, 0, 0], X[:, 0, 0], (1, 0)), "in order"),
    ("shapes", lambda: reconstructions(X, X[:1]), r"\(2, 1, 8, 8\), got \(1, 1, 8, 8\)"),
    ("means", lambda: latents(X), r"means with shape \(N, D\), got \(2, 1, 8, 8\)"),
    ("names", lambda: latents(Z, names=["a"]), "3 names, one of each feature, got .'a'"),
    ("one mean", lambda: latents(Z[:1]), r"at least two data to project, .* \(1, 3\)"),
    ("labels", lambda: latents(Z, torch.zeros(3)), r"each of 2 data, got .*\(3,\)"),
    ("fractions", lambda: latents(Z, torch.full((2,), 0.5)), "whole number for each of 2 data"),
    ("few classes", lambda: latents(Z, torch.tensor([0, 2]), ["a", "b"]), "0 to 1, .* got 0 to 2"),
    ("negative", lambda: latents(Z, torch.tensor([-1, 1]), ["a", "b"]), "got -1 to 1"),
    ("no rows", lambda: curves([]), "'elbo' or 'objective', .* got 0 rows"),
    (
        "no bound",
        lambda: curves([{"epoch": 1, "loss": 3.0}]),
        r"1 rows with keys \['epoch', 'loss'\]",
    ),
    ("no epoch", lambda: curves([{"elbo": 3.0}]), "'epoch' or 'step'"),
    ("format", lambda: save(Figure(), "page.pdf"), r"ends in \.png, got 'page\.pdf'"),
]


@pytest.mark.parametrize("name, call, match", ERRORS, ids=[name for name, *_ in ERRORS])
def test_errors(name: str, call: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_tensors_are_drawn() -> None:
    x = torch.rand(4, 1, 8, 8, device="cuda")

    np.testing.assert_array_equal(pixels(samples(x)), pixels(samples(x.cpu())))
