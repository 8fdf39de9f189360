r"""Estimates in rows, with their errors and as many digits as the errors support."""

__all__ = ["Estimate", "digits", "table"]

import math
from collections.abc import Mapping
from typing import Protocol

from rich.table import Table


class Estimate(Protocol):
    r"""A figure with its Monte Carlo error given the data and its error over the data."""

    @property
    def value(self) -> float: ...
    @property
    def stderr(self) -> float | None: ...
    @property
    def data_stderr(self) -> float | None: ...
    @property
    def unit(self) -> str: ...


def table(estimates: Mapping[str, Estimate], title: str | None = None) -> Table:
    r"""Lays estimates out in rows: name, value, the two standard errors, unit.

    Arguments:
        estimates: The estimates by name. An error that is ``None`` or NaN is drawn as a dash.
        title: What stands above.

    Example:
        >>> from types import SimpleNamespace
        >>> elbo = SimpleNamespace(value=-31.2417, stderr=0.021, data_stderr=0.312, unit="nats")
        >>> columns = table({"elbo": elbo}).columns
        >>> [cell for column in columns for cell in column.cells]
        ['elbo', '-31.24', '± 0.02', '± 0.31', 'nats']
    """
    rows = Table(title=title)
    rows.add_column("")
    for name in ("estimate", "Monte Carlo error", "error over data"):
        rows.add_column(name, justify="right")
    rows.add_column("unit")

    for name, estimate in estimates.items():
        errors = (estimate.stderr, estimate.data_stderr)
        value, *cells = digits(estimate.value, *errors)
        rows.add_row(name, value, *(f"± {cell}" if cell else "–" for cell in cells), estimate.unit)
    return rows


def digits(value: float, *errors: float | None) -> list[str]:
    r"""Rounds a value and its errors where the greatest error has two significant digits.

    A smaller error that would round to zero keeps one digit.

    Arguments:
        value: The value.
        errors: Its errors. One that is ``None`` or NaN becomes an empty string.

    Example:
        >>> digits(1234.5678, 4.32, 0.1)
        ['1234.6', '4.3', '0.1']
        >>> digits(-25.24, 0.31, 0.002)
        ['-25.24', '0.31', '0.002']
        >>> digits(0.125, None)
        ['0.125', '']
    """
    bounds = [math.nan if error is None else error for error in errors]
    greatest = max((error for error in bounds if math.isfinite(error)), default=0)

    form = ".4g"
    if greatest > 0:
        # rounded first: at three places 0.0996 would have three digits, 0.100
        exponent = math.floor(math.log10(float(f"{greatest:.1e}")))
        form = f".{max(0, 1 - exponent)}f"

    def cell(error: float) -> str:
        vanishes = error > 0 and float(f"{error:{form}}") == 0
        return "" if math.isnan(error) else f"{error:{'.1g' if vanishes else form}}"

    return [f"{value:{form}}", *map(cell, bounds)]
