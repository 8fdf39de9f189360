r"""One process at a time."""

__all__ = ["Lock"]

import sys
from pathlib import Path

from pyro_vae.runs.files import inside

if sys.platform != "win32":
    import fcntl


class Lock:
    r"""Holds a folder for this process, until it is released or the process ends.

    Children do not inherit it: what a killed run leaves behind holds nothing.

    Arguments:
        folder: The folder, in which there is a file ``.lock`` meanwhile.

    Raises:
        OSError: If the folder cannot be written to.
        ValueError: If another process holds it, or the file would lie outside of it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = inside(folder, ".lock")
        self._file = self.path.open("w")
        if sys.platform != "win32":
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._file.close()
                raise ValueError(
                    f"expected a folder that no other fit is writing to, got {folder}: wait until "
                    "it ends, or choose another"
                ) from None

    def release(self) -> None:
        r"""Lets others have the folder."""
        if not self._file.closed:
            self.path.unlink(missing_ok=True)
            self._file.close()
