r"""What EM asks of a family of components."""

__all__ = ["Family", "Kernel", "Sums"]

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

# the number of data in each component, then their sufficient statistics, summed
Sums = tuple[Tensor, ...]
C = TypeVar("C")


class Kernel(ABC):
    r"""Components in the numbers of the data, made ready for a pass over blocks of them."""

    @abstractmethod
    def features(self, x: Tensor) -> Any:
        r"""What density and statistics are computed from, for data with shape :math:`(B, D)`."""

    @abstractmethod
    def log_density(self, features: Any) -> Tensor:
        r"""The log density of each datum in each component, with shape :math:`(K, B)`."""

    @abstractmethod
    def statistics(self, features: Any, r: Tensor) -> Sums:
        r"""Statistics summed with weights :math:`r` with shape :math:`(K, B)`."""

    def collect(self, sums: Sums) -> Sums | None:
        r"""Sums over all blocks as :meth:`Family.maximize` takes them; ``None``: too inexact."""
        return sums


class Family(ABC, Generic[C]):
    r"""A family of densities, of which EM fits a mixture; its components are a ``C``.

    Sums and components are in double precision, whatever the data are in.
    """

    @abstractmethod
    def width(self, components: int, features: int) -> int:
        r"""How many numbers a kernel holds of a datum at once."""

    @abstractmethod
    def kernel(self, components: C, dtype: torch.dtype, exact: bool = False) -> Kernel:
        r"""The components, ready for data of that type; ``exact``: whatever the time it takes."""

    @abstractmethod
    def maximize(self, sums: Sums, components: C) -> C:
        r"""The components at which the expected log density, with the prior's, is largest.

        Arguments:
            sums: What a kernel of ``components`` has collected.
            components: Those that the responsibilities were computed with.
        """

    @abstractmethod
    def log_prior(self, components: C) -> Tensor:
        r"""The log density of the components under their prior, in units of the data.

        A prior that is flat adds nothing.
        """

    @abstractmethod
    def blank(self, number: int) -> C:
        r"""Components that say nothing, for the first statistics to be taken about."""

    @abstractmethod
    def seeded(self, points: Tensor) -> C:
        r"""A broad component at each of the points with shape :math:`(K, D)`."""

    @abstractmethod
    def replaced(self, components: C, seeds: C, which: Tensor) -> C:
        r"""The components, of which those at ``which`` are the seeds, in their order."""

    @abstractmethod
    def expected(self, components: C, weights: Tensor) -> Sums:
        r"""The sums that a single datum of the mixture is expected to have."""

    @abstractmethod
    def recentred(self, sums: Sums, old: C, new: C) -> Sums:
        r"""Sums that are about ``old``, about ``new`` instead."""

    @abstractmethod
    def sample(
        self, components: C, counts: np.ndarray, random: np.random.RandomState
    ) -> np.ndarray:
        r"""Draws ``counts[k]`` data of component :math:`k`, one component after the other."""
