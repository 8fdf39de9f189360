r"""Components of bits and of counts, with conjugate priors."""

__all__ = ["BetaBernoulli", "GammaPoisson"]

from typing import final

import numpy as np
from scipy.special import gammaln

from pyro_vae.gibbs.conjugate import Array, Conjugate, pair


@final
class BetaBernoulli(Conjugate):
    r"""Independent binary features, whose probabilities have a beta prior.

    .. math::
        p_d \sim \text{Beta}(a, b), \qquad x_{nd} \sim \text{Bernoulli}(p_d), \qquad
        p(x_d = 1 \mid x_{1:n}) = \frac{a + \sum_i x_{id}}{a + b + n}

    Arguments:
        probability_prior: The :math:`(a, b)`, both positive; one number is both.

    Raises:
        ValueError: If they are not; for data that are not 0 or 1.
    """

    def __init__(self, probability_prior: float | tuple[float, float] = 1.0) -> None:
        self.probability_prior = pair("probability_prior", probability_prior)

    def check(self, x: Array) -> None:
        _check_all((x == 0) | (x == 1), x, "binary data, 0 or 1")

    def statistics(self, x: Array) -> Array:
        return x

    def predictive(self, counts: Array, sums: Array) -> tuple[Array, ...]:
        a, b = self.probability_prior
        off = np.log(b + counts[..., None] - sums)
        constant = off.sum(-1) - sums.shape[-1] * np.log(a + b + counts)
        return np.log(a + sums) - off, constant

    def log_density(self, x: Array, predictive: tuple[Array, ...]) -> Array:
        logits, constant = predictive
        found: Array = logits @ x + constant
        return found


@final
class GammaPoisson(Conjugate):
    r"""Independent counts, whose rates have a gamma prior.

    .. math::
        \lambda_d \sim \text{Gamma}(a, b), \qquad x_{nd} \sim \text{Poisson}(\lambda_d)

    The density of a further datum, after :math:`n`, is negative binomial.

    Arguments:
        rate_prior: The shape :math:`a > 0` and the rate :math:`b > 0`, in inverse counts; one
            number is both.

    Raises:
        ValueError: If they are not positive; for data that are no counts.
    """

    def __init__(self, rate_prior: float | tuple[float, float] = (1.0, 0.1)) -> None:
        self.rate_prior = pair("rate_prior", rate_prior)

    def check(self, x: Array) -> None:
        _check_all((x >= 0) & (x == np.round(x)), x, "counts (whole numbers from 0 on)")

    def statistics(self, x: Array) -> Array:
        return x

    def predictive(self, counts: Array, sums: Array) -> tuple[Array, ...]:
        a, b = self.rate_prior
        shape, rate = a + sums, b + counts
        constant = -gammaln(shape).sum(-1) - shape.sum(-1) * np.log1p(1 / rate)
        return shape, np.log1p(rate), constant

    def log_density(self, x: Array, predictive: tuple[Array, ...]) -> Array:
        shape, log_rate, constant = predictive
        base = gammaln(x + 1).sum()
        found: Array = gammaln(shape + x).sum(-1) + constant - x.sum() * log_rate - base
        return found


def _check_all(valid: np.ndarray, x: Array, words: str) -> None:
    if not valid.all():
        raise ValueError(f"expected {words}, got {x[~valid][0]:g}: take another family")
