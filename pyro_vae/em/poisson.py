r"""Mixtures of Poisson components."""

__all__ = ["PoissonMixture"]

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pyro_vae.em.discrete import DiscreteFamily, DiscreteMixture, Linear, each_count
from pyro_vae.em.initialization import Initialization
from pyro_vae.em.mixture import check_pair


class PoissonFamily(DiscreteFamily):
    r"""Independent Poisson features, of which a component is the rates.

    Arguments:
        average: The mean of all data, with shape :math:`(D)`.
        prior: The shape :math:`a` and the rate :math:`b` of the gamma prior of the rates.
    """

    def __init__(self, average: Tensor, prior: tuple[float, float]) -> None:
        super().__init__(average)
        self.prior = prior

    def statistic(self, x: Tensor) -> Tensor:
        return x

    def linear(self, means: Tensor) -> Linear:
        never = means == 0
        slopes = torch.where(never, 1.0, means).log()
        return Linear(slopes, -means.sum(1), never.double(), means.new_zeros(len(means)))

    def base(self, x: Tensor) -> Tensor | None:
        return -each_count(lambda x: (x + 1).lgamma(), x, int(x.max())).sum(1)

    def posterior(self, counts: Tensor, sums: Tensor) -> Tensor:
        a, b = self.prior
        mass = (counts[:, None] + b).clamp(min=torch.finfo(sums.dtype).tiny)
        return (sums + (a - 1)) / mass

    def log_prior(self, components: Tensor) -> Tensor:
        a, b = self.prior
        constant = a * math.log(b) - math.lgamma(a) if b > 0 else 0.0  # none if it is improper
        logs = torch.xlogy(components.new_tensor(a - 1), components)
        return (logs - b * components + constant).sum()

    def draw(self, mean: np.ndarray, count: int, random: np.random.RandomState) -> np.ndarray:
        return random.poisson(mean, (count, len(mean))).astype(np.float64)


class PoissonMixture(DiscreteMixture):
    r"""A mixture of products of Poissons, fitted by EM.

    .. math::
        p(x) = \sum_{k=1}^K \pi_k \prod_{d=1}^D \text{Poisson}(x_d \mid \lambda_{kd}), \qquad
        \lambda_{kd} \sim \text{Gamma}(a, b), \quad \pi \sim \text{Dirichlet}(\alpha)

    Each M-step takes the most probable parameters; without priors, those of most likelihood.

    Arguments:
        n_components: The number of components :math:`K`.
        tol: The change of the objective, in nats per datum, at which EM ends.
        max_iter: The most iterations.
        n_init: From how many starts the best is taken.
        init_params: Where EM begins: ``"kmeans"``, ``"k-means++"``, ``"random"`` or
            ``"random_from_data"``.
        weights_init: The weights that EM begins with, with shape :math:`(K)`.
        rates_init: The rates that it begins with, with shape :math:`(K, D)`.
        weight_concentration_prior: The :math:`\alpha \geq 1`; ``None`` is 1.
        rate_prior: The :math:`a \geq 1` and the :math:`b \geq 0`.
        random_state: What is drawn from, as scikit-learn has it.
        warm_start: Whether a further fit goes on from the last one.
        verbose: Whether there is a progress bar.
        verbose_interval: Unused; scikit-learn's.
        device: Where it is computed, by default where the data are.

    Raises:
        ValueError: When fitted, if an argument is out of range or data are no counts.

    Example:
        >>> mixture = PoissonMixture(2, random_state=0).fit([[0], [1], [1], [20], [22]])
        >>> mixture.predict([[2]]) == mixture.predict([[0]])
        array([ True])
    """

    _parameter: ClassVar[str] = "rates"

    def __init__(
        self,
        n_components: int = 1,
        *,
        tol: float = 1e-3,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: Initialization = "kmeans",
        weights_init: Any = None,
        rates_init: Any = None,
        weight_concentration_prior: float | None = None,
        rate_prior: tuple[float, float] = (1.0, 0.0),
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
        self.rates_init, self.rate_prior = rates_init, rate_prior

    def _check(self) -> None:
        super()._check()
        check_pair("rate_prior", self.rate_prior, (1, 0))

    def _support(self) -> tuple[float, str]:
        return math.inf, "counts (whole numbers from 0 on)"

    def _parameter_shape(self, features: int) -> tuple[int, ...]:
        return (features,)

    def _check_parameter(self, value: np.ndarray) -> None:
        if value.min() < 0:
            raise ValueError(f"expected rates_init of at least 0, got {value.min():g}")

    def _of(self, average: Tensor) -> DiscreteFamily:
        return PoissonFamily(average, check_pair("rate_prior", self.rate_prior, (1, 0)))
