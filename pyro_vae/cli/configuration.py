r"""The file that ``--config`` names."""

__all__ = ["FORMAT", "load_config"]

from collections.abc import Sequence
from typing import Any

from pyro_vae.components import read_config, suggestion

FORMAT = 1


def load_config(path: str, known: Sequence[str]) -> tuple[dict[str, Any], dict[str, str] | None]:
    r"""Reads a file of options; returns them, and the checksums of a run's files by path.

    A file that has ``format`` is a run's, and imports no file but those that it recorded. Of one
    that was written by hand, which has no ``files`` either, there are no checksums.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file, of another format, or has a key that is not known.
    """
    config = read_config(path)
    version, files = config.pop("format", None), config.pop("files", None)
    if version is not None and version != FORMAT:
        raise ValueError(
            f"{path}: expected format {FORMAT}, got {version!r}: use the version of pyro_vae that "
            "wrote it"
        )
    hashes = files if isinstance(files, dict) else {}
    if (files is not None and hashes is not files) or not all(_is_text(v) for v in hashes.values()):
        raise ValueError(f"{path}: expected files as {{path: sha256}}, got {files!r}")
    for key in config:
        if key not in known:
            raise ValueError(
                f"{path}: expected keys among {', '.join(known)}, got {key!r}"
                f"{suggestion(key, known)}"
            )
    return config, None if version is None and files is None else hashes


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
