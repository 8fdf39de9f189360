r"""Likelihoods: maps from a decoder's output to a distribution over a datum."""

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "ContinuousBernoulli",
    "Likelihood",
    "Masked",
    "Normal",
    "NormalLearnedScale",
    "NormalPredictedScale",
    "Poisson",
    "check_support",
    "fitting",
    "support_message",
]

from pyro_vae.likelihoods.continuous import (
    ContinuousBernoulli,
    Normal,
    NormalLearnedScale,
    NormalPredictedScale,
)
from pyro_vae.likelihoods.discrete import Bernoulli, Binomial, Categorical, Poisson
from pyro_vae.likelihoods.masked import Masked
from pyro_vae.likelihoods.protocol import Likelihood
from pyro_vae.likelihoods.support import check_support, fitting, support_message
