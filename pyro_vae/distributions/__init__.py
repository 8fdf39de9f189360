r"""Distributions that Pyro lacks or has with too little care, and divergences between them."""

__all__ = [
    "Categorical",
    "ChineseRestaurant",
    "ContinuousBernoulli",
    "MarkovChain",
    "PartlyObserved",
    "Poisson",
    "StickBreaking",
    "canonical",
    "Reshaped",
    "factors",
    "has_kl",
    "innermost",
    "is_point",
    "kl_divergence",
    "missing_values",
    "unwrapped",
]

from pyro_vae.distributions.categorical import Categorical
from pyro_vae.distributions.chinese_restaurant import ChineseRestaurant, canonical
from pyro_vae.distributions.continuous_bernoulli import ContinuousBernoulli
from pyro_vae.distributions.divergence import has_kl, kl_divergence
from pyro_vae.distributions.innermost import factors, innermost, is_point, unwrapped
from pyro_vae.distributions.markov_chain import MarkovChain
from pyro_vae.distributions.partly_observed import PartlyObserved, missing_values
from pyro_vae.distributions.poisson import Poisson
from pyro_vae.distributions.reshaped import Reshaped
from pyro_vae.distributions.stick_breaking import StickBreaking
