r"""The rows of sites: tensors with the data first, centres of distributions."""

__all__ = ["Centred", "Dreaming", "Given", "data_first", "data_in_place", "join", "mean", "outputs"]

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import MaskedDistribution, TorchDistribution, Unit
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyro_vae.layout import Site, plate_dims, sample_sites

_DRAWS = 100


class Centred(Messenger):
    r"""Gives every latent its mean, or its mode if it is discrete, in place of a draw."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not msg["done"] and not site_is_subsample(msg):
            msg["value"] = _centre(msg["fn"])


class Given(Messenger):
    r"""Gives latents their values by name; unlike under ``poutine.condition`` they stay latent."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


class Dreaming(UnconditionMessenger):
    r"""Draws what is observed.

    Other than by Pyro's own messenger, what is computed (``pyro.deterministic``) keeps the value
    and the shape that it has.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["infer"].get("_deterministic") and not isinstance(msg["fn"], Unit):
            super()._pyro_sample(msg)


def mean(fn: TorchDistribution) -> Tensor:
    r"""The mean, or else the mode, or else the average of 100 draws."""
    for name in ("mean", "mode"):
        if (value := _finite(fn, name)) is not None:
            return value
    return fn.sample(torch.Size([_DRAWS])).mean(0)


def _centre(fn: TorchDistribution) -> Tensor:
    if not _is_discrete(fn):
        return mean(fn)
    value = _finite(fn, "mode")  # a mean would be no value that the site can have
    return fn.sample() if value is None else value


def _finite(fn: TorchDistribution, name: str) -> Tensor | None:
    while isinstance(fn, MaskedDistribution):
        fn = fn.base_dist
    try:
        value: Tensor = getattr(fn, name)
    except (AttributeError, NotImplementedError):
        return None
    return value if bool(value.isfinite().all()) else None


def _is_discrete(fn: TorchDistribution) -> bool:
    try:
        return bool(fn.support.is_discrete)
    except NotImplementedError:
        return False


def outputs(trace: Trace) -> dict[str, Site]:
    r"""The sites that are, or were, observed; or else those whose values the program returned."""
    sites = {n: s for n, s in sample_sites(trace).items() if not isinstance(s["fn"], Unit)}
    observed = {
        _whole(name, sites): site
        for name, site in sites.items()
        if site["is_observed"] or site["infer"].get("was_observed")
    }
    returned = {id(leaf) for leaf in tree_leaves(trace.nodes["_RETURN"]["value"])}
    return observed or {n: s for n, s in sites.items() if id(s["value"]) in returned}


def _whole(name: str, sites: Mapping[str, Site]) -> str:
    r"""The name of a site of which this one is what an ``obs_mask`` lets through."""
    base = name.removesuffix("_observed")
    return base if f"{base}_unobserved" in sites else name


def data_first(tensor: Tensor, site: Site, plate: str | None) -> Tensor:
    r"""Moves the data plate's dimension to the front, if the site lies in that plate."""
    dim = plate_dims(site).get(plate or "")
    return tensor if dim is None else tensor.movedim(dim - site["fn"].event_dim, 0)


def data_in_place(tensor: Tensor, site: Site, plate: str | None) -> Tensor:
    r"""Moves the data's dimension from the front to where the site has it."""
    dim = plate_dims(site).get(plate or "")
    return tensor if dim is None else tensor.movedim(0, dim - site["fn"].event_dim)


def join(
    parts: Sequence[Mapping[str, Tensor]], shared: Sequence[str] = (), dim: int = 0
) -> dict[str, Tensor]:
    r"""Joins batches; of a site that all data share, the first one's value is taken."""
    first, *_ = parts
    return {
        name: first[name] if name in shared else torch.cat([part[name] for part in parts], dim)
        for name in first
    }
