r"""A guide whose parameters are free for each datum, in its own family."""

__all__ = ["Freed", "offsets_of"]

from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from typing import Any, ClassVar

import torch
from pyro.distributions import Delta, Independent, MaskedDistribution, TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Size, Tensor
from torch.distributions import constraints, transform_to
from torch.distributions.constraints import Constraint

from pyro_vae.distributions import unwrapped
from pyro_vae.layout import Site

Offsets = Mapping[str, Mapping[str, Tensor]]

# parameters that say again what others say
_AGAIN = {"probs": "logits", "covariance_matrix": "scale_tril", "precision_matrix": "scale_tril"}


class Freed(Messenger):
    r"""Shifts the parameters of a guide's distributions, by offsets of each datum.

    .. math:: \lambda_{ns} = T_s\big(T_s^{-1}(\lambda_s(x_n, z_{<s})) + \delta_{ns}\big)

    The map :math:`T_s` takes real numbers to parameters. Where a site depends on earlier ones
    it goes on to do so, and where it does not, its parameters can become any of its family.
    Densities hold the offsets fixed, values do not: the gradient of a log-weight is that of
    Roeder et al., which vanishes, draw by draw, where the guide is the posterior.

    Arguments:
        offsets: The offsets :math:`\delta` by site and parameter, from :func:`offsets_of`;
            sites that have none are left alone.

    References:
        | Sticking the Landing: Simple, Lower-Variance Gradient Estimators for Variational
          Inference (Roeder et al., 2017)
        | https://arxiv.org/abs/1703.09194
    """

    def __init__(self, offsets: Offsets) -> None:
        super().__init__()
        self.offsets = offsets

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.offsets and not msg["done"]:
            moving = self.offsets[msg["name"]]
            still = {name: offset.detach() for name, offset in moving.items()}
            msg["fn"] = _Held(_shifted(msg["fn"], moving), _shifted(msg["fn"], still))


def offsets_of(sites: Mapping[str, Site]) -> dict[str, dict[str, Tensor]]:
    r"""Offsets of zero for the sites of a guide, of one particle.

    A ``Delta`` has none: it is a function of what was drawn before.

    Raises:
        ValueError: If a site is not reparametrised, or its distribution has no parameters that
            are free to move: names the site.
    """
    found = {}
    for name, site in sites.items():
        fn = site["fn"]
        if isinstance(_leaf(fn), Delta):
            continue
        if not fn.has_rsample:
            raise ValueError(
                f"expected reparametrised guide sites for the gap, got {_family(fn)} at {name!r}, "
                "through which no gradient finds the best of its family"
            )
        try:
            zeros = _zeros(_leaf(fn))
            same = zeros and _agrees(_shifted(fn, zeros), fn, site["value"])
        except (AttributeError, NotImplementedError, TypeError):
            same = False
        if not same:
            raise ValueError(
                f"expected a guide whose distributions have parameters of their own to be free, "
                f"got {_family(fn)} at {name!r}: ask for no gap, or draw a Normal there, and what "
                "is made of it by a Delta"
            )
        found[name] = zeros
    return found


class _Held(TorchDistribution):
    r"""Draws from one distribution, with the density of another, of the same values."""

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    has_rsample = True

    def __init__(self, moving: TorchDistribution, still: TorchDistribution) -> None:
        self.moving, self.still = moving, still
        super().__init__(moving.batch_shape, moving.event_shape, validate_args=False)

    @constraints.dependent_property
    def support(self) -> Constraint | None:
        return self.moving.support

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "_Held":
        return _Held(*(fn.expand(Size(batch_shape)) for fn in (self.moving, self.still)))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.moving.rsample(Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.still.log_prob(value)


def _shifted(fn: Any, offsets: Mapping[str, Tensor]) -> TorchDistribution:
    if isinstance(fn, Independent):
        return _shifted(fn.base_dist, offsets).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, MaskedDistribution):
        return _shifted(fn.base_dist, offsets).mask(fn._mask)
    raw = _unconstrained(fn)
    free = {
        name: transform_to(type(fn).arg_constraints[name])(raw[name] + offset)
        for name, offset in offsets.items()
    }
    return type(fn)(**_kept(fn, free), **free)


def _zeros(fn: Any) -> dict[str, Tensor]:
    r"""Offsets for those parameters that each datum has."""
    size, raw = len(fn.batch_shape), _unconstrained(fn)
    return {n: torch.zeros_like(r) for n, r in raw.items() if r.shape[:size] == fn.batch_shape}


def _unconstrained(fn: Any) -> dict[str, Tensor]:
    r"""The parameters of a distribution, as real numbers."""
    bounds = {n: c for n, c in fn.arg_constraints.items() if n in _arguments(fn)}
    names = [name for name in bounds if _AGAIN.get(name) not in bounds]
    return {name: transform_to(bounds[name]).inv(getattr(fn, name)) for name in names}


def _kept(fn: Any, free: Mapping[str, Tensor]) -> dict[str, Any]:
    r"""What else a distribution must be made with."""
    needed = [n for n, p in _arguments(fn).items() if p.default is Parameter.empty]
    told = {_AGAIN.get(name) for name in needed}
    return {name: getattr(fn, name) for name in needed if name not in free and name not in told}


def _arguments(fn: Any) -> dict[str, Parameter]:
    kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return {n: p for n, p in signature(type(fn)).parameters.items() if p.kind in kinds}


def _leaf(fn: Any) -> Any:
    return unwrapped(fn, Independent, MaskedDistribution)


def _family(fn: Any) -> str:
    return type(_leaf(fn)).__name__


def _agrees(made: TorchDistribution, fn: TorchDistribution, value: Tensor) -> bool:
    r"""Whether a distribution has the density of another, but for rounding."""
    one, other = made.log_prob(value), fn.log_prob(value)
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-3)
