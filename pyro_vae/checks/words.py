r"""Tensors in words."""

__all__ = ["bad", "listed", "value_range"]

from collections.abc import Sequence

from torch import Tensor


def bad(tensor: Tensor) -> str:
    r"""How many values are not finite."""
    counts = {"NaN": int(tensor.isnan().sum()), "infinite": int(tensor.isinf().sum())}
    found = " and ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"{found} of {tensor.numel()} values"


def value_range(tensor: Tensor) -> str:
    r"""The range of the values, or how many are not finite."""
    if not tensor.isfinite().all():
        return bad(tensor)
    if not tensor.numel():
        return "no values"
    low, high = tensor.min().item(), tensor.max().item()
    return f"values from {low:.4g} to {high:.4g}" if low != high else f"the value {low:.4g}"


def listed(names: Sequence[str]) -> str:
    r"""Names, of which many are not all said."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
