r"""Mixtures without a fixed number of components, by collapsed Gibbs sampling: the exact answer."""

__all__ = [
    "BetaBernoulli",
    "Conjugate",
    "Figures",
    "GammaPoisson",
    "NormalInverseGamma",
    "NormalInverseWishart",
    "Partitions",
    "collapsed_gibbs",
]

from pyro_vae.gibbs.conjugate import Conjugate
from pyro_vae.gibbs.discrete import BetaBernoulli, GammaPoisson
from pyro_vae.gibbs.gaussian import NormalInverseGamma, NormalInverseWishart
from pyro_vae.gibbs.partitions import Figures, Partitions
from pyro_vae.gibbs.sampler import collapsed_gibbs
