r"""The picture of who belongs to whom, read back cell by cell."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyro_vae.report import co_clustering, save


def drawn(figure: Figure) -> np.ndarray:
    return np.asarray(figure.axes[0].images[0].get_array())


def test_clusters_are_blocks_in_the_order_of_the_data() -> None:
    labels = np.array([2, 0, 1, 1, 0, 2, 2, 0])
    near = (labels[:, None] != 1) & (labels != 1)
    P = (labels[:, None] == labels) * 0.8 + near * 0.05 + 0.1
    order = [0, 5, 6, 1, 4, 7, 2, 3]  # the clusters of data 0, 1 and 2

    figure = co_clustering(P)
    np.testing.assert_array_equal(drawn(figure), P[np.ix_(order, order)])
    assert figure.axes[0].images[0].get_clim() == (0, 1)
    assert figure.axes[0].get_title() == "How often two data are in one cluster"


def test_sorted_data_stay_sorted() -> None:
    r"""Also where what is near is together more often, without any clear cluster."""
    n = np.arange(30)
    P = np.exp(-np.abs(n[:, None] - n) / 7)
    np.testing.assert_array_equal(drawn(co_clustering(P)), P)


def test_tensors_are_drawn_as_arrays_are() -> None:
    P = torch.rand(9, 9).round(decimals=2)
    P = (P + P.T) / 2
    np.testing.assert_array_equal(
        drawn(co_clustering(P.requires_grad_())), drawn(co_clustering(P.detach().numpy()))
    )
    assert sorted(drawn(co_clustering(P)).ravel()) == sorted(P.detach().ravel().tolist())


def test_a_single_datum_is_drawn(tmp_path: object) -> None:
    figure = co_clustering(np.ones((1, 1)), title="One")
    assert drawn(figure).tolist() == [[1]]
    assert save(figure, f"{tmp_path}/one.png").exists()


@pytest.mark.parametrize("size", [1, 3, 200])
def test_ticks_are_at_data(size: int) -> None:
    panel = co_clustering(np.eye(size)).axes[0]
    for ticks in (panel.get_xticks(), panel.get_yticks()):
        np.testing.assert_array_equal(ticks, ticks.round())


ERRORS: list[tuple[Callable[[], object], str]] = [
    (lambda: co_clustering(np.ones((2, 3))), r"shape \(N, N\), got \(2, 3\)"),
    (lambda: co_clustering(np.ones(4)), r"shape \(N, N\), got \(4,\)"),
    (lambda: co_clustering(2 * np.ones((2, 2))), "values from 2 to 2"),
    (lambda: co_clustering(-np.ones((2, 2))), "values from -1 to -1"),
    (lambda: co_clustering(np.triu(np.ones((2, 2)))), "the transpose by up to 1"),
    (lambda: co_clustering(np.full((2, 2), np.nan)), "4 of 4 values NaN"),
]


@pytest.mark.parametrize("call, match", ERRORS)
def test_errors(call: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
