r"""Mixtures that EM fitted, as Pyro programs."""

__all__ = ["mixture_for", "program_of", "vectors"]

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyro_vae.components import build
from pyro_vae.data.lazy import Lazy, chunks
from pyro_vae.em import (
    BernoulliMixture,
    BinomialMixture,
    CategoricalMixture,
    GaussianMixture,
    PoissonMixture,
)
from pyro_vae.em.inputs import as_rows
from pyro_vae.em.mixture import Mixture
from pyro_vae.em.survey import survey
from pyro_vae.likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    Likelihood,
    Normal,
    NormalLearnedScale,
    NormalPredictedScale,
    Poisson,
)
from pyro_vae.models import FiniteGaussianMixture, FiniteMixture
from pyro_vae.nn import check_event_shape

_FLOOR = 1e-12  # of scales that are free
_LOG_RATE = 20.0  # beyond which the Poisson likelihood goes on along its tangent


class _Flat:
    r"""Rows that are read when they are needed, as vectors, from the first one each time."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __iter__(self) -> Iterator[Tensor]:
        return (part.reshape(part.shape[0], -1) for part in chunks(self.x))


def vectors(x: Tensor) -> Any:
    r"""Data with shape :math:`(N, *)` as EM takes them, whether they are in memory or not."""
    return _Flat(x) if isinstance(x, Lazy) else x.reshape(x.shape[0], -1)


def mixture_for(
    likelihood: Likelihood,
    x: Tensor,
    n_components: int,
    *,
    smoothing: bool = True,
    **options: Any,
) -> Mixture:
    r"""A mixture of the likelihood's family, to be fitted by EM, with parameters smoothed.

    Without priors EM overfits: what a component never saw has probability zero. By default,
    those of each component count

    - Bernoulli, binomial: half a success and half a failure more for each feature, a prior of
      Beta(1.5, 1.5);
    - Poisson: half an event more, Gamma(1.5, 0);
    - categorical: half an observation of each level more, Dirichlet(1.5);
    - normal: as many data more as fix a covariance (3 for a variance of its own,
      :math:`D + 2` for a matrix), an inverse Wishart prior with :math:`\nu = 1`, whose variances
      are those of independent features: of the data and of one datum more with the variance that
      features have on average.

    Arguments:
        likelihood: The likelihood, of which only the family counts; of the normal ones, scales
            are fitted whatever they do.
        x: The data that it is to be fitted to, with shape :math:`(N, *)`.
        n_components: The number of components.
        smoothing: Whether there are priors at all by default.
        options: Arguments of the estimator, which go before these.

    Raises:
        ValueError: If there is no mixture of the family.
    """
    prior: dict[str, Any] = {"probability_prior": 1.5} if smoothing else {}
    match likelihood:
        case Bernoulli():
            return BernoulliMixture(n_components, **{**prior, **options})
        case Binomial():
            prior["n_trials"] = likelihood.total_count
            return BinomialMixture(n_components, **{**prior, **options})
        case Categorical():
            prior["n_categories"] = likelihood.levels
            return CategoricalMixture(n_components, **{**prior, **options})
        case Poisson():
            prior = {"rate_prior": (1.5, 0.0)} if smoothing else {}
            return PoissonMixture(n_components, **{**prior, **options})
        case Normal() | NormalLearnedScale() | NormalPredictedScale():
            prior = {"degrees_of_freedom_prior": 1.0, "reg_covar": 0.0} if smoothing else {}
            mixture = GaussianMixture(n_components, **{**prior, **options})
            degrees = mixture.degrees_of_freedom_prior
            if smoothing and degrees is not None and mixture.covariance_prior is None:
                mixture.covariance_prior = _scatter(mixture, x, degrees)
            return mixture
    raise ValueError(
        "expected a likelihood of which mixtures are fitted by EM (Bernoulli, Binomial, "
        f"Categorical, Poisson or a normal one), got {type(likelihood).__name__}"
    )


def _scatter(mixture: GaussianMixture, x: Tensor, degrees: float) -> Any:
    r"""The prior's squares, for which the most probable covariance has smoothed variances."""
    found = survey(as_rows(mixture, vectors(x), reset=True), mixture._check_block)
    variances = (found.size * found.variance + found.variance.mean()) / (found.size + 1)
    features = len(variances)
    dimension = features if mixture.covariance_type in ("full", "tied") else 1
    scatter = (degrees + dimension + 1) * variances
    match mixture.covariance_type:
        case "spherical":
            return scatter.mean().cpu().numpy()
        case "diag":
            return scatter.cpu().numpy()
    return scatter.diag().cpu().numpy()


def program_of(
    mixture: Mixture, event_shape: Sequence[int] | None = None
) -> FiniteMixture | FiniteGaussianMixture:
    r"""The Pyro program of a mixture that EM fitted, with the same densities.

    .. math:: \log p(x) = \log \sum_{k=1}^K \pi_k \, p(x \mid \theta_k)

    Gaussians with full or tied covariances are a
    :class:`~pyro_vae.models.FiniteGaussianMixture`, all others a
    :class:`~pyro_vae.models.FiniteMixture`. With :class:`pyro_vae.guides.Empty` as its guide, it
    is trained, evaluated and sampled from as any pair is. What the mixture holds to be impossible
    has, in the program, the smallest probability that there is.

    Arguments:
        mixture: A fitted estimator of :mod:`pyro_vae.em`.
        event_shape: The shape of one datum, with :math:`D` features in all; by default
            :math:`(D)`.

    Raises:
        TypeError: If it is no such estimator.
        ValueError: If it is not fitted, if the shape has another number of features, or if
            entries may be missing and covariances are full: no part of such a vector alone can
            be.

    Example:
        >>> from pyro_vae import evaluate
        >>> from pyro_vae.guides import Empty
        >>> x = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> mixture = BernoulliMixture(2, probability_prior=1.5, random_state=0).fit(x)
        >>> nll = evaluate(program_of(mixture), Empty(), x)["nll"]
        >>> abs(float(nll) + mixture.score(x)) < 1e-6
        True
        >>> nll.stderr
        0.0
    """
    if not isinstance(mixture, Mixture):
        raise TypeError(f"expected an estimator of pyro_vae.em, got {type(mixture).__name__}")
    check_is_fitted(mixture)
    features = mixture.n_features_in_
    shape = check_event_shape((features,) if event_shape is None else event_shape)
    if shape.numel() != features:
        raise ValueError(
            f"expected an event_shape with {features} features, as the mixture has, got "
            f"{tuple(shape)}"
        )
    name, arguments, values = _described(mixture)
    sizes = {"event_shape": list(shape), "n_components": mixture.n_components}
    program: FiniteMixture | FiniteGaussianMixture = build(
        {"class_path": name, "init_args": {**sizes, **arguments}}, "model"
    )
    program.load_state_dict({"logits": _log(mixture.weights_), **values})
    return program


def _described(mixture: Mixture) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    r"""The name of the program, its arguments, and the values of its parameters."""
    match mixture:
        case GaussianMixture():
            return _gaussian(mixture)
        case CategoricalMixture():
            levels = mixture.probabilities_.shape[-1]
            spec = {"class_path": "Categorical", "init_args": {"levels": levels}}
            outputs = _log(mixture.probabilities_).transpose(1, 2).flatten(1)
        case PoissonMixture():
            spec, outputs = {"class_path": "Poisson"}, _log(mixture.rates_)
            outputs = torch.where(
                outputs > _LOG_RATE, _LOG_RATE + (outputs - _LOG_RATE).expm1(), outputs
            )
        case BernoulliMixture():
            spec, outputs = {"class_path": "Bernoulli"}, _logit(mixture.probabilities_)
        case BinomialMixture():
            trials = {"total_count": mixture.n_trials}
            spec = {"class_path": "Binomial", "init_args": trials}
            outputs = _logit(mixture.probabilities_)
        case _:
            raise TypeError(
                "expected one of the mixtures of pyro_vae.em, of which programs are known, got "
                f"{type(mixture).__name__}"
            )
    return "FiniteMixture", {"likelihood": spec}, {"outputs": outputs}


def _gaussian(mixture: GaussianMixture) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    means = torch.from_numpy(mixture.means_)
    covariances = torch.from_numpy(mixture.covariances_)
    if mixture.covariance_type in ("full", "tied"):
        if mixture.allow_missing:
            raise ValueError(
                "expected independent features given the component where entries may be "
                f"missing, got covariance_type={mixture.covariance_type!r}: fit 'diag' or "
                "'spherical'"
            )
        roots = torch.linalg.cholesky(covariances).expand(len(means), -1, -1)
        free = transform_to(constraints.lower_cholesky).inv(roots)
        return "FiniteGaussianMixture", {}, {"locs": means, "scale_trils_unconstrained": free}
    spec: Any = {"class_path": "NormalPredictedScale", "init_args": {"floor": _FLOOR}}
    if mixture.allow_missing:
        spec = {"class_path": "Masked", "init_args": {"likelihood": spec}}
    scales = covariances.sqrt().reshape(len(means), -1).expand_as(means)
    above = (scales - _FLOOR).clamp(min=_FLOOR**2)
    raw = above + (-(-above).expm1()).log()  # the inverse of the softplus
    outputs = torch.cat([means, raw], 1)
    return "FiniteMixture", {"likelihood": spec}, {"outputs": outputs}


def _log(p: np.ndarray) -> Tensor:
    r"""Logarithms, of which none is infinite in the type of a program."""
    return torch.from_numpy(p).clamp(min=torch.finfo(torch.get_default_dtype()).tiny).log()


def _logit(p: np.ndarray) -> Tensor:
    return _log(p) - _log(1 - p)
