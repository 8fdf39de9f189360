r"""Data from memory: tensors, arrays, named fields and torch's data sets."""

__all__ = ["fields_of", "splits_of"]

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset, TensorDataset, default_collate

from pyro_vae.data.dataset import Fields
from pyro_vae.data.files import SPLITS
from pyro_vae.data.raw import tensor


def splits_of(source: Any, origin: str) -> dict[str, Fields]:
    r"""The splits of a mapping that has only such, by the names of :data:`SPLITS`, or one.

    Raises:
        TypeError: If the source, or a split, is nothing that :func:`fields_of` knows.
        ValueError: If a split comes twice, or :func:`fields_of` refuses it.
    """
    if not (isinstance(source, Mapping) and source and SPLITS.keys() >= set(source)):
        return {"train": fields_of(source, origin)}
    splits = {SPLITS[name]: fields_of(value, f"{origin}: {name}") for name, value in source.items()}
    if len(splits) < len(source):
        raise ValueError(f"{origin}: expected each split once, got {', '.join(source)}")
    return splits


def fields_of(source: Any, origin: str) -> Fields:
    r"""The fields of a tensor or array ``x``, of ``(x, y)``, a mapping or a torch ``Dataset``.

    Raises:
        TypeError: If the source is something else.
        ValueError: If it does not hold numbers, or the items of a ``Dataset`` do not stack.
    """
    if isinstance(source, TensorDataset):
        source = source.tensors
    elif isinstance(source, Dataset):
        source = stack(source, origin)

    if isinstance(source, Mapping):
        return {str(name): tensor(value, f"{origin}: {name!r}") for name, value in source.items()}

    if isinstance(source, tuple | list) and all(hasattr(item, "shape") for item in source):
        if len(source) not in (1, 2):
            raise ValueError(
                f"{origin}: expected (x,) or (x, y), got {len(source)} items; name them in a dict"
            )
        return {
            name: tensor(value, f"{origin}: {name!r}")
            for name, value in zip(("x", "y"), source, strict=False)
        }

    if not hasattr(source, "shape"):
        raise TypeError(
            "expected the name of a data set, a path, a tensor, an array, (x, y), a dict of fields "
            f"or a torch Dataset, got {type(source).__name__}"
        )
    return {"x": tensor(source, origin)}


def stack(dataset: Any, origin: str) -> Any:
    r"""All items of a ``Dataset``, stacked once."""
    if not hasattr(dataset, "__len__"):
        raise ValueError(f"{origin}: expected a Dataset with a length, got none; make a list of it")
    if len(dataset) == 0:
        raise ValueError(f"{origin}: expected rows, got an empty Dataset")

    items = [dataset[index] for index in range(len(dataset))]
    try:
        return default_collate(items)
    except Exception as error:  # as many kinds as there are of items
        raise ValueError(
            f"{origin}: expected items that are tensors of one shape, or tuples of them, got "
            f"{type(items[0]).__name__} items that do not stack ({error})"
        ) from error
