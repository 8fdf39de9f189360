r"""The file that ``--config`` names."""

__all__ = ["load_config"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyro_vae.components import checked_files, read_config, suggestion
from pyro_vae.runs.checkpoint import check_format


def load_config(path: str, known: Sequence[str]) -> tuple[dict[str, Any], dict[str, str] | None]:
    r"""Reads a file of options; returns them, and the checksums of a run's files by path.

    A file that has ``format`` is a run's, and imports no file but those that it recorded. Of one
    that was written by hand, which has no ``files`` either, there are no checksums.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file, of another format, or has a key that is not known.
    """
    config = read_config(path)
    written_by_hand = "format" not in config and "files" not in config
    if "format" in config:
        check_format(config.pop("format"), Path(path))
    files = checked_files(config.pop("files", None))
    for key in config:
        if key not in known:
            raise ValueError(
                f"{path}: expected keys among {', '.join(sorted(known))}, got {key!r}"
                f"{suggestion(key, known)}"
            )
    return config, None if written_by_hand else files or {}
