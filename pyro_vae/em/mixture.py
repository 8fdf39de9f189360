r"""The estimator of mixtures, with scikit-learn's interface, whatever the family."""

__all__ = ["Mixture", "check_number", "check_pair", "given"]

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Self, get_args

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyro_vae.counts import check_counts
from pyro_vae.em.expectation import joint_densities, responsibilities
from pyro_vae.em.family import Family
from pyro_vae.em.initialization import Initialization, begin
from pyro_vae.em.inputs import as_rows, like
from pyro_vae.em.loop import Fitted, Mixed, iterate
from pyro_vae.em.online import Stepwise
from pyro_vae.em.rows import Rows
from pyro_vae.em.survey import Survey, check_finite, survey
from pyro_vae.progress import TrainingProgress


class Mixture(DensityMixin, BaseEstimator, ABC):  # type: ignore[misc]
    r"""A mixture of components of one family, fitted by EM.

    .. math::
        p(x) = \sum_{k=1}^K \pi_k \, p(x \mid \theta_k)

    Data are arrays or tensors with shape :math:`(N, D)`, maps of a file or the name of a .npy
    file, or batches that can be gone through anew; memory does not grow with :math:`N`.
    Parameters are arrays in double precision; results are as the data: tensors for a tensor.

    Arguments:
        n_components: The number of components :math:`K`.
        tol: The change of the objective, in nats per datum, at which EM ends.
        max_iter: The most iterations.
        n_init: From how many starts the best is taken.
        init_params: Where EM begins: ``"kmeans"``, ``"k-means++"``, ``"random"`` or
            ``"random_from_data"``.
        weights_init: The weights that EM begins with, with shape :math:`(K)`.
        weight_concentration_prior: The :math:`\alpha \geq 1` of the weights' symmetric Dirichlet
            prior; ``None`` is 1, a uniform one.
        random_state: What is drawn from, as scikit-learn has it.
        warm_start: Whether a further fit goes on from the last one.
        verbose: Whether there is a progress bar.
        verbose_interval: Unused; scikit-learn's.
        device: Where it is computed, by default where the data are.
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
        weight_concentration_prior: float | None = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        device: str | torch.device | None = None,
    ) -> None:
        self.n_components = n_components
        self.tol, self.max_iter, self.n_init = tol, max_iter, n_init
        self.init_params, self.weights_init = init_params, weights_init
        self.weight_concentration_prior = weight_concentration_prior
        self.random_state, self.warm_start = random_state, warm_start
        self.verbose, self.verbose_interval, self.device = verbose, verbose_interval, device

    def fit(self, X: Any, y: None = None, sample_weight: Any = None) -> Self:
        r"""Fits the mixture by EM.

        Arguments:
            X: The data.
            y: Ignored.
            sample_weight: How often each datum counts, with shape :math:`(N)`.

        Raises:
            TypeError: If an argument is of another kind.
            ValueError: If an argument is out of range, or data are fewer than components, not
                finite, or none of the family's.
        """
        self.__dict__.pop("_stepwise", None)  # of steps before
        self._check()
        going_on = self.warm_start and hasattr(self, "converged_")
        rows = as_rows(self, X, sample_weight, reset=True)
        found = survey(rows, self._check_block)
        if found.size < self.n_components:
            raise ValueError(
                f"expected at least as many data as components, got {found.size} data (n_samples) "
                f"of some weight for n_components={self.n_components}: take fewer components"
            )
        family = self._family(found, rows)
        best = self._best(family, rows, going_on)
        self._keep(family, best.mixture)
        self._report(best)
        return self

    def _best(self, family: Family[Any], rows: Rows, going_on: bool) -> Fitted[Any]:
        random = check_random_state(self.random_state)
        starts = 1 if going_on else self.n_init
        best: Fitted[Any] | None = None
        total, shown = starts * max(self.max_iter, 1), bool(self.verbose)
        with TrainingProgress(total, 1, shown, unit="iteration") as progress:
            for _ in range(starts):
                fitted = iterate(
                    family,
                    self._read(family, rows.device)
                    if going_on
                    else self._start(family, rows, random),
                    rows,
                    concentration=self._concentration,
                    tol=self.tol,
                    max_iter=self.max_iter,
                    before=self.lower_bound_ if going_on else -math.inf,
                    report=lambda value: progress.step({"objective": torch.tensor(value)}),
                )
                if best is None or fitted.objective > best.objective:
                    best = fitted
        assert best is not None
        return best

    def _start(self, family: Family[Any], rows: Rows, random: np.random.RandomState) -> Mixed[Any]:
        mixture = begin(family, rows, self.n_components, self.init_params, random)
        if self.weights_init is not None:
            weights = given("weights_init", self.weights_init, (self.n_components,))
            if (weights < 0).any() or abs(weights.sum() - 1) > 1e-6:
                raise ValueError(
                    f"expected weights_init from 0 to 1 that sum to 1, got {weights.tolist()}"
                )
            mixture = mixture._replace(weights=torch.from_numpy(weights).to(rows.device))
        return mixture._replace(components=self._given(family, mixture.components, rows))

    def _report(self, fitted: Fitted[Any]) -> None:
        self.converged_, self.lower_bound_ = fitted.converged, fitted.objective
        self.lower_bounds_, self.n_iter_ = fitted.history, len(fitted.history)
        self.reseeded_ = fitted.reseeded
        if fitted.reseeded:
            warnings.warn(
                f"components lost their data and began anew in {len(fitted.reseeded)} iterations: "
                "take fewer components, or another start",
                ConvergenceWarning,
                stacklevel=3,
            )
        if not fitted.converged and self.max_iter > 0:
            warnings.warn(
                f"EM did not converge in {self.max_iter} iterations: take more (max_iter), a "
                "larger tol, or another start",
                ConvergenceWarning,
                stacklevel=3,
            )

    def fit_predict(self, X: Any, y: None = None, sample_weight: Any = None) -> Any:
        r"""Fits the mixture, and says which component is the most probable for each datum."""
        return self.fit(X, y, sample_weight).predict(X)

    def partial_fit(self, X: Any, y: None = None, sample_weight: Any = None) -> Self:
        r"""One step of online EM on a batch, of which the first one says where to begin.

        Arguments:
            X: The batch, with shape :math:`(B, D)`, of at least :math:`K` data if it is the first.
            y: Ignored.
            sample_weight: How often each datum counts, with shape :math:`(B)`.

        References:
            | On-line Expectation-Maximization Algorithm for Latent Data Models
              (Cappé & Moulines, 2009)
            | https://arxiv.org/abs/0712.4273
        """
        self._check()
        state: Stepwise[Any] | None = getattr(self, "_stepwise", None)
        rows = as_rows(self, X, sample_weight, reset=state is None)
        found = survey(rows, self._check_block)
        if state is None:
            if found.size < self.n_components:
                raise ValueError(
                    f"expected a first batch of at least n_components={self.n_components} data, "
                    f"got {found.size}: give more at once"
                )
            family = self._family(found, rows)
            random = check_random_state(self.random_state)
            state = Stepwise(family, self._start(family, rows, random), self._concentration)
        self.lower_bound_ = state.step(rows, found.mass)
        self._stepwise, self.n_iter_ = state, state.steps
        self._keep(state.family, state.mixture)
        return self

    def score_samples(self, X: Any) -> Any:
        r"""The log density of each datum, in nats, with shape :math:`(N)`."""
        return self._each(X, lambda joint: responsibilities(joint)[0])

    def score(self, X: Any, y: None = None) -> float:
        r"""The mean log density of a datum, in nats."""
        count, total = self._total(X)
        return total / count

    def predict(self, X: Any) -> Any:
        r"""The most probable component of each datum, with shape :math:`(N)`."""
        return self._each(X, lambda joint: joint.argmax(0))

    def predict_proba(self, X: Any) -> Any:
        r"""The probability of each component, with shape :math:`(N, K)`."""
        return self._each(X, lambda joint: responsibilities(joint)[1].T)

    def bic(self, X: Any) -> float:
        r"""The Bayesian information criterion of all data; the less, the better."""
        count, total = self._total(X)
        return -2 * total + self._n_parameters() * math.log(count)

    def aic(self, X: Any) -> float:
        r"""Akaike's information criterion of all data; the less, the better."""
        return -2 * self._total(X)[1] + 2 * self._n_parameters()

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        r"""Draws data with shape :math:`(N, D)`, and the components :math:`(N)` they are of."""
        check_is_fitted(self)
        check_counts(n_samples=n_samples)
        random = check_random_state(self.random_state)
        weights = self.weights_ / self.weights_.sum()
        counts = random.multinomial(n_samples, weights)
        family, mixture = self._restored(torch.device("cpu"), torch.float64)
        x = family.sample(mixture.components, counts, random)
        return x, np.repeat(np.arange(len(counts)), counts)

    def _total(self, X: Any) -> tuple[int, float]:
        total, count = 0.0, 0
        for joint in self._joint(X):
            total += float(responsibilities(joint)[0].double().sum())
            count += joint.shape[1]
        return count, total

    def _each(self, X: Any, result: Callable[[Tensor], Tensor]) -> Any:
        return like(X, torch.cat([result(joint) for joint in self._joint(X)]))

    def _joint(self, X: Any) -> Iterator[Tensor]:
        check_is_fitted(self)
        rows = as_rows(self, X)
        family, mixture = self._restored(rows.device, rows.dtype)
        blocks = joint_densities(
            family, mixture.components, mixture.weights, rows, self._check_block
        )
        return (joint for _, joint in blocks)

    @property
    def _concentration(self) -> float:
        alpha = self.weight_concentration_prior
        return 1.0 if alpha is None else float(alpha)

    def _check(self) -> None:
        check_counts(n_components=self.n_components, n_init=self.n_init)
        if self.max_iter != 0:
            check_counts(max_iter=self.max_iter)
        check_number("tol", self.tol, 0)
        check_number("weight_concentration_prior", self.weight_concentration_prior, 1)
        if self.init_params not in get_args(Initialization):
            raise ValueError(
                f"expected init_params to be one of {get_args(Initialization)}, "
                f"got {self.init_params!r}"
            )

    def _check_block(self, x: Tensor) -> None:
        check_finite(x)

    @abstractmethod
    def _family(self, found: Survey, rows: Rows) -> Family[Any]:
        r"""The family of the components, for data that look so."""

    @abstractmethod
    def _given(self, family: Any, components: Any, rows: Rows) -> Any:
        r"""The components that EM begins with, where the user gave them."""

    @abstractmethod
    def _keep(self, family: Any, mixture: Mixed[Any]) -> None:
        r"""Keeps the parameters as attributes."""

    @abstractmethod
    def _read(self, family: Any, device: torch.device) -> Mixed[Any]:
        r"""The mixture that the attributes say."""

    @abstractmethod
    def _restored(self, device: torch.device, dtype: torch.dtype) -> tuple[Family[Any], Mixed[Any]]:
        r"""The family and the mixture that the attributes say."""

    @abstractmethod
    def _n_parameters(self) -> int:
        r"""The number of free parameters."""


def given(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    r"""A parameter that the user gave, as an array in double precision.

    Raises:
        ValueError: If it has another shape, or is not finite.
    """
    array = np.asarray(value.cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"expected {name} with shape {shape}, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"expected {name} to be finite, got NaN or inf in it")
    return array.copy()


def check_number(name: str, value: Any, least: float, above: bool = False) -> None:
    r"""Raises unless an argument that is not ``None`` is a number of at least, or above, that."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"expected {name} to be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"expected {name} to be finite, got {value}")
    if not (value > least if above else value >= least):
        raise ValueError(
            f"expected {name} {'above' if above else 'of at least'} {least}, got {value}"
        )


def check_pair(name: str, value: Any, least: tuple[float, float]) -> tuple[float, float]:
    r"""Two numbers, or one twice, of at least those."""
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"expected {name} to be a number or two, got {value!r}")
    for number, bound in zip(pair, least, strict=True):
        check_number(name, number, bound)
    return float(pair[0]), float(pair[1])
