r"""Pictures and tables, drawn from arrays and estimates alone."""

__all__ = ["curves", "latents", "reconstructions", "samples", "save", "table"]

from pyro_vae.report.figures import save
from pyro_vae.report.history import curves
from pyro_vae.report.images import reconstructions, samples
from pyro_vae.report.projections import latents
from pyro_vae.report.tables import table
