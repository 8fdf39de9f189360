r"""What latents tell of data: mutual information under the guide, and under the model."""

__all__ = ["MOST", "mutual_information"]

import math
from dataclasses import replace

import pyro
import torch
from torch import Tensor

from pyro_vae.capturable import Mode
from pyro_vae.evaluation.chunks import Largest, chunk_sizes
from pyro_vae.evaluation.encoded import (
    across,
    check_densities,
    guide_draw,
    local_sites,
    log_densities,
)
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.generation import Cut
from pyro_vae.evaluation.streaming import Moments
from pyro_vae.layout import plate_dims
from pyro_vae.objectives.divergence import kl_terms
from pyro_vae.pair import Pair

MOST = 4096  # data, whose work is that of 2^25 densities

Fields = tuple[Tensor, ...]


def mutual_information(
    pair: Pair,
    fields: Fields,
    place: torch.device,
    *,
    particles: int,
    batch_size: int | None,
    data_size: int,
    seed: int,
    capture: Mode,
) -> dict[str, Estimate]:
    r"""The information between data and latents under the guide, and the marginal divergence.

    .. math::
        q(z) = \frac{1}{N} \sum_{j=1}^N q(z \mid x_j) \qquad
        \underbrace{\mathbb{E}_x \text{KL}(q(z \mid x) \| p(z))}_\text{mutual\_information.kl}
        = \underbrace{\mathbb{E}_x \text{KL}(q(z \mid x) \| q(z))}_\text{mutual\_information}
        + \underbrace{\text{KL}(q(z) \| p(z))}_\text{marginal\_kl}

    All three are sampled with the same draws, for each datum too, so that they add up exactly.
    Each datum has :math:`\max(2, \lceil K / N \rceil)` draws, every one with its density under
    all :math:`N` posteriors.

    - ``mutual_information`` is unbiased for these :math:`N` data as the whole of the population
      (Hoffman & Johnson). Since each draw's own posterior is part of :math:`q(z)`, it is at most
      :math:`\log N`: for the population that the data come from it is on average too small, by
      much where it comes near :math:`\log N`, and ``marginal_kl`` too large by as much.
    - ``mutual_information.above`` leaves each datum's own posterior out of :math:`q(z)`: for the
      population it is on average too large (Poole et al.), by much where posteriors are apart. So
      is ``mutual_information.kl``; the command line shows the smaller of the two.
    - ``mutual_information.analytic`` is the difference of the KL in closed form and the marginal
      divergence (He et al.), where there is a closed form at all sites. It estimates the same as
      ``mutual_information``, and may be above :math:`\log N` by chance.

    The prior must not depend on data. The error over the data is that given :math:`q(z)`. Since
    the work grows with the square of :math:`N`, of more than 4096 data as many are drawn by the
    seed, and ``per_datum`` is then ``None``.

    Arguments:
        pair: The model and the guide.
        fields: What both are called with, :math:`N` data.
        place: Where it is computed.
        particles: How many draws :math:`K` there are at least, those of all data together.
        batch_size: The most data in a batch, by default 256.
        data_size: Of no account: there are no global latents.
        seed: The seed of draws.
        capture: Nothing is captured.

    Raises:
        ValueError: If there are not at least two data, if there is no data plate or no latent
            inside; if a site of the guide is global, a point or a helper, or has a scale.

    References:
        | ELBO surgery (Hoffman & Johnson, 2016)
        | http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
        | Lagging Inference Networks and Posterior Collapse (He et al., 2019)
        | https://arxiv.org/abs/1901.05534
        | On Variational Bounds of Mutual Information (Poole et al., 2019)
        | https://arxiv.org/abs/1905.06922

    Example:
        >>> from pyro_vae.evaluation.setting import evaluating
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> x, model, guide = torch.eye(4), VAE((4,), 2), AmortizedNormal((4,), {"z": 2})
        >>> with evaluating(model, guide, rows=(x,)) as place:
        ...     found = mutual_information(
        ...         Pair(model, guide), (x,), place, particles=8, batch_size=None, data_size=4,
        ...         seed=0, capture=False)
        >>> total = float(found["mutual_information"]) + float(found["marginal_kl"])
        >>> abs(total - float(found["mutual_information.kl"])) < 1e-5
        True
        >>> float(found["mutual_information"]) < math.log(4)
        True
    """
    if (whole := fields[0].shape[0]) < 2:
        raise ValueError(
            f"expected at least two data, which latents may tell apart, got {whole}: give more"
        )
    if whole <= MOST:
        return _estimates(pair, fields, place, particles, batch_size, data_size, seed)
    generator = torch.Generator("cpu").manual_seed(seed)
    index = torch.randperm(whole, generator=generator, device="cpu")[:MOST].sort().values
    some = tuple(field[index.to(field.device)] for field in fields)
    found = _estimates(pair, some, place, particles, batch_size, data_size, seed)
    return {name: replace(estimate, per_datum=None) for name, estimate in found.items()}


def _estimates(
    pair: Pair,
    fields: Fields,
    place: torch.device,
    particles: int,
    batch_size: int | None,
    data_size: int,
    seed: int,
) -> dict[str, Estimate]:
    size = fields[0].shape[0]
    cut = Cut(fields, pair, min(batch_size or 256, size), place)
    first = next(iter(cut))
    check_densities(pair.draw(first, {}, 2, data_size), "mutual information")
    pyro.set_rng_seed(seed)  # whatever was drawn so far
    draws = _Draws(pair, cut, max(2, math.ceil(particles / size)), data_size)
    others = draws.others(chunk=_chunk(pair, cut, size * draws.count))
    return draws.estimates(others.double(), seed)


def _chunk(pair: Pair, cut: Cut, total: int) -> int:
    r"""How many draws are compared with a batch at once."""
    batch = next(iter(cut))
    rows = batch[0].shape[0]
    with Largest() as largest:
        draw = guide_draw(pair, cut.layout, batch, 2)
        draw.combine(draw.log_guide.items())
    elements = math.ceil(largest.elements / (2 * rows))
    return chunk_sizes(elements, rows, total, rows, cut.device)[1]


class _Draws:
    r"""A few draws of each datum, and their densities under guide and prior.

    Arguments:
        pair: The model and the guide.
        cut: The data, in batches.
        count: The number of draws :math:`S` of each datum, at least 2.
        data_size: How many data share the global latents.
    """

    def __init__(self, pair: Pair, cut: Cut, count: int, data_size: int) -> None:
        self.pair, self.cut, self.count = pair, cut, count
        values: dict[str, list[Tensor]] = {}
        own, kl, closed = [], [], []
        for batch in cut:
            draw = pair.draw(batch, {}, count, data_size)
            sites = local_sites(draw, "mutual information")
            for name, site in sites.items():
                values.setdefault(name, []).append(across(draw, site))
            plate = draw.layout.plate or ""
            self.dims = {n: plate_dims(s)[plate] - s["fn"].event_dim for n, s in sites.items()}
            own.append(draw.combine(draw.log_guide.items()))
            kl.append(draw.combine(kl_terms(draw, "sampled").items()))
            if set(draw.kl) == set(draw.log_guide):
                closed.append(draw.combine(draw.kl.items()))
        self.values = {name: torch.cat(parts) for name, parts in values.items()}
        self.own, self.kl = torch.cat(own, -1).double(), torch.cat(kl, -1).double()  # (S, N)
        self.closed = torch.cat(closed, -1).double() if closed else None

    def others(self, chunk: int) -> Tensor:
        r"""The sum of the draws' densities under all other posteriors, in logarithms, (S, N)."""
        size = self.own.shape[1]
        datum = torch.arange(size, device=self.own.device).repeat_interleave(self.count)
        found = torch.full((len(datum),), -math.inf, device=self.own.device, dtype=torch.float64)
        start = 0
        for batch in self.cut:
            columns = torch.arange(start, start + batch[0].shape[0], device=datum.device)
            for part in torch.arange(len(datum), device=datum.device).split(chunk):
                values = {name: value[part] for name, value in self.values.items()}
                log_q = log_densities(self.pair, self.cut.layout, batch, values, self.dims)
                log_q = log_q.double().masked_fill(datum[part, None] == columns, -math.inf)
                found[part] = torch.logaddexp(found[part], log_q.logsumexp(-1))
            start += len(columns)
        return found.reshape(size, self.count).T

    def estimates(self, others: Tensor, seed: int) -> dict[str, Estimate]:
        r"""The estimates, from what :meth:`others` gives."""
        size = self.own.shape[1]
        information = self.own - torch.logaddexp(others, self.own) + math.log(size)
        marginal = self.kl - information
        found = {
            "mutual_information": information,
            "mutual_information.above": self.own - others + math.log(size - 1),
            "marginal_kl": marginal,
            "mutual_information.kl": self.kl,
        }
        if self.closed is not None:
            found["mutual_information.analytic"] = self.closed - marginal
        return {name: _estimate(values, seed) for name, values in found.items()}


def _estimate(values: Tensor, seed: int) -> Estimate:
    r"""The estimate from draws with shape :math:`(S, N)`."""
    moments = Moments()
    moments.update(values)
    return Estimate.of(moments.mean, math.sqrt(moments.variance) / values.shape[1], seed=seed)
