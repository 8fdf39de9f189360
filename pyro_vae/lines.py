r"""Which line of a user's file it was, among the frames of libraries."""

__all__ = ["failure", "is_library", "is_users", "line_of", "module_of", "warn_user"]

import sys
import traceback
import warnings
from types import FrameType
from typing import Any

# whose lines are not the user's; our own models and guides read like theirs
_LIBRARIES = {"numpy", "pyro", "pyro_vae", "torch"} | sys.stdlib_module_names
_PROGRAMS = ("pyro_vae.guides", "pyro_vae.models")


def is_library(module: str) -> bool:
    r"""Whether code of a module is a library's, to which no user is pointed."""
    return module.split(".", 1)[0] in _LIBRARIES and not module.startswith(_PROGRAMS)


def is_users(frame: FrameType) -> bool:
    r"""Whether a frame runs the user's code."""
    return not is_library(module_of(frame))


def module_of(frame: FrameType) -> str:
    r"""The name of the module that a frame's code stands in."""
    return str(frame.f_globals.get("__name__", ""))


def line_of(frame: FrameType, number: int) -> str:
    r"""The place in a file, as editors know it."""
    return f"{frame.f_code.co_filename}:{number}"


def warn_user(text: str) -> None:
    r"""Warns at the line of the user's that called the library, wherever that was."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and is_library(module_of(frame)):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, UserWarning, stacklevel=level)


def failure(error: BaseException) -> tuple[dict[str, Any] | None, str | None]:
    r"""The sample statement in which an error arose, as Pyro's message, and the user's line."""
    message, line = None, None
    for frame, number in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "apply_stack" and module_of(frame) == "pyro.poutine.runtime":
            message = frame.f_locals["msg"]
        elif is_users(frame):
            message, line = None, line_of(frame, number)
    return (message if message and message["type"] == "sample" else None), line
