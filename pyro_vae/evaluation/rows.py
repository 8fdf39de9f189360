r"""The rows of sites: tensors with the data first, centres of distributions."""

__all__ = [
    "Centred",
    "Given",
    "Mean",
    "blind_mean",
    "check_rows",
    "data_first",
    "data_in_place",
    "inferred",
    "is_discrete",
    "join",
    "mean",
    "outputs",
    "stated",
]

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import MaskedDistribution, TorchDistribution, Unit
from pyro.infer import infer_discrete
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyro_vae.distributions import unwrapped
from pyro_vae.layout import Layout, Site, frames, plate_dims, sample_sites
from pyro_vae.pair import Pair

_DRAWS = 100

Mean = Callable[[TorchDistribution], Tensor]


class Given(Messenger):
    r"""Gives latents their values by name; unlike under ``poutine.condition`` they stay latent."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


def mean(fn: TorchDistribution) -> Tensor:
    r"""The mean, or else the mode, or else the average of 100 draws: the first that is finite."""
    for name in ("mean", "mode"):
        if (value := stated(fn, name)) is not None and bool(value.isfinite().all()):
            return value
    return fn.sample(torch.Size([_DRAWS])).mean(0)


def blind_mean(fn: TorchDistribution) -> Tensor:
    r"""What :func:`mean` gives, without a look at values, wherever this is finite."""
    found = [v for name in ("mean", "mode") if (v := stated(fn, name)) is not None]
    if not found:
        return fn.sample(torch.Size([_DRAWS])).mean(0)
    if found[0].dtype != found[-1].dtype:
        return found[0]  # which type it has would depend on values
    return torch.where(found[0].isfinite().all(), found[0], found[-1])


def stated(fn: TorchDistribution, name: str) -> Tensor | None:
    r"""What a distribution tells of itself, such as its mean; ``None`` where it does not know."""
    try:
        value: Tensor = getattr(unwrapped(fn, MaskedDistribution), name)
    except (AttributeError, NotImplementedError):
        return None
    return value


class Centred(Messenger):
    r"""Gives every latent its mean, or its mode if it is discrete, in place of a draw.

    Arguments:
        mean: What gives means: :func:`mean`, or :func:`blind_mean`, then without a look at
            modes either.
    """

    def __init__(self, mean: Mean = mean) -> None:
        super().__init__()
        self.mean = mean

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not msg["done"] and not site_is_subsample(msg):
            msg["value"] = self._centre(msg["fn"])

    def _centre(self, fn: TorchDistribution) -> Tensor:
        if not is_discrete(fn):
            return self.mean(fn)
        value = stated(fn, "mode")  # a mean would be no value that the site can have
        if value is None or (self.mean is mean and not bool(value.isfinite().all())):
            return fn.sample()
        return value


def is_discrete(fn: TorchDistribution) -> bool:
    r"""Whether the density is a mass function."""
    try:
        support = fn.support
    except NotImplementedError:
        return False
    return support is not None and bool(support.is_discrete)


def inferred(
    pair: Pair,
    layout: Layout,
    batch: tuple[Any, ...],
    latents: Mapping[str, Tensor],
    temperature: int = 0,
) -> Trace:
    r"""The model at values of its latents, with what it sums out inferred.

    Arguments:
        pair: The model and the guide.
        layout: Their structure.
        batch: What the model is called with.
        latents: The values by site, as the guide has them.
        temperature: Whether the sites that are summed out have values drawn from their
            posterior (1) or those of the highest posterior probability (0).
    """
    program = poutine.condition(pair.model, data=dict(latents))
    if layout.enumerated:
        program = infer_discrete(program, -layout.nesting - 1, temperature=temperature)
    return poutine.trace(program).get_trace(*batch)


def outputs(trace: Trace) -> dict[str, Site]:
    r"""The sites that are, or were, observed; or else those whose values the program returned."""
    sites = {n: s for n, s in sample_sites(trace).items() if not isinstance(s["fn"], Unit)}
    observed = {
        _whole(name, sites): site
        for name, site in sites.items()
        if site["is_observed"] or site["infer"].get("was_observed")
    }
    if observed:
        return observed
    returned = {id(leaf) for leaf in tree_leaves(trace.nodes["_RETURN"]["value"])}
    return {n: s for n, s in sites.items() if id(s["value"]) in returned}


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
    first, *others = parts
    return {
        name: torch.cat([part[name] for part in parts], dim)
        if others and name not in shared
        else value
        for name, value in first.items()
    }


def check_rows(trace: Trace, plate: str | None, rows: int) -> None:
    r"""Raises unless the data plate has the size of the batch."""
    sites = sample_sites(trace).values()
    sizes = {frame.size for site in sites for frame in frames(site) if frame.name == plate}
    if sizes - {rows}:
        raise ValueError(
            f"expected the data plate {plate!r} to hold the {rows} rows of a batch, got "
            f"{sorted(sizes)}: give the plate the size x.shape[0] or subsample= the rows' indices, "
            "or, if a program is made for all the data, give batch_size= their number"
        )
