r"""The accuracy of a clustering, against a search through all matchings."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_vae.evaluation import clustering_accuracy


def best(labels: Tensor, clusters: Tensor, classes: int, found: int) -> float:
    r"""The greatest share of matched data, over all injections of the smaller set."""
    most = max(classes, found)
    shares = []
    for matching in permutations(range(most)):
        matched = torch.tensor(matching)[clusters]
        shares.append((matched == labels).double().mean().item())
    return max(shares)


@pytest.mark.parametrize("size", [1, 2, 9, 40])
@pytest.mark.parametrize("classes, found", [(4, 4), (3, 5), (5, 3), (1, 4), (4, 1)])
def test_accuracy_is_that_of_the_best_matching(size: int, classes: int, found: int) -> None:
    for _ in range(5):
        labels, clusters = torch.randint(classes, (size,)), torch.randint(found, (size,))
        accuracy = clustering_accuracy(labels, clusters)
        assert float(accuracy) == pytest.approx(best(labels, clusters, classes, found), abs=1e-12)


def test_a_greedy_matching_would_be_worse() -> None:
    r"""Cluster 0 is mostly class 0, but cluster 1 can be nothing else: 5 + 4 of 15, not 6 + 0."""
    counts = torch.tensor([[6, 5], [4, 0]])
    clusters = torch.arange(2).repeat_interleave(counts.sum(1))
    labels = torch.arange(2).repeat(2).repeat_interleave(counts.flatten())
    accuracy = clustering_accuracy(labels, clusters)
    assert float(accuracy) == pytest.approx(9 / 15)
    assert accuracy.per_datum.tolist() == [0.0] * 6 + [1.0] * 9
    assert accuracy.stderr == 0.0
    assert accuracy.data_stderr == pytest.approx(accuracy.per_datum.std().item() / 15**0.5)


def test_names_of_clusters_and_classes_do_not_matter() -> None:
    labels = torch.tensor([3, 3, -1, -1, 700])
    for clusters in ([9, 9, 4, 4, -5], [0, 0, 1, 1, 2]):
        assert float(clustering_accuracy(labels, np.array(clusters))) == 1.0


@pytest.mark.parametrize(
    ("labels", "clusters", "error", "match"),
    [
        (
            torch.zeros(3),
            torch.zeros(3).long(),
            TypeError,
            "labels to be integers, got",
        ),
        (torch.zeros(3).long(), np.zeros(3), TypeError, "clusters to be integers, .*an argmax"),
        (torch.zeros(3).long(), torch.zeros(4).long(), ValueError, r"got \(3,\) and \(4,\)"),
        (torch.zeros(3, 1).long(), torch.zeros(3, 1).long(), ValueError, r"one shape \(N,\)"),
        (torch.zeros(0).long(), torch.zeros(0).long(), ValueError, "N of at least 1"),
    ],
)
def test_refused(labels: Any, clusters: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        clustering_accuracy(labels, clusters)
