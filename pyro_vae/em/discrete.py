r"""Families whose log density is linear in one statistic, whose mean is their parameter."""

__all__ = ["DiscreteFamily", "DiscreteMixture", "Linear", "each_count"]

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.em.family import Family, Kernel, Sums
from pyro_vae.em.loop import Mixed
from pyro_vae.em.mixture import Mixture, given
from pyro_vae.em.rows import Rows
from pyro_vae.em.survey import Survey, check_finite


class Linear(NamedTuple):
    r"""Log densities that are linear in a statistic :math:`\phi`, where they are finite.

    Arguments:
        slopes: With shape :math:`(K, F)`.
        constants: With shape :math:`(K)`.
        excluding: How often a component excludes a datum is linear, too: slopes :math:`(K, F)`.
        excluded: The constants of that, with shape :math:`(K)`.
    """

    slopes: Tensor
    constants: Tensor
    excluding: Tensor
    excluded: Tensor


class Features(NamedTuple):
    r"""Data, and their statistic with shape :math:`(B, F)`."""

    x: Tensor
    phi: Tensor


class DiscreteFamily(Family[Tensor]):
    r"""A family of which a component is the mean of a statistic, with shape :math:`(F)`.

    Arguments:
        average: The mean of the statistic over all data, with shape :math:`(F)`.
    """

    def __init__(self, average: Tensor) -> None:
        self.average = average

    @abstractmethod
    def statistic(self, x: Tensor) -> Tensor:
        r"""The statistic :math:`\phi` of data, with shape :math:`(B, F)`."""

    @abstractmethod
    def linear(self, means: Tensor) -> Linear:
        r"""Log densities, but for their :meth:`base`."""

    @abstractmethod
    def base(self, x: Tensor) -> Tensor | None:
        r"""The part of a log density that is no component's, with shape :math:`(B)`."""

    @abstractmethod
    def posterior(self, counts: Tensor, sums: Tensor) -> Tensor:
        r"""The most probable means, for sums of the statistic with shape :math:`(K, F)`."""

    @abstractmethod
    def draw(self, mean: np.ndarray, count: int, random: np.random.RandomState) -> np.ndarray:
        r"""Draws data of one component, with shape :math:`(N, D)`."""

    def width(self, components: int, features: int) -> int:
        return len(self.average) + features

    def kernel(self, components: Tensor, dtype: torch.dtype, exact: bool = False) -> Kernel:
        return LinearKernel(self, self.linear(components), dtype)

    def maximize(self, sums: Sums, components: Tensor) -> Tensor:
        return self.posterior(*sums)

    def blank(self, number: int) -> Tensor:
        return self.average.repeat(number, 1)

    def seeded(self, points: Tensor) -> Tensor:
        # a datum alone would exclude nearly all others
        sums = self.statistic(points.double()) + self.average
        return self.posterior(sums.new_full((len(points),), 2.0), sums)

    def replaced(self, components: Tensor, seeds: Tensor, which: Tensor) -> Tensor:
        changed = components.clone()
        changed[which] = seeds
        return changed

    def expected(self, components: Tensor, weights: Tensor) -> Sums:
        return weights, weights[:, None] * components

    def recentred(self, sums: Sums, old: Tensor, new: Tensor) -> Sums:
        return sums

    def sample(
        self, components: Tensor, counts: np.ndarray, random: np.random.RandomState
    ) -> np.ndarray:
        means = components.cpu().numpy()
        return np.concatenate(
            [self.draw(mean, int(n), random) for mean, n in zip(means, counts, strict=True)]
        )


class LinearKernel(Kernel):
    r"""Densities and sums by a product of matrices each, and one more where data are excluded.

    Arguments:
        family: Whose statistic and base are taken.
        linear: The components, in double precision.
        dtype: The type of the data.
    """

    def __init__(self, family: DiscreteFamily, linear: Linear, dtype: torch.dtype) -> None:
        self.family = family
        self.slopes, self.constants = linear.slopes.to(dtype), linear.constants.to(dtype)[:, None]
        self.excluding: Tensor | None = None
        if linear.excluding.any():
            self.excluding = linear.excluding.to(dtype)
            self.excluded = linear.excluded.to(dtype)[:, None]

    def features(self, x: Tensor) -> Features:
        return Features(x, self.family.statistic(x))

    def log_density(self, features: Features) -> Tensor:
        x, phi = features
        density = torch.addmm(self.constants, self.slopes, phi.T)
        if self.excluding is not None:
            times = torch.addmm(self.excluded, self.excluding, phi.T)
            density.masked_fill_(times > 0.5, -torch.inf)
        base = self.family.base(x)
        return density if base is None else density.add_(base)

    def statistics(self, features: Features, r: Tensor) -> Sums:
        return r.sum(1).double(), (r @ features.phi).double()


class DiscreteMixture(Mixture):
    r"""A mixture of such components; its parameter is an array by the name of ``_parameter``."""

    _parameter: ClassVar[str]

    @abstractmethod
    def _support(self) -> tuple[float, str]:
        r"""The largest number that data can be, and what they are, in words."""

    @abstractmethod
    def _parameter_shape(self, features: int) -> tuple[int, ...]:
        r"""The shape of the parameter of one component."""

    @abstractmethod
    def _of(self, average: Tensor) -> DiscreteFamily:
        r"""The family of the components, for data with that mean statistic."""

    @abstractmethod
    def _check_parameter(self, value: np.ndarray) -> None:
        r"""Raises if a parameter that the user gave is none."""

    def _check_block(self, x: Tensor) -> None:
        check_finite(x)
        most, words = self._support()
        wrong = (x < 0) | (x > most) | (x != x.round())
        if wrong.any():
            raise ValueError(
                f"expected {words}, got {x[wrong][0].item():g}: convert the data, or take "
                "Gaussian components"
            )

    def _family(self, found: Survey, rows: Rows) -> DiscreteFamily:
        return self._of(found.mean)

    def _given(self, family: DiscreteFamily, components: Tensor, rows: Rows) -> Tensor:
        name = f"{self._parameter}_init"
        value = getattr(self, name)
        if value is None:
            return components
        array = given(name, value, (self.n_components, *self._parameter_shape(rows.features)))
        self._check_parameter(array)
        return self._inner(torch.from_numpy(array).to(rows.device))

    def _keep(self, family: DiscreteFamily, mixture: Mixed[Tensor]) -> None:
        self.weights_ = mixture.weights.cpu().numpy()
        means = self._outer(mixture.components)
        setattr(self, f"{self._parameter}_", means.cpu().numpy())

    def _read(self, family: DiscreteFamily, device: torch.device) -> Mixed[Tensor]:
        weights = torch.from_numpy(np.asarray(self.weights_, dtype=np.float64))
        parameter = np.asarray(getattr(self, f"{self._parameter}_"), dtype=np.float64)
        return Mixed(weights.to(device), self._inner(torch.from_numpy(parameter).to(device)))

    def _restored(
        self, device: torch.device, dtype: torch.dtype
    ) -> tuple[DiscreteFamily, Mixed[Tensor]]:
        mixture = self._read(None, device)  # type: ignore[arg-type]
        family = self._of(mixture.weights @ mixture.components)
        return family, mixture

    def _inner(self, parameter: Tensor) -> Tensor:
        r"""The mean statistics, with shape :math:`(K, F)`, for a parameter."""
        return parameter

    def _outer(self, means: Tensor) -> Tensor:
        r"""The parameter, for mean statistics."""
        return means

    def _n_parameters(self) -> int:
        return getattr(self, f"{self._parameter}_").size + self.n_components - 1


def each_count(function: Callable[[Tensor], Tensor], x: Tensor, most: int) -> Tensor:
    r"""A function of whole numbers, which is looked up where they are fewer than entries.

    Arguments:
        function: A function of each entry, in double precision.
        x: Whole numbers from 0 on.
        most: The largest that is possible.
    """
    if most >= x.numel():
        return function(x.double())
    table = function(torch.arange(most + 1, dtype=torch.float64, device=x.device))
    return table.take(x.long())  # of the logarithm of a factorial, a tenth of the time
