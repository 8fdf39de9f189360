r"""How well clusters that were found without labels agree with these."""

__all__ = ["clustering_accuracy"]

from typing import Any

import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pyro_vae.evaluation.estimate import Estimate


def clustering_accuracy(labels: Tensor | NDArray[Any], clusters: Tensor | NDArray[Any]) -> Estimate:
    r"""The share of data whose cluster is their class, under the best one-to-one matching.

    .. math:: \max_{m} \frac{1}{N} \sum_{n=1}^N [\, m(c_n) = y_n \,]

    where :math:`m` gives each cluster a class that no other cluster has, or none. Of more
    clusters than classes, some count as wrong altogether; so do classes without a cluster.
    The data choose the matching, so that a few data look better than many.

    Arguments:
        labels: The classes :math:`y_n`, integers with shape :math:`(N)`.
        clusters: The clusters :math:`c_n`, integers with shape :math:`(N)`, in any order.

    Returns:
        The accuracy, from 0 to 1; ``per_datum`` says which data are matched.

    Raises:
        TypeError: If one holds other than integers.
        ValueError: If their shapes differ, or are not :math:`(N)` with at least one datum.

    References:
        | Document Clustering Based on Non-negative Matrix Factorization (Xu et al., 2003)
        | https://doi.org/10.1145/860435.860485

    Example:
        >>> labels, clusters = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([7, 7, 3, 3, 7])
        >>> print(f"{clustering_accuracy(labels, clusters):.1f}")
        0.8
    """
    y, c = (torch.as_tensor(given).cpu() for given in (labels, clusters))
    for name, given in (("labels", y), ("clusters", c)):
        if given.is_floating_point() or given.is_complex():
            raise TypeError(f"expected {name} to be integers, got {given.dtype}: take an argmax")
    if y.shape != c.shape or y.dim() != 1 or not len(y):
        raise ValueError(
            f"expected labels and clusters of one shape (N,) with N of at least 1, got "
            f"{tuple(y.shape)} and {tuple(c.shape)}: give each datum one of both"
        )
    classes, y = y.unique(return_inverse=True)
    found, c = c.unique(return_inverse=True)
    counts = (c * len(classes) + y).bincount(minlength=len(found) * len(classes))
    pairs = linear_sum_assignment(counts.view(len(found), -1), maximize=True)
    matched = torch.full((len(found),), -1)
    matched[pairs[0]] = torch.from_numpy(pairs[1])
    return Estimate.of((matched[c] == y).double(), 0.0, "of the data")
