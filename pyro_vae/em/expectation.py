r"""One pass over the data: densities, responsibilities, and sums of sufficient statistics."""

__all__ = ["Expectation", "expect", "joint_densities", "passed", "responsibilities"]

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from pyro_vae.em.family import Family, Sums
from pyro_vae.em.parallel import in_order
from pyro_vae.em.rows import Block, Rows

C = TypeVar("C")
R = TypeVar("R")


class Expectation(NamedTuple):
    r"""What an E-step finds.

    Arguments:
        sums: Sums of statistics, in double precision, as the family's M-step takes them.
        log_likelihood: The log density of all data.
    """

    sums: Sums
    log_likelihood: Tensor


def expect(
    family: Family[C], components: C, weights: Tensor, rows: Rows, exact: bool = False
) -> Expectation:
    r"""The E-step of a mixture with those weights.

    .. math::
        r_{nk} = \frac{\pi_k \, p(x_n \mid k)}{\sum_j \pi_j \, p(x_n \mid j)}, \qquad
        S_k = \sum_n r_{nk} \, \phi(x_n)

    Arguments:
        family: The family of the components.
        components: The components.
        weights: The weights :math:`\pi`, with shape :math:`(K)`.
        rows: The data.
        exact: Whether no digits are given away for time.
    """
    kernel = family.kernel(components, rows.dtype, exact)
    log_weights = weights.log().to(rows.dtype)[:, None]

    def step(block: Block) -> tuple[Sums, Tensor]:
        features = kernel.features(block.x)
        log_p, r = responsibilities(kernel.log_density(features).add_(log_weights))
        log_p = log_p.double()
        if block.weights is not None:
            r *= block.weights
            log_p *= block.weights
        return kernel.statistics(features, r), log_p.sum()

    sums, log_likelihood = total(passed(family, len(weights), rows, step))
    collected = kernel.collect(sums)
    if collected is None:
        return expect(family, components, weights, rows, exact=True)
    return Expectation(collected, log_likelihood)


def total(parts: Iterator[tuple[Sums, Tensor]]) -> tuple[Sums, Tensor]:
    r"""The sum of all parts."""
    sums, value = next(parts)
    for more, other in parts:
        for entry, addend in zip(sums, more, strict=True):
            entry += addend
        value += other
    return sums, value


def joint_densities(
    family: Family[C],
    components: C,
    weights: Tensor,
    rows: Rows,
    check: Callable[[Tensor], None] = lambda x: None,
) -> Iterator[tuple[Tensor, Tensor]]:
    r"""Blocks of data, and their joint log densities with components, :math:`(K, B)`.

    Arguments:
        family: The family of the components.
        components: The components.
        weights: Their weights, with shape :math:`(K)`.
        rows: The data.
        check: Raises if a block is not as it should be.
    """
    kernel = family.kernel(components, rows.dtype)
    log_weights = weights.log().to(rows.dtype)[:, None]

    def step(block: Block) -> tuple[Tensor, Tensor]:
        check(block.x)
        return block.x, kernel.log_density(kernel.features(block.x)).add_(log_weights)

    return passed(family, len(weights), rows, step)


def passed(
    family: Family[C], components: int, rows: Rows, step: Callable[[Block], R]
) -> Iterator[R]:
    r"""Runs a step on all blocks, of a size at which what it computes stays in the cache."""
    width = family.width(components, rows.features)
    rows_held = _BYTES // (rows.dtype.itemsize * (width + components))
    size = max(_LEAST, min(_MOST, 2 ** rows_held.bit_length() // 2))
    if rows.device.type != "cpu":
        return map(step, rows.blocks(size * _DEVICE))
    work = getattr(rows, "count", _MOST * _MOST) * width * components
    return in_order(step, rows.blocks(size), work)


def responsibilities(joint: Tensor) -> tuple[Tensor, Tensor]:
    r"""Log densities of data, and the probabilities of the components, which replace ``joint``.

    Arguments:
        joint: Joint log densities, with shape :math:`(K, B)`.
    """
    # of a datum that is impossible the probabilities are zero, instead of NaN
    most = joint.amax(0).clamp_(min=torch.finfo(joint.dtype).min)
    # and of one that is all but impossible, zero: numbers below the normal ones take ten times
    # as long, here and in the products that follow
    least = 0.8 * math.log(torch.finfo(joint.dtype).tiny)
    # powers of two take a third of the time of those of e, and zeros no more than others
    torch.threshold_(joint.sub_(most), least, -torch.inf).mul_(1 / math.log(2)).exp2_()
    sums = joint.sum(0)
    joint.div_(sums.clamp(min=torch.finfo(joint.dtype).tiny))
    return sums.log_().add_(most), joint


_BYTES = 2**22  # of a block: some of it stays in a core's own cache, the rest in that of all
_LEAST, _MOST = 256, 4096
_DEVICE = 64  # times as many data for a device that runs thousands of threads
