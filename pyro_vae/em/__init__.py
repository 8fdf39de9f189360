r"""Mixtures fitted by expectation-maximisation, with scikit-learn's interface."""

__all__ = ["GaussianMixture"]

from pyro_vae.em.gaussian import GaussianMixture
