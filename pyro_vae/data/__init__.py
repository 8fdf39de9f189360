r"""Data: tensors on a device, and what is known about them."""

__all__ = ["NAMES", "Columns", "Data", "Fields", "Standardization", "batches", "load"]

from pyro_vae.data.dataset import Data, Fields, batches
from pyro_vae.data.sources import NAMES, load
from pyro_vae.data.standardize import Standardization
from pyro_vae.data.tables import Columns
