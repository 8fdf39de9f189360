r"""What collapsed Gibbs sampling asks of a family of components."""

__all__ = ["Array", "Conjugate", "Numbers", "as_data", "fits", "numbers", "pair"]

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Numbers = float | Sequence[float] | Array


class Conjugate(ABC):
    r"""A family of densities under a conjugate prior, of which parameters are integrated out.

    All a cluster need tell of its data is how many they are and the sum of their statistics.
    """

    @abstractmethod
    def check(self, x: Array) -> None:
        r"""Raises unless these are data of the family, finite and with shape :math:`(N, D)`."""

    @abstractmethod
    def statistics(self, x: Array) -> Array:
        r"""The statistics of data with shape :math:`(N, D)`, with shape :math:`(N, F)`."""

    @abstractmethod
    def predictive(self, counts: Array, sums: Array) -> tuple[Array, ...]:
        r"""What the density of a further datum of a cluster depends on.

        Arguments:
            counts: The number of data of each cluster, with shape :math:`(*)`.
            sums: Of their statistics, with shape :math:`(*, F)`.

        Returns:
            Arrays whose shapes begin with :math:`(*)`.
        """

    @abstractmethod
    def log_density(self, x: Array, predictive: tuple[Array, ...]) -> Array:
        r"""The log density of one datum with shape :math:`(D)` in each cluster, :math:`(*)`."""


def numbers(name: str, value: Any, positive: bool = False, ndim: int = 1) -> Array:
    r"""A number, or an array of at most ``ndim`` dimensions, that are finite.

    Raises:
        ValueError: If they are not, or not positive where they should be.
    """
    found = np.asarray(value, dtype=np.float64)
    if found.ndim > ndim:
        raise ValueError(
            f"expected {name} with at most {ndim} dimensions, got shape {found.shape}: give a "
            "number for each feature, or one for all"
        )
    valid = np.isfinite(found) & ((found > 0) | (not positive))
    if not valid.all():
        words = "positive and finite" if positive else "finite"
        raise ValueError(f"expected {name} to be {words}, got {found[~valid][0]:g}")
    return found


def pair(name: str, value: Any) -> tuple[float, float]:
    r"""Two positive numbers, or one twice.

    Raises:
        ValueError: If they are not.
    """
    found = numbers(name, value, positive=True)
    if found.shape not in ((), (2,)):
        raise ValueError(f"expected {name} to be a positive number or two, got {value!r}")
    first, second = np.broadcast_to(found, 2).tolist()
    return first, second


def fits(name: str, value: Array, x: Array) -> None:
    r"""Raises unless there is a number for each feature of the data, or one for all."""
    if value.shape not in ((), x.shape[1:]):
        raise ValueError(
            f"expected {name} to be a number or {x.shape[1]} of them, one for each feature of the "
            f"data, got shape {value.shape}"
        )


def as_data(x: Any, words: str = "data") -> Array:
    r"""The data, or points that are called otherwise, as an array.

    Raises:
        ValueError: If they are not finite or of another shape than :math:`(N, D)`.
    """
    data = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, dtype=np.float64)
    if data.ndim != 2 or min(data.shape) < 1:
        raise ValueError(
            f"expected {words} with shape (N, D), got {data.shape}: single numbers are x[:, None]"
        )
    if bad := np.count_nonzero(~np.isfinite(data)):
        raise ValueError(
            f"expected finite {words}, got {bad} of {data.size} values NaN or infinite"
        )
    return data
