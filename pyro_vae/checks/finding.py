r"""What a check found."""

__all__ = ["Finding", "Severity", "require"]

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    r"""One thing that is wrong, or suspicious, with a pair of programs.

    Arguments:
        site: The name of the site concerned, or ``None``.
        severity: ``"error"`` if training would fail or be wrong, else ``"warning"``.
        message: What was expected, what came, how to mend it, and where.

    Example:
        >>> print(Finding("z", "error", "expected a number, got a word: write a number"))
        error at site 'z': expected a number, got a word: write a number
    """

    site: str | None
    severity: Severity
    message: str

    def __str__(self) -> str:
        where = "" if self.site is None else f" at site {self.site!r}"
        return f"{self.severity}{where}: {self.message}"


def require(findings: Iterable[Finding]) -> None:
    r"""Raises if there are errors among the findings.

    Arguments:
        findings: What :func:`pyro_vae.checks.check` returned.

    Raises:
        ValueError: With one line for each error.

    Example:
        >>> require([Finding(None, "warning", "expected little, got much")])
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise ValueError("\n".join(f"{_place(error)}{error.message}" for error in errors))


def _place(finding: Finding) -> str:
    return "" if finding.site is None else f"site {finding.site!r}: "
