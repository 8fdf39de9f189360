r"""Objectives: bounds on the evidence as functions of a draw."""

from pyro_vae.objectives.bound import Bound as Bound
from pyro_vae.objectives.bound import Objective as Objective
from pyro_vae.objectives.elbo import ELBO as ELBO
from pyro_vae.objectives.importance import IWAE as IWAE
