r"""Mixtures of binomial and Bernoulli components."""

__all__ = ["BernoulliMixture", "BinomialMixture"]

import math
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pyro_vae.counts import check_counts
from pyro_vae.em.discrete import DiscreteFamily, DiscreteMixture, Linear, each_count
from pyro_vae.em.initialization import Initialization
from pyro_vae.em.mixture import check_pair


class BinomialFamily(DiscreteFamily):
    r"""Independent binomial features, of which a component is the mean counts.

    Arguments:
        average: The mean of all data, with shape :math:`(D)`.
        trials: The number of trials :math:`n`.
        prior: The :math:`a` and :math:`b` of the beta prior of the probabilities.
    """

    def __init__(self, average: Tensor, trials: int, prior: tuple[float, float]) -> None:
        super().__init__(average)
        self.trials, self.prior = trials, prior

    def statistic(self, x: Tensor) -> Tensor:
        return x

    def linear(self, means: Tensor) -> Linear:
        p = means / self.trials
        never, always = p == 0, p == 1
        certain = never | always
        # log p and log(1 - p), or zero where there is but one outcome
        yes = torch.where(certain, 1.0, p).log()
        no = torch.where(certain, 0.0, -p).log1p()
        return Linear(
            yes - no,
            self.trials * no.sum(1),
            never.double() - always.double(),
            self.trials * always.double().sum(1),
        )

    def base(self, x: Tensor) -> Tensor | None:
        if self.trials == 1:
            return None
        n = self.trials
        orders = math.lgamma(n + 1)
        ways = each_count(lambda x: orders - (x + 1).lgamma() - (n - x + 1).lgamma(), x, n)
        return ways.sum(1)

    def posterior(self, counts: Tensor, sums: Tensor) -> Tensor:
        a, b = self.prior
        trials = self.trials * counts[:, None] + (a + b - 2)
        p = (sums + (a - 1)) / trials.clamp(min=torch.finfo(sums.dtype).tiny)
        return p.clamp(0, 1) * self.trials

    def log_prior(self, components: Tensor) -> Tensor:
        (a, b), p = self.prior, components / self.trials
        # a prior that is flat says nothing, also where a logarithm is infinite
        yes, no = p.new_tensor(a - 1), p.new_tensor(b - 1)
        constant = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
        return (torch.xlogy(yes, p) + torch.xlogy(no, 1 - p) + constant).sum()

    def draw(self, mean: np.ndarray, count: int, random: np.random.RandomState) -> np.ndarray:
        p = mean / self.trials
        return random.binomial(self.trials, p, (count, len(p))).astype(np.float64)


class ProbabilityMixture(DiscreteMixture):
    r"""A mixture whose parameters are probabilities, of so many trials each."""

    _parameter: ClassVar[str] = "probabilities"
    probability_prior: float | tuple[float, float]

    @property
    @abstractmethod
    def _trials(self) -> int:
        r"""The number of trials."""

    def _check(self) -> None:
        super()._check()
        check_counts(n_trials=self._trials)
        check_pair("probability_prior", self.probability_prior, (1, 1))

    def _support(self) -> tuple[float, str]:
        n = self._trials
        return n, "0s and 1s" if n == 1 else f"whole numbers from 0 to n_trials={n}"

    def _parameter_shape(self, features: int) -> tuple[int, ...]:
        return (features,)

    def _check_parameter(self, value: np.ndarray) -> None:
        if value.min() < 0 or value.max() > 1:
            raise ValueError(
                f"expected probabilities_init from 0 to 1, got {value.min():g} to {value.max():g}"
            )

    def _of(self, average: Tensor) -> DiscreteFamily:
        prior = check_pair("probability_prior", self.probability_prior, (1, 1))
        return BinomialFamily(average, self._trials, prior)

    def _inner(self, parameter: Tensor) -> Tensor:
        return parameter * self._trials

    def _outer(self, means: Tensor) -> Tensor:
        return means / self._trials


class BernoulliMixture(ProbabilityMixture):
    r"""A mixture of products of Bernoullis, fitted by EM: latent classes of binary data.

    .. math::
        p(x) = \sum_{k=1}^K \pi_k \prod_{d=1}^D \text{Bernoulli}(x_d \mid p_{kd}), \qquad
        p_{kd} \sim \text{Beta}(a, b), \quad \pi \sim \text{Dirichlet}(\alpha)

    Each M-step takes the most probable parameters; without priors, those of most likelihood.

    Arguments:
        n_components: The number of components :math:`K`.
        tol: The change of the objective, in nats per datum, at which EM ends.
        max_iter: The most iterations.
        n_init: From how many starts the best is taken.
        init_params: Where EM begins: ``"kmeans"``, ``"k-means++"``, ``"random"`` or
            ``"random_from_data"``.
        weights_init: The weights that EM begins with, with shape :math:`(K)`.
        probabilities_init: The probabilities that it begins with, with shape :math:`(K, D)`.
        weight_concentration_prior: The :math:`\alpha \geq 1`; ``None`` is 1.
        probability_prior: The :math:`(a, b)`, both at least 1; one number is both.
        random_state: What is drawn from, as scikit-learn has it.
        warm_start: Whether a further fit goes on from the last one.
        verbose: Whether there is a progress bar.
        verbose_interval: Unused; scikit-learn's.
        device: Where it is computed, by default where the data are.

    Raises:
        ValueError: When fitted, if an argument is out of range or data are not 0 or 1.

    References:
        | Pattern Recognition and Machine Learning, section 9.3.3 (Bishop, 2006)
        | https://www.microsoft.com/en-us/research/people/cmbishop/prml-book/

    Example:
        >>> x = [[0, 1], [0, 1], [1, 0], [1, 0]]
        >>> mixture = BernoulliMixture(2, random_state=0).fit(x)
        >>> mixture.score_samples([[0, 1], [1, 1]]).round(2)
        array([-0.69,  -inf])
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        tol: float = 1e-3,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: Initialization = "kmeans",
        weights_init: Any = None,
        probabilities_init: Any = None,
        weight_concentration_prior: float | None = None,
        probability_prior: float | tuple[float, float] = 1.0,
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
        self.probabilities_init = probabilities_init
        self.probability_prior = probability_prior

    @property
    def _trials(self) -> int:
        return 1


class BinomialMixture(ProbabilityMixture):
    r"""A mixture of products of binomials, fitted by EM.

    .. math::
        p(x) = \sum_{k=1}^K \pi_k \prod_{d=1}^D \text{Binomial}(x_d \mid n, p_{kd}), \qquad
        p_{kd} \sim \text{Beta}(a, b), \quad \pi \sim \text{Dirichlet}(\alpha)

    Each M-step takes the most probable parameters; without priors, those of most likelihood.

    Arguments:
        n_components: The number of components :math:`K`.
        n_trials: The number of trials :math:`n`.
        tol: The change of the objective, in nats per datum, at which EM ends.
        max_iter: The most iterations.
        n_init: From how many starts the best is taken.
        init_params: Where EM begins: ``"kmeans"``, ``"k-means++"``, ``"random"`` or
            ``"random_from_data"``.
        weights_init: The weights that EM begins with, with shape :math:`(K)`.
        probabilities_init: The probabilities that it begins with, with shape :math:`(K, D)`.
        weight_concentration_prior: The :math:`\alpha \geq 1`; ``None`` is 1.
        probability_prior: The :math:`(a, b)`, both at least 1; one number is both.
        random_state: What is drawn from, as scikit-learn has it.
        warm_start: Whether a further fit goes on from the last one.
        verbose: Whether there is a progress bar.
        verbose_interval: Unused; scikit-learn's.
        device: Where it is computed, by default where the data are.

    Raises:
        ValueError: When fitted, if an argument is out of range or data are no counts up to
            :math:`n`.

    Example:
        >>> x = [[0, 3], [1, 3], [3, 0], [3, 1]]
        >>> mixture = BinomialMixture(2, n_trials=3, random_state=0).fit(x)
        >>> mixture.score([[0, 3]]) > mixture.score([[0, 0]])
        True
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        n_trials: int = 1,
        tol: float = 1e-3,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: Initialization = "kmeans",
        weights_init: Any = None,
        probabilities_init: Any = None,
        weight_concentration_prior: float | None = None,
        probability_prior: float | tuple[float, float] = 1.0,
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
        self.n_trials, self.probabilities_init = n_trials, probabilities_init
        self.probability_prior = probability_prior

    @property
    def _trials(self) -> int:
        return self.n_trials
