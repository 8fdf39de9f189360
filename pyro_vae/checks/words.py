r"""Tensors in words."""

__all__ = ["listed", "value_range"]

from collections.abc import Sequence

from torch import Tensor

from pyro_vae.nonfinite import bad


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
