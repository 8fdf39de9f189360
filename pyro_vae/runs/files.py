r"""Files that are written whole or not at all, and that lie where they seem to lie."""

__all__ = ["inside", "write_file"]

import os
from contextlib import suppress
from pathlib import Path


def inside(folder: Path, name: str) -> Path:
    r"""The path of a file in a folder.

    Raises:
        ValueError: If it leads out of the folder, by its name or by a link.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or path == folder:
        raise ValueError(f"expected a file in {folder}, got {name!r}, which leads out of it")
    return path


def write_file(path: Path, content: str | bytes) -> Path:
    r"""Writes a file, whole or not at all: whoever reads it sees the old one or the new.

    Raises:
        OSError: If it cannot be written; what was there is still there.
    """
    raw = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)  # what a killed process left, or a link that leads elsewhere
    try:
        with part.open("xb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    _sync(path.parent)
    return path


def _sync(folder: Path) -> None:
    r"""Has the folder's new entry survive a power cut, where the system can do that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        with suppress(OSError):  # some network file systems cannot
            os.fsync(handle)
        os.close(handle)
