r"""Objectives: bounds on the evidence as functions of a draw."""

from pyro_vae.objectives.aggregate import BetaTC as BetaTC
from pyro_vae.objectives.aggregate import InfoVAE as InfoVAE
from pyro_vae.objectives.bound import Bound as Bound
from pyro_vae.objectives.bound import Objective as Objective
from pyro_vae.objectives.constrained import GECO as GECO
from pyro_vae.objectives.constrained import Capacity as Capacity
from pyro_vae.objectives.elbo import ELBO as ELBO
from pyro_vae.objectives.importance import IWAE as IWAE
