r"""Gaussian mixtures."""

__all__ = ["GaussianMixture"]

from typing import Any, Literal

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyro_vae.em.coordinates import Coordinates
from pyro_vae.em.covariances import Covariances, Full, Tied
from pyro_vae.em.expectation import passed
from pyro_vae.em.gaussian_family import GaussianFamily, Gaussians
from pyro_vae.em.initialization import Initialization
from pyro_vae.em.inputs import as_rows, like
from pyro_vae.em.loop import Mixed
from pyro_vae.em.missing import MissingKernel, conditional_means
from pyro_vae.em.mixture import Mixture, check_number, given
from pyro_vae.em.priors import GaussianPrior
from pyro_vae.em.rows import Block, Rows
from pyro_vae.em.survey import Survey, check_finite
from pyro_vae.em.variances import Diagonal, Spherical

FORMS: dict[str, Covariances] = {
    "full": Full(),
    "tied": Tied(),
    "diag": Diagonal(),
    "spherical": Spherical(),
}


class GaussianMixture(Mixture):
    r"""A mixture of Gaussians, fitted by EM, with scikit-learn's interface.

    .. math::
        p(x) = \sum_{k=1}^K \pi_k \, \mathcal{N}(x \mid \mu_k, \Sigma_k)

    From the same start, an iteration is scikit-learn's. It goes over the data in blocks, whose
    memory does not grow with :math:`N`, and sums squares of data that are moved to
    their mean and scaled. A component that is so narrow and so far out that digits would be lost
    is treated by differences from its mean instead, in either precision.

    With a prior, each M-step takes the most probable parameters:

    .. math::
        \pi \sim \text{Dirichlet}(\alpha), \qquad
        \mu_k \mid \Sigma_k \sim \mathcal{N}(m, \Sigma_k / \kappa), \qquad
        \Sigma_k \sim \mathcal{W}^{-1}(\Psi, \nu)

    where a variance of its own has :math:`\text{InvGamma}(\nu / 2, \Psi / 2)`. The objective
    never decreases if ``reg_covar`` is zero, but where an empty component begins anew: at a datum
    that is explained worst; ``reseeded_`` holds the iterations. Singular covariances are raised
    to what can be inverted, at which it may decrease, too; ``regularized_`` counts them over all
    iterations. The objective, ``lower_bound_``, is the log likelihood and the log density of the
    prior, in units of the data and with its constants, over :math:`N`.

    Unlike scikit-learn's, starts at data (``"k-means++"``, ``"random_from_data"``) have the
    data's variances, and all parameters are in double precision.

    Arguments:
        n_components: The number of components :math:`K`.
        covariance_type: ``"full"``, ``"tied"`` (one for all), ``"diag"`` or ``"spherical"``.
        tol: The change of the objective, in nats per datum, at which EM ends.
        reg_covar: What is added to each variance, in squared units of the data.
        max_iter: The most iterations.
        n_init: From how many starts the best is taken.
        init_params: Where EM begins: ``"kmeans"``, ``"k-means++"``, ``"random"`` or
            ``"random_from_data"``.
        weights_init: The weights that EM begins with, with shape :math:`(K)`.
        means_init: The means, with shape :math:`(K, D)`.
        precisions_init: The inverse covariances, with the shape of ``covariances_``:
            :math:`(K, D, D)`, :math:`(D, D)`, :math:`(K, D)` or :math:`(K)`.
        weight_concentration_prior: The :math:`\alpha \geq 1`; ``None`` is 1.
        mean_precision_prior: The :math:`\kappa > 0`; ``None``: means have no prior.
        mean_prior: The :math:`m`, with shape :math:`(D)`; ``None``: the mean of the data.
        degrees_of_freedom_prior: The :math:`\nu > 0`; ``None``: covariances have no prior, or,
            where :math:`\Psi` is given, one with :math:`\nu = D`.
        covariance_prior: The :math:`\Psi`, with the shape of one covariance; ``None``: the
            variances of the data.
        allow_missing: Whether entries that are NaN are missing, at random: then the E-step takes
            the exact expectation over them, and :meth:`impute` fills them.
        random_state: What is drawn from, as scikit-learn has it.
        warm_start: Whether a further fit goes on from the last one.
        verbose: Whether there is a progress bar.
        verbose_interval: Unused; scikit-learn's.
        device: Where it is computed, by default where the data are.

    Raises:
        TypeError: When fitted, if an argument is of another kind, or data can be gone through
            only once.
        ValueError: When fitted, if an argument is out of range, data are fewer than components,
            or not finite.

    References:
        | Maximum Likelihood from Incomplete Data via the EM Algorithm (Dempster et al., 1977)
        | https://doi.org/10.1111/j.2517-6161.1977.tb01600.x
        | Supervised Learning from Incomplete Data via an EM Approach (Ghahramani & Jordan, 1994)
        | https://proceedings.neurips.cc/paper/1993/hash/f2201f5191c4e92cc5af043eebfd0946-Abstract.html

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [1.0, 4.0], [9.0, 2.0], [9.0, 4.0]])
        >>> mixture = GaussianMixture(2, random_state=0).fit(x)
        >>> sorted(mixture.means_[:, 0].round(3).tolist())
        [1.0, 9.0]
        >>> mixture.predict(x[:1]) == mixture.predict(x[1:2])
        tensor([True])
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: Literal["full", "tied", "diag", "spherical"] = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: Initialization = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float | None = None,
        mean_prior: Any = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: Any = None,
        allow_missing: bool = False,
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
        self.covariance_type, self.reg_covar = covariance_type, reg_covar
        self.means_init, self.precisions_init = means_init, precisions_init
        self.mean_precision_prior, self.mean_prior = mean_precision_prior, mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.allow_missing = allow_missing

    @property
    def _form(self) -> Covariances:
        return FORMS[self.covariance_type]

    def _check(self) -> None:
        super()._check()
        if self.covariance_type not in FORMS:
            raise ValueError(
                f"expected covariance_type to be one of {tuple(FORMS)}, "
                f"got {self.covariance_type!r}"
            )
        check_number("reg_covar", self.reg_covar, 0)
        check_number("mean_precision_prior", self.mean_precision_prior, 0, above=True)
        check_number("degrees_of_freedom_prior", self.degrees_of_freedom_prior, 0, above=True)
        if self.mean_prior is not None and self.mean_precision_prior is None:
            raise ValueError(
                "expected mean_precision_prior, how many data the prior of a mean counts, beside "
                "mean_prior, got None"
            )

    def _check_block(self, x: Tensor) -> None:
        check_finite(x, self.allow_missing)

    def _family(self, found: Survey, rows: Rows) -> GaussianFamily:
        form = self._form
        coordinates = Coordinates.of(found.mean, found.variance, rows.dtype, form.common_scale)
        return GaussianFamily(
            form,
            coordinates,
            found.variance * coordinates.scale.square(),
            self.reg_covar * coordinates.scale.square(),
            self._prior(found, coordinates),
            self.allow_missing,
        )

    def _prior(self, found: Survey, coordinates: Coordinates) -> GaussianPrior:
        D, device = len(found.mean), found.mean.device
        mean = found.mean
        if self.mean_prior is not None:
            mean = torch.from_numpy(given("mean_prior", self.mean_prior, (D,))).to(device)
        single = self._form.shape(1, D)
        shape = single if self.covariance_type == "tied" else single[1:]
        scatter = found.mean.new_zeros(shape)
        if self.covariance_prior is not None:
            scatter = torch.from_numpy(
                _scatter(given("covariance_prior", self.covariance_prior, shape))
            )
            scatter = self._form.scaled(scatter.to(device), coordinates.scale)
        elif self.degrees_of_freedom_prior is not None:
            scatter = self._form.diagonal(found.variance * coordinates.scale.square(), 1)
            scatter = scatter.reshape(shape)
        return GaussianPrior(
            self._form,
            coordinates.enter(mean[None])[0],
            self.mean_precision_prior or 0.0,
            self._degrees(D),
            scatter,
            coordinates.scale,
        )

    def _degrees(self, features: int) -> float | None:
        if self.degrees_of_freedom_prior is None and self.covariance_prior is not None:
            return float(features)
        return self.degrees_of_freedom_prior

    def _given(self, family: GaussianFamily, components: Gaussians, rows: Rows) -> Gaussians:
        K, D = self.n_components, rows.features
        coordinates, form = family.coordinates, family.form
        means, covariances, factors, regularized = components
        if self.means_init is not None:
            means = torch.from_numpy(given("means_init", self.means_init, (K, D))).to(rows.device)
            means = coordinates.enter(means)
        if self.precisions_init is not None:
            precisions = given("precisions_init", self.precisions_init, form.shape(K, D))
            covariances, factors = form.of_precisions(torch.from_numpy(precisions).to(rows.device))
            if covariances.isnan().any():
                raise ValueError(
                    "expected precisions_init to be positive (positive-definite matrices), got "
                    "some that are not"
                )
            covariances = form.scaled(covariances, coordinates.scale)
            factors = form.scaled_factors(factors, 1 / coordinates.scale)
        return Gaussians(means, covariances, factors, regularized)

    def _keep(self, family: GaussianFamily, mixture: Mixed[Gaussians]) -> None:
        coordinates, form = family.coordinates, family.form
        means, covariances, factors, regularized = mixture.components
        factors = form.scaled_factors(factors, coordinates.scale)
        self.weights_ = _array(mixture.weights)
        self.means_ = _array(coordinates.leave(means))
        self.covariances_ = _array(form.scaled(covariances, 1 / coordinates.scale))
        self.precisions_cholesky_ = _array(factors)
        self.precisions_ = _array(form.precisions(factors))
        self.regularized_ = int(regularized)

    def _read(self, family: GaussianFamily, device: torch.device) -> Mixed[Gaussians]:
        weights, means, covariances, factors = (
            torch.from_numpy(np.asarray(value, dtype=np.float64)).to(device)
            for value in (
                self.weights_,
                self.means_,
                self.covariances_,
                self.precisions_cholesky_,
            )
        )
        scale = family.coordinates.scale
        return Mixed(
            weights,
            Gaussians(
                family.coordinates.enter(means),
                family.form.scaled(covariances, scale),
                family.form.scaled_factors(factors, 1 / scale),
                torch.zeros((), dtype=torch.long, device=device),
            ),
        )

    def _restored(
        self, device: torch.device, dtype: torch.dtype
    ) -> tuple[GaussianFamily, Mixed[Gaussians]]:
        weights, means = torch.from_numpy(self.weights_), torch.from_numpy(self.means_)
        form = self._form
        dense = form.dense(torch.from_numpy(self.covariances_), *means.shape)
        mean = weights @ means
        within = dense.diagonal(dim1=1, dim2=2)
        variance = weights @ ((means - mean).square() + within)
        found = Survey(0, 0.0, mean.to(device), variance.to(device), mean.to(device))
        coordinates = Coordinates.of(found.mean, found.variance, dtype, form.common_scale)
        zeros = torch.zeros_like(found.mean)
        prior = GaussianPrior(form, zeros, 0.0, None, zeros.new_zeros(()), coordinates.scale)
        family = GaussianFamily(form, coordinates, found.variance, zeros, prior, self.allow_missing)
        return family, self._read(family, device)

    def impute(self, X: Any) -> Any:
        r"""Data whose missing entries, which are NaN, are their means given all that is there.

        .. math::
            \mathbb{E}[x_m \mid x_o]
                = \sum_{k=1}^K p(k \mid x_o) \, \mathbb{E}[x_m \mid x_o, k]

        Arguments:
            X: The data, with shape :math:`(N, D)`.
        """
        check_is_fitted(self)
        rows = as_rows(self, X)
        family, (weights, components) = self._restored(rows.device, rows.dtype)
        kernel = MissingKernel(
            family.form, family.coordinates, components.means, components.covariances
        )

        def step(block: Block) -> Tensor:
            check_finite(block.x, missing=True)
            return conditional_means(kernel, block.x, weights.log())

        return like(X, torch.cat(list(passed(family, len(weights), rows, step))))

    def _n_parameters(self) -> int:
        K, D = self.means_.shape
        return self._form.parameters(K, D) + K * D + K - 1


def _scatter(given: np.ndarray) -> np.ndarray:
    r"""The prior's squares, if they can be any."""
    matrix = given.ndim == 2
    least = np.linalg.eigvalsh(given).min() if matrix else given.min()
    if least < -1e-12 * np.abs(given).max() or (matrix and not np.allclose(given, given.T)):
        raise ValueError(
            "expected covariance_prior to be positive"
            f"{' semi-definite and symmetric' if matrix else ''}, got {given.tolist()}"
        )
    return given


def _array(x: Tensor) -> np.ndarray:
    return x.cpu().numpy()
