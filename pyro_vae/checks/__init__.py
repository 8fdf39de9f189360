r"""What is wrong with a model, a guide and a batch, in words."""

from pyro_vae.checks.checker import check as check
from pyro_vae.checks.finding import Finding as Finding
from pyro_vae.checks.finding import render as render
from pyro_vae.checks.finding import require as require
from pyro_vae.checks.finding import warn as warn
from pyro_vae.checks.rows import check_rows as check_rows
