r"""Estimates in rows, with their errors and as many digits as the errors support."""

__all__ = ["table"]

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pyro_vae.evaluation.estimate import Estimate, digits

NARROW = 72  # columns of a terminal below which a table is set closer


def table(
    estimates: Mapping[str, Estimate], title: str | None = None, width: int | None = None
) -> Table:
    r"""Lays estimates out in rows: name, value, the two standard errors, unit.

    Arguments:
        estimates: The estimates by name. An error that is NaN is drawn as a dash.
        title: What stands above.
        width: The columns that there are; with few of them units stand behind names.

    Example:
        >>> elbo = Estimate(-31.2417, 0.021, 0.312, unit="nats")
        >>> columns = table({"elbo": elbo}).columns
        >>> [cell for column in columns for cell in column.cells]
        ['elbo', '-31.24', '± 0.02', '± 0.31', 'nats']
    """
    narrow = width is not None and width < NARROW
    rows = (
        Table(title=title, box=SIMPLE_HEAD, padding=(0, 0), show_edge=False)
        if narrow
        else Table(title=title)
    )
    rows.add_column("")
    for name in ("estimate", "± Monte Carlo", "± data"):
        header = name.replace("e C", "e\nC") if narrow else name
        least = max(map(len, header.split("\n")))
        rows.add_column(header, justify="right", no_wrap=True, min_width=least)
    if not narrow:
        rows.add_column("unit")

    for name, estimate in estimates.items():
        value, *errors = digits(estimate.value, estimate.stderr, estimate.data_stderr)
        cells = (f"± {error}" if error else "–" for error in errors)
        if narrow:
            rows.add_row(f"{name}, {estimate.unit}".removesuffix(", "), value, *cells)
        else:
            rows.add_row(name, value, *cells, estimate.unit)
    return rows
