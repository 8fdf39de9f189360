r"""Parts of a run by name and description, built from an allow-list only."""

__all__ = [
    "Argument",
    "Kind",
    "argument_texts",
    "arguments",
    "bias",
    "build",
    "checked_files",
    "checksum",
    "choices",
    "describe",
    "dump_config",
    "files_of",
    "find",
    "full_name",
    "read_config",
    "split_file",
    "suggestion",
    "summary",
    "type_name",
]

from pyro_vae.components.arguments import Argument, arguments, type_name
from pyro_vae.components.build import build
from pyro_vae.components.config import dump_config, read_config
from pyro_vae.components.describe import describe
from pyro_vae.components.documentation import argument_texts, bias, summary
from pyro_vae.components.files import checked_files, checksum, files_of, split_file
from pyro_vae.components.find import find, full_name
from pyro_vae.components.kinds import Kind, choices, suggestion
