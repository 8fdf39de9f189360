r"""Mixtures of categorical components."""

__all__ = ["CategoricalMixture"]

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vae.counts import check_counts
from pyro_vae.em.discrete import DiscreteFamily, DiscreteMixture, Linear
from pyro_vae.em.initialization import Initialization
from pyro_vae.em.mixture import check_number
from pyro_vae.em.rows import Rows
from pyro_vae.em.survey import Survey


class CategoricalFamily(DiscreteFamily):
    r"""Independent categorical features, of which a component is all probabilities, in a row.

    Arguments:
        average: Probabilities for all data, with shape :math:`(D C)`.
        categories: The number of categories :math:`C` of each feature.
        concentration: The :math:`\beta` of their symmetric Dirichlet prior.
    """

    def __init__(self, average: Tensor, categories: int, concentration: float) -> None:
        super().__init__(average)
        self.categories, self.concentration = categories, concentration

    def statistic(self, x: Tensor) -> Tensor:
        return F.one_hot(x.long(), self.categories).flatten(1).to(x.dtype)

    def linear(self, means: Tensor) -> Linear:
        never = means == 0
        slopes = torch.where(never, 1.0, means).log()
        zeros = means.new_zeros(len(means))
        return Linear(slopes, zeros, never.double(), zeros)

    def base(self, x: Tensor) -> Tensor | None:
        return None

    def posterior(self, counts: Tensor, sums: Tensor) -> Tensor:
        more = self.concentration - 1
        mass = counts[:, None] + self.categories * more
        return (sums + more) / mass.clamp(min=torch.finfo(sums.dtype).tiny)

    def log_prior(self, components: Tensor) -> Tensor:
        a, C = self.concentration, self.categories
        if a == 1:
            return components.new_zeros(())
        constant = math.lgamma(C * a) / C - math.lgamma(a)
        return (torch.xlogy(components.new_tensor(a - 1), components) + constant).sum()

    def draw(self, mean: np.ndarray, count: int, random: np.random.RandomState) -> np.ndarray:
        limits = mean.reshape(-1, self.categories).cumsum(1)  # (D, C)
        places = random.uniform(size=(count, len(limits), 1)) * limits[:, -1:]
        return (places >= limits[:, :-1]).sum(2).astype(np.float64)


class CategoricalMixture(DiscreteMixture):
    r"""A mixture of products of categorical distributions, fitted by EM: latent classes.

    .. math::
        p(x) = \sum_{k=1}^K \pi_k \prod_{d=1}^D p_{kdx_d}, \qquad
        p_{kd} \sim \text{Dirichlet}(\beta), \quad \pi \sim \text{Dirichlet}(\alpha)

    Each M-step takes the most probable parameters; without priors, those of most likelihood.
    Data are codes from 0 on, of which all features have as many.

    Arguments:
        n_components: The number of components :math:`K`.
        n_categories: The number of categories :math:`C`; ``None``: one more than the largest code.
        tol: The change of the objective, in nats per datum, at which EM ends.
        max_iter: The most iterations.
        n_init: From how many starts the best is taken.
        init_params: Where EM begins: ``"kmeans"``, ``"k-means++"``, ``"random"`` or
            ``"random_from_data"``.
        weights_init: The weights that EM begins with, with shape :math:`(K)`.
        probabilities_init: The probabilities that it begins with, with shape :math:`(K, D, C)`.
        weight_concentration_prior: The :math:`\alpha \geq 1`; ``None`` is 1.
        probability_prior: The :math:`\beta \geq 1`.
        random_state: What is drawn from, as scikit-learn has it.
        warm_start: Whether a further fit goes on from the last one.
        verbose: Whether there is a progress bar.
        verbose_interval: Unused; scikit-learn's.
        device: Where it is computed, by default where the data are.

    Raises:
        ValueError: When fitted, if an argument is out of range or data are no codes.

    References:
        | Exploratory Latent Structure Analysis Using Both Identifiable and Unidentifiable Models
          (Goodman, 1974)
        | https://doi.org/10.1093/biomet/61.2.215

    Example:
        >>> x = [[0, 2], [0, 2], [1, 0], [1, 1]]
        >>> mixture = CategoricalMixture(2, random_state=0).fit(x)
        >>> mixture.probabilities_.shape
        (2, 2, 3)
    """

    _parameter: ClassVar[str] = "probabilities"

    def __init__(
        self,
        n_components: int = 1,
        *,
        n_categories: int | None = None,
        tol: float = 1e-3,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: Initialization = "kmeans",
        weights_init: Any = None,
        probabilities_init: Any = None,
        weight_concentration_prior: float | None = None,
        probability_prior: float = 1.0,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(
            n_components,
            tol=tol,
            max_iter=max_iter,
            n_init=n_init,
            init_params=init_params,
            weights_init=weights_init,
            weight_concentration_prior=weight_concentration_prior,
            random_state=random_state,
            warm_start=warm_start,
            verbose=verbose,
            verbose_interval=verbose_interval,
            device=device,
        )
        self.n_categories, self.probabilities_init = n_categories, probabilities_init
        self.probability_prior = probability_prior

    def _check(self) -> None:
        super()._check()
        check_counts(n_categories=self.n_categories)
        check_number("probability_prior", self.probability_prior, 1)
        if not hasattr(self, "_stepwise"):
            self._codes = self.n_categories  # what a fit finds, where nobody says

    def _support(self) -> tuple[float, str]:
        if self._codes is None:
            return _MOST - 1, f"codes (whole numbers from 0 to {_MOST - 1})"
        return (
            self._codes - 1,
            f"codes (whole numbers) from 0 to n_categories - 1 = {self._codes - 1}",
        )

    def _parameter_shape(self, features: int) -> tuple[int, ...]:
        return features, self._categories

    @property
    def _categories(self) -> int:
        assert self._codes is not None, "fit says it"
        return self._codes

    def _check_parameter(self, value: np.ndarray) -> None:
        if value.min() < 0 or abs(value.sum(-1) - 1).max() > 1e-6:
            raise ValueError(
                "expected probabilities_init that sum to 1 for each feature, got others"
            )

    def _family(self, found: Survey, rows: Rows) -> DiscreteFamily:
        if self._codes is None:
            self._codes = int(found.largest.max()) + 1
        C = self._categories
        return self._of(found.mean.new_full((rows.features * C,), 1 / C))

    def _of(self, average: Tensor) -> DiscreteFamily:
        return CategoricalFamily(average, self._categories, self.probability_prior)

    def _inner(self, parameter: Tensor) -> Tensor:
        return parameter.flatten(1)

    def _outer(self, means: Tensor) -> Tensor:
        return means.unflatten(1, (-1, self._categories))

    def _n_parameters(self) -> int:
        K, D, C = self.probabilities_.shape
        return K * D * (C - 1) + K - 1


_MOST = 4096  # categories, of which each feature has a column
