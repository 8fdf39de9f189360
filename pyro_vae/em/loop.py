r"""The iterations of EM, whatever the family."""

__all__ = ["Fitted", "Mixed", "iterate", "mixed"]

import math
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from pyro_vae.em.expectation import Expectation, expect, joint_densities
from pyro_vae.em.family import Family
from pyro_vae.em.rows import Rows

C = TypeVar("C")


class Mixed(NamedTuple, Generic[C]):
    r"""A mixture.

    Arguments:
        weights: The weights of the components, with shape :math:`(K)`.
        components: The components.
    """

    weights: Tensor
    components: C


class Fitted(NamedTuple, Generic[C]):
    r"""What the iterations arrive at.

    Arguments:
        mixture: The mixture.
        objective: The last E-step's mean log density of a datum, with the prior's share.
        history: That of each iteration.
        converged: Whether it changed less than it must.
        reseeded: The iterations, from 0 on, whose M-step began components anew.
    """

    mixture: Mixed[C]
    objective: float
    history: list[float]
    converged: bool
    reseeded: list[int]


def iterate(
    family: Family[C],
    start: Mixed[C],
    rows: Rows,
    *,
    concentration: float = 1.0,
    tol: float = 1e-3,
    max_iter: int = 100,
    before: float = -torch.inf,
    report: Callable[[float], object] = lambda objective: None,
) -> Fitted[C]:
    r"""Runs EM until the objective changes by less than ``tol``.

    .. math::
        \frac{1}{N} \left[ \sum_{n=1}^N \log \sum_{k=1}^K \pi_k \, p(x_n \mid \theta_k)
            + \log p(\pi) + \log p(\theta) \right]

    Priors are densities in units of the data, with their constants; those that are flat add
    nothing.

    Arguments:
        family: The family of the components.
        start: Where it begins.
        rows: The data.
        concentration: The :math:`\alpha` of the weights' prior, a symmetric Dirichlet.
        tol: The change at which it ends.
        max_iter: The most iterations.
        before: The objective of an iteration before the first, if there was one.
        report: What is told each iteration's objective.

    References:
        | Maximum Likelihood from Incomplete Data via the EM Algorithm (Dempster et al., 1977)
        | https://doi.org/10.1111/j.2517-6161.1977.tb01600.x
    """
    mixture, history, reseeded = start, list[float](), list[int]()
    left = len(start.weights)  # how many may begin anew: a component without data would for ever
    for iteration in range(max_iter):
        found = expect(family, mixture.components, mixture.weights, rows)
        history.append(_objective(family, mixture, found, concentration))
        report(history[-1])
        empty = (found.sums[0] < _EMPTY).nonzero()[:left, 0]
        previous, mixture = mixture, mixed(family, found, mixture.components, concentration)
        if len(empty):
            left -= len(empty)
            reseeded.append(iteration)
            mixture = _reseeded(family, mixture, previous, empty, rows)
        elif abs(history[-1] - before) < tol:
            return Fitted(mixture, history[-1], history, True, reseeded)
        before = history[-1]
    objective = history[-1] if history else -torch.inf
    return Fitted(mixture, objective, history, False, reseeded)


def mixed(
    family: Family[C], found: Expectation, components: C, concentration: float = 1.0
) -> Mixed[C]:
    r"""The M-step of weights and components."""
    counts = found.sums[0] + (concentration - 1)
    return Mixed(counts / counts.sum(), family.maximize(found.sums, components))


def _objective(
    family: Family[C], mixture: Mixed[C], found: Expectation, concentration: float
) -> float:
    total = found.log_likelihood + family.log_prior(mixture.components)
    if concentration > 1:
        K = len(mixture.weights)
        total = total + (concentration - 1) * mixture.weights.log().sum()
        total = total + math.lgamma(K * concentration) - K * math.lgamma(concentration)
    return float(total / found.sums[0].sum())


def _reseeded(
    family: Family[C], mixture: Mixed[C], explaining: Mixed[C], empty: Tensor, rows: Rows
) -> Mixed[C]:
    r"""A mixture whose empty components begin anew, at the data that are explained worst."""
    points = worst(family, explaining, rows, len(empty))
    empty = empty[: len(points)]
    components = family.replaced(mixture.components, family.seeded(points), empty)
    weights = mixture.weights.clone()
    weights[empty] = 1 / len(weights)
    return Mixed(weights / weights.sum(), components)


def worst(family: Family[C], mixture: Mixed[C], rows: Rows, number: int) -> Tensor:
    r"""The data of least density, with shape :math:`(M, D)`, where :math:`M` data are there."""
    points = densities = torch.empty(0)
    for x, joint in joint_densities(family, mixture.components, mixture.weights, rows):
        found = joint.logsumexp(0)
        if len(points):
            x, found = torch.cat([points, x]), torch.cat([densities, found])
        densities, index = found.topk(min(number, len(found)), largest=False)
        points = x[index]
    return points


_EMPTY = 1e-6  # data: what has less than a millionth of one is not held by any
