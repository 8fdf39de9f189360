r"""What a diagnosis says: findings in words, with their figures and what to try."""

__all__ = ["Diagnosis", "Finding", "Severity"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, Literal, get_args

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from pyro_vae.evaluation.estimate import Estimate

# from the worst to what could not be told
Severity = Literal["ill", "suspect", "well", "unknown"]

_STYLES = {"ill": "bold red", "suspect": "yellow", "well": "green", "unknown": "dim"}
_WIDTH = 100


@dataclass(frozen=True)
class Finding:
    r"""One thing that was looked at.

    Arguments:
        name: What was looked at, such as ``"collapse"``.
        severity: ``"ill"``, ``"suspect"`` or ``"well"``; ``"unknown"`` where it does not apply to
            the programs, or could not be told.
        words: What was found, in a sentence or two.
        figures: What it was found by.
        advice: What to try, in words; nothing where nothing needs to be done.
        flags: The same as options of ``pyro-vae fit``, where it is a switch.

    Example:
        >>> print(Finding("collapse", "ill", "Latents hold nothing.", advice="warm up").words)
        Latents hold nothing.
    """

    name: str
    severity: Severity
    words: str
    figures: Mapping[str, Estimate] = field(default_factory=dict)
    advice: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    r"""What :func:`pyro_vae.diagnose` found.

    Printed, it is a table of at most 100 columns; ``rich`` prints it as wide as the terminal.

    Arguments:
        findings: What was looked at, what causes other things before these.
        rows: How many data were looked at.
        size: How many there are.

    Example:
        >>> print(Diagnosis((Finding("collapse", "well", "Latents hold 5.2 nats."),), 256, 360))
        well  collapse  Latents hold 5.2 nats.
        <BLANKLINE>
        Nothing needs to be done. 256 of 360 data were looked at.
    """

    findings: tuple[Finding, ...]
    rows: int
    size: int

    def __getitem__(self, name: str) -> Finding:
        r"""The finding of a name."""
        return {finding.name: finding for finding in self.findings}[name]

    @property
    def severity(self) -> Severity:
        r"""That of the worst finding."""
        found = {finding.severity for finding in self.findings}
        return next(severity for severity in get_args(Severity) if severity in found)

    @property
    def first(self) -> Finding | None:
        r"""The finding whose advice to follow first: the earliest of the worst that have any."""
        advised = [finding for finding in self.findings if finding.advice]
        order = get_args(Severity)
        return min(advised, key=lambda finding: order.index(finding.severity), default=None)

    def to_dict(self) -> dict[str, Any]:
        r"""What was found, as JSON has it.

        Example:
            >>> Diagnosis((Finding("units", "well", "All are active."),), 4, 4).to_dict()["first"]
        """
        findings = [
            {
                "name": finding.name,
                "severity": finding.severity,
                "words": finding.words,
                "figures": {name: e.to_dict() for name, e in finding.figures.items()},
                "advice": finding.advice,
                "flags": list(finding.flags),
            }
            for finding in self.findings
        ]
        first = None if self.first is None else self.first.name
        return {
            "severity": self.severity,
            "first": first,
            "rows": self.rows,
            "size": self.size,
            "findings": findings,
        }

    def __rich__(self) -> Group:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        said: dict[str, str] = {}
        for finding in self.findings:
            severity = Text(finding.severity, style=_STYLES[finding.severity])
            before = said.setdefault(finding.words, finding.name)
            words = finding.words if before == finding.name else f"As for {before}."
            table.add_row(severity, finding.name, words)
        return Group(table, "", Text(self._end()))

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=_WIDTH, color_system=None)
        with console.capture() as capture:
            console.print(self, markup=False, highlight=False)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def _end(self) -> str:
        looked = (
            f"{self.rows} of {self.size} data were looked at."
            if self.rows < self.size
            else f"All {self.size} data were looked at."
        )
        if self.first is None:
            if self.severity == "unknown":
                return f"Nothing can be said. {looked}"
            known = all(finding.severity != "unknown" for finding in self.findings)
            what = "Nothing needs to be done" if known else "What can be told is well"
            return f"{what}. {looked}"
        flags = f"\n  pyro-vae fit ... {' '.join(self.first.flags)}" if self.first.flags else ""
        return f"Try first, for {self.first.name}: {self.first.advice}{flags}\n\n{looked}"
