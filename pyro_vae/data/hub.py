r"""Tables of columns in the manner of the package ``datasets``, which need not be installed."""

__all__ = ["is_table", "read_tables"]

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.files import SPLITS
from pyro_vae.data.raw import Raw, tensor

# what others call fields
ALIASES = {"image": "x", "img": "x", "label": "y", "labels": "y"}


def is_table(source: Any) -> bool:
    r"""Whether a source is a ``datasets.Dataset``, a ``DatasetDict``, or behaves like one."""
    return hasattr(source, "column_names") and hasattr(source, "with_format")


def read_tables(source: Any) -> Raw:
    r"""Reads a table, or one for each split, which are called ``train``, ``validation``, ``test``.

    A column is a field; one called ``image`` or ``img`` is ``x``, ``label`` or ``labels`` is ``y``.

    Raises:
        ValueError: If a column holds no numbers, or rows of different shapes.
    """
    name = type(source).__name__.lower()
    tables = source if isinstance(source, Mapping) else {"train": source}
    if unknown := [split for split in tables if split not in SPLITS]:
        raise ValueError(
            f"{name}: expected the splits train, validation and test, got {', '.join(unknown)}; "
            "select or rename them first"
        )
    splits = {
        SPLITS[split]: read_columns(table, f"{name}: {split}") for split, table in tables.items()
    }
    return Raw(name, name, splits, classes=class_names(tables))


def read_columns(table: Any, origin: str) -> dict[str, Tensor]:
    r"""All columns of a table."""
    rows = table.with_format("torch")
    fields = {}
    for column in table.column_names:
        name = ALIASES.get(column, column)
        if name in fields:
            raise ValueError(f"{origin}: expected one column for {name!r}, got also {column!r}")
        fields[name] = column_of(rows, column, f"{origin}: column {column!r}")
    return fields


def column_of(rows: Any, column: str, origin: str) -> Tensor:
    r"""A column, stacked where it comes as a list of its rows."""
    try:
        values = rows[column][:]
        if not hasattr(values, "shape"):
            values = torch.stack([torch.as_tensor(value) for value in values])
    except Exception as error:  # a table may read files, and fail in many ways
        raise ValueError(
            f"{origin}: expected numbers of one shape in each row, got others ({error}); remove "
            "the column, or map it to such"
        ) from error
    return tensor(values, origin)


def class_names(tables: Mapping[str, Any]) -> tuple[str, ...] | None:
    r"""The names of the labels, where the tables know them."""
    for table in tables.values():
        features = getattr(table, "features", None) or {}
        for column in features:
            names = getattr(features[column], "names", None)
            if ALIASES.get(column, column) == "y" and names:
                return tuple(names)
    return None
