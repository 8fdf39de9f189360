r"""What says that something cannot become part of a compiled graph."""

__all__ = ["Uncapturable"]


class Uncapturable(ValueError):  # noqa: N818, read as "raise Uncapturable"
    r"""Raised where a step cannot be captured; says what stands in the way, and how to mend it."""
