r"""The decoder of a pair, as a function of latents through which gradients pass."""

__all__ = ["Decoder"]

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.evaluation.encoded import guide_draw, local_sites
from pyro_vae.evaluation.generation import encoded
from pyro_vae.evaluation.rows import (
    Given,
    data_first,
    data_in_place,
    inferred,
    is_discrete,
    mean,
    outputs,
)
from pyro_vae.layout import Layout, sample_sites
from pyro_vae.pair import Pair

Batch = tuple[Tensor, ...]


class Decoder:
    r"""The means of what a model observes, given the latents of some data as one vector each.

    .. math:: f(z) = \mathbb{E}[x \mid z]

    Continuous latents of each datum are moved. Others stay where they are given the data: global
    ones at the guide's mean, what the model sums out at its most probable value.

    Arguments:
        pair: The model and the guide.
        layout: Their structure.
        batch: What both are called with, :math:`N` data.
        purpose: What the means are wanted for, as errors say it.

    Attributes:
        latents: The guide's means, all sites of a datum side by side, with shape :math:`(N, D)`.
        data: What is observed, in the same way, with shape :math:`(N, F)`.

    Raises:
        ValueError: If there is no data plate, no latent inside, or a discrete one.
    """

    def __init__(self, pair: Pair, layout: Layout, batch: Batch, purpose: str) -> None:
        self.pair, self.layout, self.batch = pair, layout, batch
        local = local_sites(guide_draw(pair, layout, batch, 1), purpose)
        if discrete := sorted(n for n, site in local.items() if is_discrete(site["fn"])):
            raise ValueError(
                f"expected continuous latents of each datum, for {purpose}, got the discrete sites "
                f"{discrete}: between their values there is nothing; ask for other metrics"
            )
        means = {n: site["value"] for n, site in encoded(pair, layout, batch).items()}
        trace = inferred(pair, layout, batch, means)
        sites = sample_sites(trace)
        seen = {n: site for n, site in outputs(trace).items() if n not in means}
        self.data = _joined([data_first(s["value"], s, layout.plate) for s in seen.values()])
        kept = {*means, *layout.enumerated, *layout.imputed} & set(sites)
        self.sites = {name: sites[name] for name in local}
        rows = [data_first(s["value"], s, layout.plate) for s in self.sites.values()]
        self.latents = _joined(rows)
        self.fixed = {name: sites[name]["value"] for name in kept - set(local)}

    def __call__(self, latents: Tensor) -> Tensor:
        r"""The means at latents with shape :math:`(N, D)`, as :math:`(N, F)`."""
        given, start = dict(self.fixed), 0
        for name, site in self.sites.items():
            first = data_first(site["value"], site, self.layout.plate)
            width = first[0].numel()
            values = latents[:, start : start + width].reshape(first.shape)
            given[name] = data_in_place(values, site, self.layout.plate)
            start += width
        trace = poutine.trace(Given(given)(self.pair.model)).get_trace(*self.batch)
        found = [data_first(mean(s["fn"]), s, self.layout.plate) for s in outputs(trace).values()]
        return _joined(found)


def _joined(rows: list[Tensor]) -> Tensor:
    r"""Rows of several sites side by side, with shape :math:`(N, F)`."""
    return torch.cat([values.reshape(values.shape[0], -1) for values in rows], -1)
