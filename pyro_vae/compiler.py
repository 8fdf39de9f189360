r"""The C++ compiler that graphs are built with."""

__all__ = ["require_compiler"]

import os
import shlex
import shutil
import sys

from pyro_vae.uncapturable import Uncapturable


def require_compiler() -> None:
    r"""Raises where torch's compiler would find none.

    Raises:
        Uncapturable: If there is none on the path, nor under the name in ``CXX``.
    """
    default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    command = os.environ.get("CXX", default)
    try:
        program = next(iter(shlex.split(command)), "")
    except ValueError:  # a quotation without its end
        program = ""
    if shutil.which(program) is None:
        raise Uncapturable(
            f"expected a C++ compiler to build the compiled step with, found no {command!r}: "
            "install one (g++ or clang++), or name it in the environment variable CXX"
        )
