r"""The C++ compiler that graphs are built with."""

__all__ = ["removed_half_written", "require_compiler"]

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

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


def removed_half_written(error: Exception) -> bool:
    r"""Deletes the library that the compiler could not load, if it was never written to its end.

    A process that is killed while it compiles leaves such a one in the compiler's cache, where
    every later process would find it.
    """
    found = re.search(r"(\S+\.so): file too short", str(error))
    if found is None:
        return False
    Path(found[1]).unlink(missing_ok=True)
    return True
