r"""A run's folder: what came out of a fit, how it goes on, and how it is had again."""

__all__ = [
    "Row",
    "Run",
    "RunFolder",
    "Which",
    "environment",
    "programs_of",
    "random_state",
    "set_random_state",
]

from pyro_vae.runs.environment import environment
from pyro_vae.runs.folder import RunFolder
from pyro_vae.runs.history import Row
from pyro_vae.runs.randomness import random_state, set_random_state
from pyro_vae.runs.run import Run, Which, programs_of
