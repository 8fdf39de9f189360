r"""Folders: images in classes or not, and shards of arrays."""

__all__ = ["read_folder", "read_shards"]

import glob
import os
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.data.files import SPLITS, read_npz
from pyro_vae.data.images import decode, stack
from pyro_vae.data.raw import Raw
from pyro_vae.likelihoods import Binomial

Fields = dict[str, Tensor]


def read_folder(path: Path, size: int | None) -> Raw:
    r"""Reads a folder of images, or of shards.

    Where it has a folder ``train``, it has a folder for each split: ``valid`` (or ``val``,
    ``validation``) and ``test``. A folder of images holds either images, or a folder of them
    for each class. A folder of shards holds .npz files, which follow one another by name.

    Arguments:
        path: The folder.
        size: What the shorter side of images is scaled to, of which the central square is kept.

    Raises:
        ValueError: If it holds neither, both, or what cannot be read or put together.
    """
    folders = sorted(item for item in path.iterdir() if item.is_dir())
    parts = {SPLITS[item.name]: item for item in folders if item.name in SPLITS}
    parts = parts if "train" in parts else {"train": path}
    shards = {split: sorted(part.glob("*.npz")) for split, part in parts.items()}
    if any(shards.values()):
        if size is not None:
            raise ValueError(f"{path}: expected images, which size= is for, got .npz files")
        return _sharded(path.name, str(path), shards)

    classes = class_names(parts["train"])
    splits = {split: read_images(part, classes, size) for split, part in parts.items()}
    facts = {} if size is None else {"size": size}
    return Raw(path.name, str(path), splits, Binomial(255), classes or None, facts=facts)


def read_shards(pattern: str) -> Raw:
    r"""Reads the .npz files whose paths match a pattern, which follow one another by name.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If one cannot be read, or does not fit the first.
    """
    paths = sorted(Path(name) for name in glob.glob(os.path.expanduser(pattern)))
    if not paths:
        raise FileNotFoundError(f"{pattern}: expected .npz files, got no path that matches")
    return _sharded(Path(pattern).parent.name or "shards", pattern, {"train": paths})


def _sharded(name: str, origin: str, parts: dict[str, list[Path]]) -> Raw:
    splits: dict[str, Fields] = {}
    for part, paths in parts.items():
        found = joined(paths, f"{origin}: {part}")
        if len(parts) > 1 and set(found) != {"train"}:
            raise ValueError(
                f"{origin}: {part}: expected fields, got the splits {', '.join(found)}; leave the "
                "splits to the folders or to the shards"
            )
        splits |= {part: found["train"]} if len(parts) > 1 else found
    shards = {part: len(paths) for part, paths in parts.items()}
    return Raw(name, origin, splits, facts={"shards": shards})


def joined(paths: list[Path], origin: str) -> dict[str, Fields]:
    r"""The rows of shards, one after another."""
    if not paths:
        raise ValueError(f"{origin}: expected .npz files, got none")
    shards = [read_npz(path) for path in paths]
    expected = layout(shards[0])
    for path, shard in zip(paths, shards, strict=True):
        if layout(shard) != expected:
            raise ValueError(
                f"{path}: expected the fields of {paths[0].name}, {expected}, got {layout(shard)}"
            )
    return {
        split: {name: torch.cat([shard[split][name] for shard in shards]) for name in fields}
        for split, fields in shards[0].items()
    }


def layout(shard: dict[str, Fields]) -> dict[str, str]:
    r"""The type of each field, and the shape of its rows."""
    return {
        f"{split} {name}": f"{field.dtype} {tuple(field.shape[1:]) if field.dim() else 'scalar'}"
        for split, fields in sorted(shard.items())
        for name, field in sorted(fields.items())
    }


def class_names(path: Path) -> tuple[str, ...]:
    r"""The names of the folders in a folder, which are those of classes."""
    return tuple(sorted(item.name for item in path.iterdir() if item.is_dir()))


def read_images(path: Path, classes: tuple[str, ...], size: int | None) -> Fields:
    r"""The images of a folder, and their classes if there are any."""
    found = class_names(path)
    if found != classes:
        raise ValueError(
            f"{path}: expected a folder for each class of the training images, "
            f"{', '.join(classes) or 'none'}, got {', '.join(found) or 'none'}"
        )
    files = [(file, y) for y, name in enumerate(classes) for file in image_files(path / name)]
    if not classes:
        files = [(file, 0) for file in image_files(path)]
    elif loose := image_files(path):
        raise ValueError(f"{path}: expected images in folders of classes, got also {loose[0].name}")

    images = [decode(file, size) for file, _ in files]
    x = stack(images, [str(file.relative_to(path)) for file, _ in files], str(path))
    return {"x": x, "y": torch.tensor([y for _, y in files])} if classes else {"x": x}


def image_files(path: Path) -> list[Path]:
    r"""The files below a folder, or of one without folders, that are called like images."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return sorted(
        file for file in path.iterdir() if file.is_file() and file.suffix.lower() in IMG_EXTENSIONS
    )
