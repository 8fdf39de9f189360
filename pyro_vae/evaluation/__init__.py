r"""Evaluation: estimates with their errors, what they say, and what a model generates."""

from pyro_vae.evaluation.baseline import independent_evidence as independent_evidence
from pyro_vae.evaluation.clustering import clustering_accuracy as clustering_accuracy
from pyro_vae.evaluation.curve import rate_distortion_curve as rate_distortion_curve
from pyro_vae.evaluation.diagnosis import Diagnosis as Diagnosis
from pyro_vae.evaluation.doctor import diagnose as diagnose
from pyro_vae.evaluation.estimate import Estimate as Estimate
from pyro_vae.evaluation.folding import fold as fold
from pyro_vae.evaluation.generation import decode as decode
from pyro_vae.evaluation.generation import encode as encode
from pyro_vae.evaluation.generation import reconstruct as reconstruct
from pyro_vae.evaluation.generation import sample as sample
from pyro_vae.evaluation.imputation import impute as impute
from pyro_vae.evaluation.memberships import responsibilities as responsibilities
from pyro_vae.evaluation.memorisation import nearest_neighbours as nearest_neighbours
from pyro_vae.evaluation.metrics import evaluate as evaluate
from pyro_vae.evaluation.mixture_baseline import mixture_evidence as mixture_evidence
from pyro_vae.evaluation.scores import discrete_features as discrete_features
from pyro_vae.evaluation.traversal import Plane as Plane
from pyro_vae.evaluation.traversal import Traversal as Traversal
from pyro_vae.evaluation.traversal import traverse as traverse
