r"""Stepwise EM: running means of sufficient statistics, one batch at a time."""

__all__ = ["Stepwise"]

from typing import Generic, TypeVar

import torch

from pyro_vae.em.expectation import Expectation, expect
from pyro_vae.em.family import Family
from pyro_vae.em.loop import Mixed, mixed
from pyro_vae.em.rows import Rows

C = TypeVar("C")


class Stepwise(Generic[C]):
    r"""A mixture that each batch moves towards its own M-step, by less and less.

    .. math::
        s_t = (1 - \gamma_t) \, s_{t-1} + \gamma_t \, \bar s(x_t; \theta_{t-1}), \qquad
        \gamma_t = (t + t_0)^{-\kappa}, \qquad \theta_t = M(s_t)

    Arguments:
        family: The family of the components.
        mixture: Where it begins; the statistics that it expects are :math:`s_0`.
        concentration: The :math:`\alpha` of the weights' prior, a symmetric Dirichlet.
        exponent: The :math:`\kappa` from ½ (exclusive) to 1.
        offset: The :math:`t_0`.

    References:
        | On-line Expectation-Maximization Algorithm for Latent Data Models (Cappé & Moulines, 2009)
        | https://arxiv.org/abs/0712.4273
    """

    def __init__(
        self,
        family: Family[C],
        mixture: Mixed[C],
        concentration: float = 1.0,
        exponent: float = 0.6,
        offset: float = 2.0,
    ) -> None:
        self.family, self.mixture, self.concentration = family, mixture, concentration
        self.exponent, self.offset = exponent, offset
        self.steps, self.mass = 0, 0.0
        self.means = family.expected(mixture.components, mixture.weights)

    def step(self, rows: Rows, mass: float) -> float:
        r"""Takes in a batch of that mass; returns its mean log density before."""
        weights, components = self.mixture
        found = expect(self.family, components, weights, rows)
        self.steps += 1
        self.mass += mass
        rate = (self.steps + self.offset) ** -self.exponent
        means = tuple(
            torch.lerp(mean, sums / mass, rate)
            for mean, sums in zip(self.means, found.sums, strict=True)
        )
        # the prior weighs against all data that were seen
        sums = tuple(mean * self.mass for mean in means)
        self.mixture = mixed(
            self.family, Expectation(sums, found.log_likelihood), components, self.concentration
        )
        self.means = self.family.recentred(means, components, self.mixture.components)
        return float(found.log_likelihood) / mass
