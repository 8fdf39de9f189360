r"""Objectives: bounds on the evidence as functions of a draw."""

from pyro_vae.objectives.bound import Bound as Bound
from pyro_vae.objectives.bound import Objective as Objective
from pyro_vae.objectives.elbo import ELBO as ELBO
from pyro_vae.objectives.importance import IWAE as IWAE
from pyro_vae.objectives.score import VIMCO as VIMCO
from pyro_vae.objectives.score import ScoreFunction as ScoreFunction
from pyro_vae.objectives.wake_sleep import ReweightedWakeSleep as ReweightedWakeSleep
from pyro_vae.objectives.wake_sleep import WakeSleep as WakeSleep
