r"""Families of mixture components, with priors of their parameters."""

__all__ = [
    "BernoulliComponents",
    "BinomialComponents",
    "CategoricalComponents",
    "Components",
    "FullGaussianComponents",
    "GaussianComponents",
    "Observation",
    "PoissonComponents",
    "Prior",
    "SemiconjugateGaussianComponents",
]

from pyro_vae.models.components.discrete import (
    BernoulliComponents,
    BinomialComponents,
    CategoricalComponents,
    PoissonComponents,
)
from pyro_vae.models.components.family import Components, Observation, Prior
from pyro_vae.models.components.gaussian import (
    FullGaussianComponents,
    GaussianComponents,
    SemiconjugateGaussianComponents,
)
