r"""Amortised posteriors, written as Pyro programs."""

if __name__ != "pyro_vae.guides":
    raise ImportError("import 'pyro_vae.guides', not 'guides' (see pyproject.toml)")

from pyro_vae.guides.empty import Empty as Empty
from pyro_vae.guides.normal import AmortizedMultivariateNormal as AmortizedMultivariateNormal
from pyro_vae.guides.normal import AmortizedNormal as AmortizedNormal
