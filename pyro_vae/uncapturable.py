r"""What says that something cannot become part of a compiled graph."""

__all__ = ["StateMissing", "Uncapturable"]


class Uncapturable(ValueError):  # noqa: N818, read as "raise Uncapturable"
    r"""Raised where a step cannot be captured; says what stands in the way, and how to mend it."""


class StateMissing(Uncapturable):
    r"""Raised where an optimiser has no state of a parameter yet: an eager step makes it."""
