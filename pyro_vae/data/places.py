r"""Where files of named data sets are looked for."""

__all__ = ["cache", "expanded", "find", "places"]

import os
from collections.abc import Sequence
from pathlib import Path


def expanded(path: str | os.PathLike[str]) -> Path:
    r"""A path with the user's folder for ``~``; unlike pathlib's it takes unknown users' too."""
    return Path(os.path.expanduser(path))


def cache() -> Path:
    r"""The user's folder for data that were downloaded."""
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "pyro_vae"


def places(root: Path | None) -> list[Path]:
    r"""The folders to look in: the one that is given, or else the user's and then the cache."""
    found = [root] if root else [Path(os.environ.get("PYRO_VAE_DATA") or cache()), cache()]
    return list(dict.fromkeys(expanded(place) for place in found))


def find(name: str, folder: str, files: Sequence[str], root: Path | None) -> dict[str, Path]:
    r"""The path of each file, as it is called or without ``.gz``, where a folder has them all."""
    folders = [place / folder for place in places(root)]
    for place in folders:
        pairs = [(place / file, place / file.removesuffix(".gz")) for file in files]
        paths = [next(filter(Path.is_file, pair), None) for pair in pairs]
        found = {file: path for file, path in zip(files, paths, strict=True) if path}
        if len(found) == len(files):
            return found

    looked = " nor in ".join(str(place) for place in folders)
    raise FileNotFoundError(f"{name}: expected {', '.join(files)}, not found in {looked}")
