r"""Checkpoints: trees of tensors and plain values as safetensors, which hold no code."""

__all__ = ["FORMAT", "Checkpoint", "check_format"]

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

FORMAT = 1  # of a run's folder; raised when what an older one holds can no longer be read


@dataclass(frozen=True)
class Checkpoint:
    r"""Weights by name, and all else that is needed to go on.

    A file holds the weights under their own names, other tensors under the path that leads to
    them, and as metadata the rest as JSON, the format's version and a sum over everything, which
    shows whether the file was altered.

    Arguments:
        weights: The tensors of both programs and of the objective, by prefixed name.
        state: A tree of dicts, lists, tuples, tensors, numbers, strings and None.

    """

    weights: Mapping[str, Tensor]
    state: Mapping[str, Any]

    def dump(self) -> bytes:
        r"""The content of its file.

        Raises:
            TypeError: If there is something in the state that a file cannot hold.
        """
        tensors = {name: _whole(tensor) for name, tensor in self.weights.items()}
        tree = _packed(dict(self.state), "state", tensors)
        text = json.dumps({"weights": list(self.weights), "state": tree})
        metadata = {"format": str(FORMAT), "tree": text, "sha256": _digest(tensors, text)}
        return serialize(tensors, metadata)

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        r"""Reads a file that holds what :meth:`dump` returned.

        Raises:
            ValueError: If it is not there, is damaged, or of another version.
        """
        if not path.is_file():
            raise ValueError(f"{path}: expected a checkpoint, got no such file")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{path}: expected a checkpoint, got a file that is damaged: {error}"
            ) from error
        check_format(metadata.get("format"), path)
        text = metadata.get("tree", "")
        if metadata.get("sha256") != _digest(tensors, text):
            raise ValueError(
                f"{path}: expected the checkpoint as it was written, got an altered one"
            )
        try:
            tree = json.loads(text)
            state = _unpacked(tree["state"], tensors)
            return cls({name: tensors[name] for name in tree["weights"]}, state)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: expected a checkpoint of pyro_vae, got other contents: {error!r}"
            ) from error


def check_format(found: Any, path: Path) -> None:
    r"""Raises unless a file is of the version that this library reads."""
    if str(found) != str(FORMAT):
        got = "none" if found is None else repr(found)
        raise ValueError(
            f"{path}: expected format {FORMAT}, got {got}: it is no file of a run, or one of "
            "another version of pyro_vae; read it with that version"
        )


def _whole(tensor: Tensor) -> Tensor:
    r"""A copy on the CPU that shares its memory with no other, as safetensors wants it."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _packed(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    r"""The tree as JSON has it; its tensors are put into ``tensors``."""
    if isinstance(tree, Tensor):
        tensors[path] = _whole(tree)
        return {"tensor": path}
    if isinstance(tree, Mapping):  # as pairs: keys may be numbers, which JSON would make strings
        kind = "counter" if isinstance(tree, Counter) else "dict"  # milestones of MultiStepLR
        return {kind: [[key, _packed(v, f"{path}.{key}", tensors)] for key, v in tree.items()]}
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [_packed(v, f"{path}.{i}", tensors) for i, v in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(
        f"expected a state of tensors, numbers, strings and None, got {type(tree).__name__} at "
        f"{path}: it cannot be saved without pickling; leave out run_dir, or the part that holds it"
    )


def _unpacked(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    match kind:
        case "tensor":
            return tensors[value]
        case "dict" | "counter":
            found = {key: _unpacked(item, tensors) for key, item in value}
            return Counter(found) if kind == "counter" else found
        case _:
            items = [_unpacked(item, tensors) for item in value]
            return items if kind == "list" else tuple(items)


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
