r"""Where the data of a run are, and where its folder goes."""

__all__ = ["absolute", "new_folder", "tidy"]

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing torch takes seconds, and --help needs none
    from pyro_vae.data import Data


def absolute(spec: dict[str, Any]) -> dict[str, Any]:
    r"""A description of data whose paths mean the same in other folders."""
    from pyro_vae.data import NAMES
    from pyro_vae.data.places import expanded

    given = dict(spec["init_args"])
    for name in ("source", "root"):
        path = given.get(name)
        if isinstance(path, str) and path not in NAMES:
            whole = expanded(path).absolute()
            pattern = whole.suffix == ".npz" and any(mark in path for mark in "*?[")
            given[name] = str(whole) if whole.exists() or pattern else path
    return {**spec, "init_args": given}


def new_folder(name: str, data: "Data") -> Path:
    r"""The first of ``runs/vae-digits``, ``runs/vae-digits-2``, … that is free."""
    source = re.sub(r"[^\w.-]+", "-", Path(data.name).stem)
    name = f"{name}-{source}".lower()
    count = 1
    while (path := Path("runs", name if count == 1 else f"{name}-{count}")).exists():
        count += 1
    return path


@contextmanager
def tidy(folder: Path) -> Iterator[None]:
    r"""Leaves no empty folders behind where nothing came of a run."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in missing:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
