r"""Objectives: bounds on the evidence as functions of a draw."""

from pyro_vae.objectives.aggregate import BetaTC as BetaTC
from pyro_vae.objectives.aggregate import InfoVAE as InfoVAE
from pyro_vae.objectives.bound import Bound as Bound
from pyro_vae.objectives.bound import Objective as Objective
from pyro_vae.objectives.constrained import GECO as GECO
from pyro_vae.objectives.constrained import Capacity as Capacity
from pyro_vae.objectives.elbo import ELBO as ELBO
from pyro_vae.objectives.importance import CIWAE as CIWAE
from pyro_vae.objectives.importance import IWAE as IWAE
from pyro_vae.objectives.importance import MIWAE as MIWAE
from pyro_vae.objectives.importance import PIWAE as PIWAE
from pyro_vae.objectives.renyi import Renyi as Renyi
from pyro_vae.objectives.score import VIMCO as VIMCO
from pyro_vae.objectives.score import ScoreFunction as ScoreFunction
from pyro_vae.objectives.thermodynamic import TVO as TVO
from pyro_vae.objectives.wake_sleep import ReweightedWakeSleep as ReweightedWakeSleep
from pyro_vae.objectives.wake_sleep import WakeSleep as WakeSleep
