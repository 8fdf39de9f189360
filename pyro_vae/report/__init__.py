r"""Pictures and tables, drawn from arrays and estimates alone."""

__all__ = [
    "co_clustering",
    "contours",
    "curves",
    "latent_plane",
    "latents",
    "reconstructions",
    "responsibilities",
    "samples",
    "save",
    "table",
    "traversals",
]

from pyro_vae.report.densities import contours
from pyro_vae.report.figures import save
from pyro_vae.report.history import curves
from pyro_vae.report.images import reconstructions, samples
from pyro_vae.report.memberships import responsibilities
from pyro_vae.report.partitions import co_clustering
from pyro_vae.report.projections import latents
from pyro_vae.report.tables import table
from pyro_vae.report.traversals import latent_plane, traversals
