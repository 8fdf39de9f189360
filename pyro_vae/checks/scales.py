r"""Scales that are variances."""

__all__ = ["check_scales"]

from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.checks.finding import Finding
from pyro_vae.checks.graph import leaves, parts
from pyro_vae.checks.trial import Trial
from pyro_vae.distributions import innermost
from pyro_vae.layout import sample_sites

_FAMILIES = (dist.Normal, dist.LogNormal, dist.HalfNormal, dist.StudentT)

# what only moves or repeats numbers
_MOVES = (
    *("Alias", "Clone", "Expand", "Permute", "Reshape", "Select", "Slice", "Split", "Squeeze"),
    *("Transpose", "Unsafe", "Unsqueeze", "View"),
)

# what makes them positive: squared once more, they are variances
_POSITIVE = ("Abs", "Exp", "Sigmoid", "Softplus", "Sqrt")


def check_scales(*trials: Trial) -> Iterator[Finding]:
    r"""Finds scales that are the square of another scale, of a latent or of what is positive."""
    known = [(name, tensor) for trial in trials for name, tensor in _quantities(trial)]
    for trial in trials:
        for name, site in sample_sites(trial.trace).items():
            if not isinstance(innermost(site["fn"]), _FAMILIES):
                continue
            scale = _scale(site["fn"])
            if scale is None:
                continue
            of = next((what for what, t in known if _is_square(scale, t)), None)
            if of is None and _squares_positive(scale):
                of = "a positive number"
            if of is not None:
                yield _variance(trial, name, of)


def _variance(trial: Trial, name: str, of: str) -> Finding:
    return trial.finding(
        name,
        f"expected a scale, which is a standard deviation, got the square of {of}: a variance?",
        "give the distribution the root of the variance, such as sigma in place of sigma**2",
        "warning",
    )


def _scale(fn: Any) -> Tensor | None:
    found = innermost(fn)
    scale = parts(found).get("scale", getattr(found, "scale", None))
    return scale if isinstance(scale, Tensor) else None


def _quantities(trial: Trial) -> Iterator[tuple[str, Tensor]]:
    r"""Scales, and latents that are positive as scales are, with their names."""
    for name, site in sample_sites(trial.trace).items():
        scale = _scale(site["fn"])
        if scale is not None:
            yield f"the scale of site {name!r}", scale
        if not site["is_observed"] and _is_positive(site["fn"]):
            yield f"latent {name!r}", site["value"]


def _is_positive(fn: Any) -> bool:
    support = fn.support
    lower = getattr(getattr(support, "base_constraint", support), "lower_bound", None)
    return isinstance(lower, int | float) and lower >= 0


def _is_square(scale: Tensor, other: Tensor) -> bool:
    r"""Whether the one is the other's square, and not by chance.

    Constants may be: 0.5 and 0.25. What was computed from the same parameters is not, nor are
    many different numbers.
    """
    try:
        square = (other.detach() ** 2).expand_as(scale)
    except RuntimeError:
        return False
    if not torch.equal(scale.detach(), square) or bool((square == square.round()).all()):
        return False
    many = scale.unique().numel() > 2
    return many or bool(leaves([scale]).keys() & leaves([other]).keys())


def _squares_positive(scale: Tensor) -> bool:
    node: Any = _moved(scale.grad_fn)
    name = _operation(node)
    factors = [above for above, _ in node.next_functions] if node is not None else []
    doubled = name == "Mul" and len(factors) == 2 and factors[0] is factors[1]
    if not doubled and not (name == "Pow" and node._saved_exponent == 2):
        return False
    return _operation(_moved(factors[0], constants=True)) in _POSITIVE


def _moved(node: Any, constants: bool = False) -> Any:
    r"""What was only moved or repeated, or also had constants added and multiplied."""
    while node is not None:
        above = [f for f, _ in node.next_functions if f is not None]
        name = _operation(node)
        passed = name.startswith(_MOVES) or (constants and name in ("Add", "Mul", "Clamp"))
        if not passed or len(above) != 1:
            return node
        node = above[0]
    return None


def _operation(node: Any) -> str:
    return type(node).__name__.partition("Backward")[0]
