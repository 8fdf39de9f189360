r"""Parts of a run by name and description, built from an allow-list only."""

__all__ = [
    "Argument",
    "Kind",
    "arguments",
    "build",
    "choices",
    "describe",
    "dump_config",
    "files_of",
    "find",
    "read_config",
    "suggestion",
]

from pyro_vae.components.arguments import Argument, arguments
from pyro_vae.components.build import build
from pyro_vae.components.config import dump_config, read_config
from pyro_vae.components.describe import describe
from pyro_vae.components.files import files_of
from pyro_vae.components.find import find
from pyro_vae.components.kinds import Kind, choices, suggestion
