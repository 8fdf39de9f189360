r"""Where EM begins."""

__all__ = ["Initialization", "begin"]

from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
import torch
from sklearn.cluster import KMeans, kmeans_plusplus
from torch import Tensor

from pyro_vae.em.expectation import Expectation
from pyro_vae.em.family import Family, Sums
from pyro_vae.em.loop import Mixed, mixed
from pyro_vae.em.rows import Block, Rows, Table

C = TypeVar("C")
Initialization = Literal["kmeans", "k-means++", "random", "random_from_data"]


def begin(
    family: Family[C],
    rows: Rows,
    components: int,
    how: Initialization,
    random: np.random.RandomState,
) -> Mixed[C]:
    r"""The mixture that EM begins with.

    With ``"kmeans"`` and ``"random"`` it is the M-step of clusters, or of responsibilities that
    are drawn at random; otherwise broad components lie at data that are chosen, with equal weights.

    Arguments:
        family: The family of the components.
        rows: The data, of which clusters and choices see 65,536 at random, if there are more.
        components: The number of components :math:`K`.
        how: What is done.
        random: What is drawn from.
    """
    if how == "random":
        blank = family.blank(components)
        return _maximized(family, rows, blank, lambda start, x: _drawn(x, components, random))
    x, weights = some = _complete(rows.some(_SOME, random))
    if how == "kmeans":
        labels = _labels(some, components, random)
        table = Table(x, None if weights is None else _array(weights), rows.dtype, rows.device)
        assigned = lambda start, x: labels[:, start : start + len(x)].to(x)  # noqa: E731
        first = _maximized(family, table, family.blank(components), assigned)
        return _maximized(family, table, first.components, assigned)  # about the means themselves
    index = _chosen(some, components, how, random)
    equal = torch.full((components,), 1 / components, dtype=torch.float64, device=rows.device)
    return Mixed(equal, family.seeded(x[torch.from_numpy(index)]))


def _labels(some: Block, components: int, random: np.random.RandomState) -> Tensor:
    x, weights = some
    clusters = KMeans(components, n_init=1, random_state=random)
    clusters.fit(_array(x), sample_weight=None if weights is None else _array(weights))
    return torch.eye(components)[torch.from_numpy(clusters.labels_).long()].T


def _chosen(
    some: Block, components: int, how: Initialization, random: np.random.RandomState
) -> np.ndarray:
    weights = None if some.weights is None else _array(some.weights).astype(np.float64)
    if how == "k-means++":
        return kmeans_plusplus(
            _array(some.x), components, sample_weight=weights, random_state=random
        )[1]
    p = None if weights is None else weights / weights.sum()
    return random.choice(len(some.x), components, replace=False, p=p)


def _maximized(
    family: Family[C], rows: Rows, about: C, responsible: Callable[[int, Tensor], Tensor]
) -> Mixed[C]:
    r"""The M-step of responsibilities that are a function of the place and the data."""
    kernel, start = family.kernel(about, rows.dtype, exact=True), 0
    sums: Sums = ()
    for x, weights in rows.blocks(_BLOCK):
        r = responsible(start, x)
        start += len(x)
        r = r if weights is None else r * weights
        found = kernel.statistics(kernel.features(x), r)
        sums = tuple(map(torch.add, sums, found)) if sums else found
    collected = kernel.collect(sums)
    assert collected is not None, "an exact kernel collects"
    return mixed(family, Expectation(collected, collected[0].sum()), about)


def _drawn(x: Tensor, components: int, random: np.random.RandomState) -> Tensor:
    r = torch.from_numpy(random.uniform(size=(len(x), components))).to(x)
    return (r / r.sum(1, keepdim=True)).T


def _complete(block: Block) -> Block:
    r"""Rows whose missing entries are the means of those that are there."""
    x, weights = block
    missing = x.isnan()
    if not missing.any():
        return block
    return Block(torch.where(missing, x.nanmean(0).nan_to_num(), x), weights)


def _array(x: Tensor) -> np.ndarray:
    return x.cpu().numpy()


_SOME = 65_536
_BLOCK = 1024
