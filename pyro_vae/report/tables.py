r"""Estimates in rows, with their errors and as many digits as the errors support."""

__all__ = ["table"]

from collections.abc import Mapping

from rich.table import Table

from pyro_vae.evaluation.estimate import Estimate, digits


def table(estimates: Mapping[str, Estimate], title: str | None = None) -> Table:
    r"""Lays estimates out in rows: name, value, the two standard errors, unit.

    Arguments:
        estimates: The estimates by name. An error that is NaN is drawn as a dash.
        title: What stands above.

    Example:
        >>> elbo = Estimate(-31.2417, 0.021, 0.312, unit="nats")
        >>> columns = table({"elbo": elbo}).columns
        >>> [cell for column in columns for cell in column.cells]
        ['elbo', '-31.24', '± 0.02', '± 0.31', 'nats']
    """
    rows = Table(title=title)
    rows.add_column("")
    for name in ("estimate", "± Monte Carlo", "± data"):
        rows.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    rows.add_column("unit")

    for name, estimate in estimates.items():
        value, *errors = digits(estimate.value, estimate.stderr, estimate.data_stderr)
        cells = (f"± {error}" if error else "–" for error in errors)
        rows.add_row(name, value, *cells, estimate.unit)
    return rows
