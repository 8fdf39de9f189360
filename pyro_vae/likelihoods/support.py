r"""Data outside a likelihood's support."""

__all__ = ["check_support", "fitting", "support_message"]

import torch
from pyro.distributions import ExpandedDistribution, Independent, MaskedDistribution
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from pyro_vae.distributions import PartlyObserved, unwrapped
from pyro_vae.distributions.partly_observed import or_missing
from pyro_vae.likelihoods.continuous import ContinuousBernoulli, Normal
from pyro_vae.likelihoods.discrete import Bernoulli, Binomial, Categorical, Poisson
from pyro_vae.likelihoods.protocol import Likelihood

WORDS = {
    "Boolean": "the numbers 0 and 1",
    "Real": "finite real numbers",
    "Simplex": "vectors of non-negative numbers that sum to one",
    "OneHot": "vectors of zeros with a single one",
    "PositiveDefinite": "positive-definite matrices",
    "LowerCholesky": "Cholesky factors",
}


def check_support(fn: Distribution | Likelihood, x: Tensor, name: str = "x") -> None:
    r"""Checks that a distribution, or a likelihood, gives every value a density.

    Arguments:
        fn: The distribution at a site, or a likelihood, of which the support is taken for
            one feature.
        x: The values, with a shape that ``fn`` broadcasts with.
        name: What the values are called in the message, such as the name of the site.

    Raises:
        ValueError: If a value lies outside, or is not finite: names the support, the range of
            the values, and the likelihoods that would fit.

    Example:
        >>> check_support(Bernoulli(), torch.tensor([0.0, 1.0]))
        >>> check_support(Bernoulli(), torch.tensor([0.0, 255.0]), "pixels")
        Traceback (most recent call last):
        ...
        ValueError: pixels: expected the numbers 0 and 1 (Bernoulli()), got integers from 0 to 255;
        likelihoods that fit: Binomial(total_count=255), Categorical(levels=256), Poisson(),
        Normal()
    """
    support = _support(fn, x)[0]
    if support is not None and not _holds(support, x):
        raise ValueError(support_message(fn, x, name))


def support_message(fn: Distribution | Likelihood, x: Tensor, name: str = "x") -> str:
    r"""What :func:`check_support` says: the values expected, the range found, what would fit.

    Arguments:
        fn: The distribution at a site, or a likelihood.
        x: The values.
        name: What the values are called.
    """
    support, family = _support(fn, x)
    names = fitting(x)
    advice = (
        f"likelihoods that fit: {', '.join(names)}"
        if names
        else "no likelihood fits values that are not finite: remove, impute or mask them (Masked "
        "is a likelihood of data whose missing features are NaN)"
    )
    return f"{name}: expected {_words(support)} ({family}), got {_range(x)}; {advice}"


def fitting(x: Tensor) -> list[str]:
    r"""Names the likelihoods, as one types them, whose support holds every value.

    Arguments:
        x: The values, of any shape.

    Example:
        >>> fitting(torch.tensor([0.0, 0.5, 1.0]))
        ['ContinuousBernoulli()', 'Normal()']
    """
    finite = x[x.isfinite()]
    top = min(max(1, int(finite.max())), 2**24) if finite.numel() else 1
    candidates: dict[str, Likelihood] = {
        "Bernoulli()": Bernoulli(),
        f"Binomial(total_count={top})": Binomial(top),
        f"Categorical(levels={top + 1})": Categorical(min(top, 255) + 1),
        "Poisson()": Poisson(),
        "ContinuousBernoulli()": ContinuousBernoulli(),
        "Normal()": Normal(),
    }

    supports = {name: _support(fn, x)[0] for name, fn in candidates.items()}
    return [name for name, support in supports.items() if support and _holds(support, x)]


def _support(fn: Distribution | Likelihood, x: Tensor) -> tuple[Constraint | None, str]:
    r"""Returns the support, or None where it is not known, and what has it."""
    if not isinstance(fn, Distribution):
        outputs = torch.zeros(fn.parameters_per_feature, device=x.device)
        return fn(outputs, Size()).support, repr(fn)

    wrappers = (Independent, MaskedDistribution, ExpandedDistribution, PartlyObserved)
    family = unwrapped(fn, *wrappers)
    try:
        return fn.support, type(family).__name__
    except NotImplementedError:
        return None, type(family).__name__


def _holds(support: Constraint, x: Tensor) -> bool:
    # torch's constraint for the real numbers admits infinities, whose density is zero; NaN it
    # does not, nor does any that says not that values may be missing
    return bool(support.check(x).all() & ~x.isinf().any())


def _range(x: Tensor) -> str:
    r"""Describes values in words: whether they are integers, their range, what is not finite."""
    finite = x[x.isfinite()]
    parts = [
        f"{count} {word}"
        for word, count in (("NaN", x.isnan().sum()), ("infinite", x.isinf().sum()))
        if count
    ]
    if finite.numel():
        kind = "integers" if not finite.is_floating_point() or _whole(finite) else "real numbers"
        parts.insert(0, f"{kind} from {_number(finite.min())} to {_number(finite.max())}")

    return " and ".join(parts) or "no values"


def _words(support: Constraint | None) -> str:
    r"""Describes a support in words."""
    if support is None:
        return "values of positive density"
    if isinstance(support, constraints.independent):
        return _words(support.base_constraint)
    if isinstance(support, or_missing):
        return f"{_words(support.base_constraint)}, or NaN where they are missing"

    name = type(support).__name__.strip("_")
    kind = "integers" if "Integer" in name else "real numbers"
    if name in WORDS:
        return WORDS[name]
    if hasattr(support, "upper_bound") and hasattr(support, "lower_bound"):
        return f"{kind} from {_number(support.lower_bound)} to {_number(support.upper_bound)}"
    if hasattr(support, "lower_bound"):
        above = "of at least" if "Eq" in name or "Integer" in name else "above"
        return f"{kind} {above} {_number(support.lower_bound)}"
    return f"values in {support}"


def _whole(x: Tensor) -> bool:
    return bool((x == x.round()).all())


def _number(bound: float | Tensor) -> str:
    r"""Formats a number, or the range of several."""
    values = torch.as_tensor(bound)
    low, high = values.min().item(), values.max().item()
    return f"{low:.6g}" if low == high else f"{low:.6g}…{high:.6g}"
