r"""Tables: a .csv file as numbers, with categorical columns as indicators."""

__all__ = ["Columns", "read_table"]

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

LEVELS = 1000  # features that one column may become
FEW = 20  # rows of which all but one word may differ
# numbers of which the comma separates decimals, or thousands
COMMA = re.compile(r"[+-]?[\d.,]*\d,\d[\d.]*(?:[eE][+-]?\d+)?")


@dataclass(frozen=True)
class Columns:
    r"""The columns of a table, and the features that stand for them.

    A column of numbers is one feature. A categorical column with :math:`L` levels is
    :math:`L` features, of which the one of the row's level is 1 and the others are 0. A density
    over these features is one over all of :math:`\mathbb{R}^L`, not over levels.

    Arguments:
        names: The columns' names, in the order of the file.
        levels: The levels of each categorical column, sorted.

    Example:
        >>> columns = Columns(("height", "eyes"), {"eyes": ("blue", "brown", "green")})
        >>> columns.features
        ('height', 'eyes=blue', 'eyes=brown', 'eyes=green')
        >>> columns.restore(torch.tensor([[1.8, 0.1, 0.7, 0.2]]))
        tensor([[1.8000, 1.0000]])
    """

    names: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def features(self) -> tuple[str, ...]:
        r"""The names of the features, in their order."""
        return tuple(
            feature
            for name in self.names
            for feature in (
                [f"{name}={level}" for level in self.levels[name]]
                if name in self.levels
                else [name]
            )
        )

    def blocks(self, x: Tensor) -> tuple[Tensor, ...]:
        r"""The features, with shape :math:`(*, L)`, of each column."""
        widths = [len(self.levels.get(name, (name,))) for name in self.names]
        return x.split(widths, dim=-1)

    def restore(self, x: Tensor) -> Tensor:
        r"""Maps features, with shape :math:`(*, F)`, to columns, with shape :math:`(*, C)`.

        A categorical column is the index of its largest feature among its levels.
        """
        return torch.stack(
            [
                level(block) if name in self.levels else block.squeeze(-1)
                for name, block in zip(self.names, self.blocks(x), strict=True)
            ],
            dim=-1,
        )

    @property
    def numeric(self) -> Tensor:
        r"""Which features are columns of numbers, with shape :math:`(F)`."""
        return torch.tensor(
            [name not in self.levels for name in self.names for _ in self.levels.get(name, (name,))]
        )


def level(block: Tensor) -> Tensor:
    r"""The index of the largest feature, with shape :math:`(*)`; NaN where one is missing."""
    return block.argmax(dim=-1).to(block).masked_fill(block.isnan().any(dim=-1), math.nan)


def read_table(
    path: Path, label: str | None = None, missing: bool = False
) -> tuple[Tensor, Tensor | None, tuple[str, ...] | None, Columns]:
    r"""Reads the features, the labels, the labels' names and the columns of a .csv file.

    Cells are separated by commas, or by semicolons or tabs where the first line has no comma.
    The first line is a header if none of its cells is a number and none occurs again in its
    column; otherwise columns are called ``"1"``, ``"2"`` and so on. A column is numeric if all
    its cells are numbers, and categorical if none is.

    Arguments:
        path: The file.
        label: The name of the column that holds the labels, which are numbered in sorted order.
        missing: Whether a cell that is empty, or ``nan``, is missing: all features of its column
            are NaN.

    Raises:
        ValueError: If a cell is empty or not finite, a column mixes words and numbers, holds one
            value or a different word in each row, rows have different lengths, there are no
            rows, or there is no column ``label``.
    """
    names, rows = header(path, read_rows(path, missing))
    columns = dict(zip(names, zip(*rows.values(), strict=True), strict=True))
    if label is not None and label not in columns:
        raise ValueError(f"{path}: expected a column {label!r}, got {', '.join(names)}")

    y, classes = None, None
    if label is not None:
        y, classes = read_labels(
            f"{path}: column {label!r}", dict(zip(rows, columns.pop(label), strict=True))
        )
    if not columns:
        raise ValueError(f"{path}: expected a column besides the label {label!r}, got none")

    levels: dict[str, tuple[str, ...]] = {}
    features: list[Tensor] = []
    for name, cells in columns.items():
        block, words = read_features(
            f"{path}: column {name!r}", dict(zip(rows, cells, strict=True))
        )
        features.append(block)
        if words is not None:
            levels[name] = words

    return torch.cat(features, dim=-1), y, classes, Columns(tuple(columns), levels)


def read_rows(path: Path, missing: bool) -> list[list[str]]:
    r"""The cells of a file, all filled but for what is missing, in rows of equal length."""
    try:
        text = path.read_text(encoding="utf-8-sig").rstrip("\n")
        first = text.partition("\n")[0]
        delimiter = next((mark for mark in ",;\t" if mark in first), ",")
        rows = list(csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: expected a table in UTF-8, got {error}") from error

    if not rows:
        raise ValueError(f"{path}: expected rows, got an empty file")

    width = len(rows[0])
    for number, row in enumerate(rows, 1):
        if len(row) not in (0, width):
            raise ValueError(
                f"{path}: expected {width} cells in row {number}, as in row 1, got {len(row)}"
            )

        row[:] = [cell.strip() for cell in row or [""] * width]
        if missing:
            row[:] = ["" if is_nan(cell) else cell for cell in row]
        elif "" in row:
            place = row.index("")
            raise ValueError(
                f"{path}: expected a value in row {number}, column {place + 1} "
                f"({rows[0][place] or 'without a name'}), got an empty cell; fill it in, remove "
                "the row or the column, or give missing=True (--data.missing true)"
            )
    return rows


def header(path: Path, rows: list[list[str]]) -> tuple[list[str], dict[int, list[str]]]:
    r"""The columns' names, and the rows of values by their number in the file."""
    first, *rest = rows
    bare = any(as_number(cell) is not None for cell in first) or any(
        row[place] == name for row in rest for place, name in enumerate(first)
    )
    names = [str(place) for place in range(1, len(first) + 1)] if bare else first

    if "" in names:
        raise ValueError(f"{path}: expected a name of each column, got none of some: name them")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: expected columns of different names, got {twice!r} twice")
    if not (bare or rest):
        raise ValueError(f"{path}: expected rows below the header, got none")

    return names, dict(enumerate(rows, 1) if bare else enumerate(rest, 2))


def read_labels(origin: str, cells: Mapping[int, str]) -> tuple[Tensor, tuple[str, ...]]:
    r"""The labels of the rows, and the labels' names."""
    if empty := [row for row, cell in cells.items() if not cell]:
        raise ValueError(f"{origin}: expected a label in row {empty[0]}, got none; give it one")
    values = as_numbers(origin, cells)
    if values is not None and not all(value.is_integer() for value in values):
        raise ValueError(f"{origin}: expected labels, words or integers, got fractions")

    return encode(list(cells.values()))


def read_features(origin: str, cells: Mapping[int, str]) -> tuple[Tensor, tuple[str, ...] | None]:
    r"""The features of the rows, with shape :math:`(N, L)`, NaN of empty cells, and the levels."""
    known = {row: cell for row, cell in cells.items() if cell}
    if not known:
        raise ValueError(f"{origin}: expected values in some rows, got none; remove the column")
    block, levels = read_known(origin, known)
    whole = block.new_full((len(cells), block.shape[1]), math.nan)
    whole[torch.tensor([bool(cell) for cell in cells.values()])] = block
    return whole, levels


def read_known(origin: str, cells: Mapping[int, str]) -> tuple[Tensor, tuple[str, ...] | None]:
    r"""The features of rows whose cells are filled, and the levels of words."""
    values = as_numbers(origin, cells)
    if len(set(values or cells.values())) == 1:
        raise ValueError(
            f"{origin}: expected values that vary, got {next(iter(cells.values()))!r} everywhere; "
            "remove the column"
        )
    if values is not None:
        return torch.tensor(values, dtype=torch.float64)[:, None], None

    codes, levels = encode(list(cells.values()))
    rows = len(cells)
    if len(levels) > (rows // 2 if rows > FEW else max(rows - 1, 2)):
        raise ValueError(
            f"{origin}: expected numbers or a few levels, got {len(levels)} words in {rows} rows, "
            f"the first {next(iter(cells.values()))!r}; write numbers with decimal points and "
            "commas between columns, or remove the column"
        )
    if len(levels) > LEVELS:
        raise ValueError(
            f"{origin}: expected at most {LEVELS} levels, each of which is a feature, got "
            f"{len(levels)}; remove the column or join levels"
        )
    return one_hot(codes, len(levels)).double(), levels


def encode(cells: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    r"""The index of each cell among the levels, and the levels, in numeric or else text order."""
    levels = sorted(set(cells), key=lambda cell: (as_number(cell) or 0.0, cell))
    index = {level: code for code, level in enumerate(levels)}
    return torch.tensor([index[cell] for cell in cells]), tuple(levels)


def as_number(cell: str) -> float | None:
    r"""The number that a cell holds, if it holds one."""
    try:
        return float(cell)
    except ValueError:
        return None


def is_nan(cell: str) -> bool:
    r"""Whether a cell holds what is not a number."""
    value = as_number(cell)
    return value is not None and math.isnan(value)


def as_numbers(origin: str, cells: Mapping[int, str]) -> list[float] | None:
    r"""The numbers that a column holds, finite all of them, or none if it holds words."""
    values = {row: as_number(cell) for row, cell in cells.items()}
    words = [row for row, value in values.items() if value is None]
    found = {row: value for row, value in values.items() if value is not None}
    if words and all(COMMA.fullmatch(cells[row]) for row in words):
        raise ValueError(
            f"{origin}: expected decimal points, got {cells[words[0]]!r} in row {words[0]}; write "
            "numbers such as 0.5, no separators of thousands, and commas between columns"
        )
    if not found:
        return None

    if words:
        row, word = next(iter(found)), words[0]
        raise ValueError(
            f"{origin}: expected either numbers or words, got {cells[row]!r} in row {row} and "
            f"{cells[word]!r} in row {word}; put another value there or remove the row"
        )

    bad = next((row for row, value in found.items() if not math.isfinite(value)), None)
    if bad is not None:
        raise ValueError(f"{origin}: expected finite numbers, got {cells[bad]!r} in row {bad}")
    return list(found.values())
