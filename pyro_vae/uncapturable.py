r"""What stands in the way of a graph."""

__all__ = ["Uncapturable"]


class Uncapturable(ValueError):  # noqa: N818
    r"""A step cannot become a graph: the message says why, and how to mend it."""
