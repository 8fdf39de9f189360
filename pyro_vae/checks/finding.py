r"""What a check found, as one line and as a compiler prints it."""

__all__ = ["Finding", "Severity", "render", "require", "warn"]

import linecache
import os
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from pyro_vae.lines import warn_user

Severity = Literal["error", "warning"]

_WIDTH = 100


@dataclass(frozen=True)
class Finding:
    r"""One thing that is wrong, or suspicious, with a pair of programs.

    Arguments:
        site: The name of the site concerned, or ``None``.
        severity: ``"error"`` if training would fail or be wrong, else ``"warning"``.
        message: What was expected and what came.
        advice: How to mend it.
        role: The program concerned, ``"model"`` or ``"guide"``, or ``None``.
        line: The user's own line, as ``"file:number"``, or ``None``.

    Example:
        >>> print(Finding("z", "error", "expected a number, got a word", "write a number"))
        error at site 'z': expected a number, got a word: write a number
    """

    site: str | None
    severity: Severity
    message: str
    advice: str = ""
    role: str | None = None
    line: str | None = None

    @property
    def source(self) -> str:
        r"""The user's statement, as it stands in the file; empty where there is none."""
        file, _, number = (self.line or "").rpartition(":")
        return linecache.getline(file, int(number)).strip() if file else ""

    def __str__(self) -> str:
        where = "" if self.site is None else f" at site {self.site!r}"
        return f"{self.severity}{where}: {self.said}"

    @property
    def said(self) -> str:
        r"""All but the site and the severity, on one line."""
        quoted = f"{self.line}, `{self.source}`" if self.source else self.line
        role = None if self.role is None else f"the {self.role}"
        where = ", ".join(filter(None, [role, quoted]))
        advice = f": {self.advice}" if self.advice else ""
        return f"{self.message}{advice}" + (f" ({where})" if where else "")


def render(findings: Iterable[Finding]) -> str:
    r"""Findings as a compiler prints them, in plain text of at most 100 columns, paths apart.

    Arguments:
        findings: What :func:`pyro_vae.checks.check` returned.

    Returns:
        A paragraph for each; nothing if there is none.

    Example:
        >>> print(render([Finding("z", "error", "expected one, got two", "drop one", "model")]))
        error[z] in the model: expected one, got two
          mend: drop one
    """
    return "\n\n".join("\n".join(_paragraph(finding)) for finding in findings)


def _paragraph(finding: Finding) -> Iterator[str]:
    site = "" if finding.site is None else f"[{finding.site}]"
    role = "" if finding.role is None else f" in the {finding.role}"
    yield from _wrapped(f"{finding.severity}{site}{role}: {finding.message}", "", "    ")
    if finding.line:
        yield f"  --> {_short(finding.line)}"  # never broken: editors and terminals follow it
    if finding.source:
        yield "    | " + textwrap.shorten(finding.source, _WIDTH - 6, placeholder=" …")
    if finding.advice:
        yield from _wrapped(f"mend: {finding.advice}", "  ", "        ")


def _wrapped(text: str, first: str, later: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_on_hyphens=False,
    )


def _short(line: str) -> str:
    r"""A line's file as seen from the working directory, if it lies below."""
    return line.removeprefix(os.path.join(os.getcwd(), ""))


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
        raise ValueError("\n".join(f"{_place(error)}{error.said}" for error in errors))


def warn(findings: Iterable[Finding]) -> None:
    r"""Issues a ``UserWarning`` for each warning among the findings, at the user's line.

    Arguments:
        findings: What :func:`pyro_vae.checks.check` returned; what comes twice is said once.

    Example:
        >>> warn([Finding(None, "error", "expected little, got much")])
    """
    for finding in dict.fromkeys(f for f in findings if f.severity == "warning"):
        warn_user(f"{_place(finding)}{finding.said}")


def _place(finding: Finding) -> str:
    return "" if finding.site is None else f"site {finding.site!r}: "
