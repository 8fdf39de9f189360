r"""Mixtures fitted by expectation-maximisation, with scikit-learn's interface."""

__all__ = [
    "BernoulliMixture",
    "BinomialMixture",
    "CategoricalMixture",
    "GaussianMixture",
    "PoissonMixture",
]

from pyro_vae.em.binomial import BernoulliMixture, BinomialMixture
from pyro_vae.em.categorical import CategoricalMixture
from pyro_vae.em.gaussian import GaussianMixture
from pyro_vae.em.poisson import PoissonMixture
