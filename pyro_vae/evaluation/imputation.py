r"""What is missing in data, given what is observed."""

__all__ = ["impute"]

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pyro_vae.counts import check_counts
from pyro_vae.data import Data
from pyro_vae.distributions import missing_values
from pyro_vae.draws import Draw
from pyro_vae.evaluation.chunks import Largest, chunk_sizes
from pyro_vae.evaluation.fields import Rows, read
from pyro_vae.evaluation.generation import Cut, Device, Fields, single
from pyro_vae.evaluation.rows import (
    check_rows,
    data_first,
    data_in_place,
    inferred,
    join,
    mean,
    outputs,
)
from pyro_vae.evaluation.setting import evaluating, parameter_dtype
from pyro_vae.evaluation.weights import check_weights
from pyro_vae.layout import Site, latent_sites, sample_sites
from pyro_vae.pair import Pair
from pyro_vae.programs import Program


def impute(
    model: Program,
    guide: Program,
    *batch: Data | Rows,
    draws: int | None = None,
    particles: int = 1000,
    batch_size: int = 256,
    data_plate: str | None = None,
    device: Device = None,
    seed: int = 0,
) -> Tensor | dict[str, Tensor]:
    r"""Data with what is missing in them replaced by its posterior mean, or by draws.

    .. math::
        \mathbb{E}[x^\text{mis} \mid x^\text{obs}] \approx \sum_{k=1}^K \bar w_k \,
            \mathbb{E}[x^\text{mis} \mid z_k] \qquad
        \bar w_k \propto \frac{p(x^\text{obs}, z_k)}{q(z_k \mid x^\text{obs})}

    What is missing are the features that are NaN at a site whose likelihood is
    :class:`pyro_vae.likelihoods.Masked`, and the data that an ``obs_mask`` hides. Means are those
    of the observed site's distribution; latents are drawn from the guide and weighted, and so a
    draw is one of the posterior in the limit of many particles, and follows the guide with one.
    The metrics ``ess`` and ``khat`` of :func:`evaluate` tell whether there are enough.

    Arguments:
        model, guide, batch: As for :func:`encode`.
        draws: The number of draws :math:`S`, in place of the mean.
        particles: The number of particles :math:`K`.
        batch_size, data_plate, device, seed: As for :func:`encode`.

    Returns:
        The completed data of the observed site, with shape :math:`(N, *)`, or :math:`(S, N, *)`
        of draws; of several, by site.

    Raises:
        TypeError: If the batch is no data.
        ValueError: If it has no rows, or rows that the programs do not take; if the weights of
            the pair are no importance weights (as for the metric ``"nll"``) or none is finite;
            for means, if the model sums sites out.

    References:
        | MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets
          (Mattei & Frellsen, 2019)
        | https://arxiv.org/abs/1812.02633

    Example:
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.likelihoods import Masked, Normal
        >>> from pyro_vae.models import VAE
        >>> from pyro_vae.nn import masked_mlp
        >>> model = VAE((3,), latents=2, likelihood=Masked(Normal()))
        >>> guide = AmortizedNormal((3,), {"z": 2}, masked_mlp)
        >>> x = torch.tensor([[1.0, torch.nan, 2.0]])
        >>> completed = impute(model, guide, x)
        >>> bool(completed.isfinite().all()), completed[0, 0].item()
        (True, 1.0)
        >>> impute(model, guide, x, draws=5).shape
        torch.Size([5, 1, 3])
    """
    check_counts(draws=draws, particles=particles, batch_size=batch_size)
    fields = read(batch, seed, parameter_dtype(model, guide))
    with evaluating(model, guide, rows=fields, device=device, seed=seed) as place:
        pair = Pair(model, guide, data_plate)
        cut = Cut(fields, pair, batch_size, place)
        parts = [_Batch(pair, cut, part, particles).completed(draws) for part in cut]
    return single(join(parts, dim=0 if draws is None else 1))


class _Batch:
    r"""A batch, and the particles that are drawn for it."""

    def __init__(self, pair: Pair, cut: Cut, batch: Fields, particles: int) -> None:
        self.pair, self.layout, self.batch, self.particles = pair, cut.layout, batch, particles
        with Largest() as largest:
            draw = self._draw(1)
            for trace in (draw.guide_trace, draw.model_trace):
                check_rows(trace, self.layout.plate, batch[0].shape[0])
            check_weights(draw, pair.guide, batch, "what is missing")
        rows = draw.batch_size
        elements = math.ceil(largest.elements / rows)
        _, self.chunk = chunk_sizes(elements, rows, particles, rows, cut.device)
        self.first = draw

    def completed(self, draws: int | None) -> dict[str, Tensor]:
        r"""What is observed, by site, and in its holes means or draws, with the data first."""
        found = self._means() if draws is None else self._samples(draws)
        return {
            name: torch.where(hidden, found[name], value)
            for name, (value, hidden) in self._holes().items()
        }

    def _holes(self) -> dict[str, tuple[Tensor, Tensor]]:
        r"""Observed values by site, and which of them are missing."""
        trace, plate = self.first.model_trace, self.layout.plate
        holes = {}
        for name, site in outputs(trace).items():
            value, hidden = site["value"], missing_values(site["fn"], site["value"])
            if name not in sample_sites(trace):  # one of an obs_mask
                mask = torch.as_tensor(site["mask"], device=value.device)
                hidden = hidden | ~mask.reshape(mask.shape + (1,) * site["fn"].event_dim)
            value, hidden = torch.broadcast_tensors(value, hidden)
            holes[name] = (data_first(value, site, plate), data_first(hidden, site, plate))
        return holes

    def _means(self) -> dict[str, Tensor]:
        if self.layout.enumerated:
            raise ValueError(
                f"expected a model that sums nothing out, for means of what is missing, got "
                f"{sorted(self.layout.enumerated)}: ask for draws=…, and average them"
            )
        found: dict[str, Tensor] = {}
        for draw, weights, share in self._weighted():
            sites = sample_sites(draw.model_trace)
            for name, site in outputs(draw.model_trace).items():
                drawn: Site = sites.get(f"{name}_unobserved", site)
                passed_on = f"{name}_unobserved" in self.layout.passed_on
                centre = drawn["value"] if passed_on else mean(drawn["fn"])
                rows = self._particles_second(centre, drawn, draw)
                average = (_like(weights.T, rows) * rows).sum(1)
                before = found.get(name, average)
                found[name] = before + _like(share, average) * (average - before)
        return {name: self._unrowed(rows) for name, rows in found.items()}

    def _samples(self, draws: int) -> dict[str, Tensor]:
        chosen, sites = self._chosen(draws)
        parts: list[dict[str, Tensor]] = []
        for index in range(draws):
            latents = {
                name: data_in_place(self._unrowed(rows[index]), sites[name], self.layout.plate)
                for name, rows in chosen.items()
            }
            trace = inferred(self.pair, self.layout, self.batch, latents, temperature=1)
            found = sample_sites(trace)
            part = {}
            for name in self._holes():
                site = outputs(trace)[name]
                hidden: Site = found.get(f"{name}_unobserved")
                value = site["fn"].sample() if hidden is None else hidden["value"]
                part[name] = data_first(value, site, self.layout.plate)
            parts.append(part)
        return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}

    def _chosen(self, draws: int) -> tuple[dict[str, Tensor], Mapping[str, Site]]:
        r"""Latents drawn by their weights, with shape :math:`(S, N, *)`, and their sites."""
        chosen: dict[str, Tensor] = {}
        for draw, weights, share in self._weighted():
            index = torch.distributions.Categorical(weights.T).sample(torch.Size([draws]))
            renewed = torch.rand(index.shape, device=index.device) < share
            for name, site in self._latents(draw).items():
                rows = self._particles_second(site["value"], site, draw)
                picked = rows[torch.arange(rows.shape[0], device=rows.device), index]
                before = chosen.get(name, picked)
                chosen[name] = torch.where(_like(renewed, picked), picked, before)
        return chosen, self._latents(self.first)

    def _latents(self, draw: Draw) -> dict[str, Site]:
        sites = sample_sites(draw.model_trace)
        kept = {name: sites[name] for name in sorted(self.layout.passed_on)}
        return {**latent_sites(draw.guide_trace), **kept}

    def _weighted(self) -> Iterator[tuple[Draw, Tensor, Tensor]]:
        r"""Draws with their weights, and the share of these in all so far, chunk after chunk.

        Weights have shape :math:`(K, N)` and add up to one in each chunk, shares :math:`(N)`.
        """
        total = torch.tensor(-math.inf)
        for start in range(0, self.particles, self.chunk):
            draw = self._draw(min(self.chunk, self.particles - start))
            log_weights = draw.log_weights
            log_sum = log_weights.logsumexp(0)
            if not bool(log_sum.isfinite().all()):
                raise ValueError(
                    "expected finite log-densities, got others: evaluate(…) says where"
                )
            total = torch.logaddexp(total.to(log_sum), log_sum)
            yield draw, log_weights.softmax(0), (log_sum - total).exp()

    def _draw(self, particles: int) -> Draw:
        model, guide = self.pair.model, self.pair.guide
        return Draw(model, guide, self.batch, {}, self.layout, particles)

    def _particles_second(self, tensor: Tensor, site: Site, draw: Draw) -> Tensor:
        r"""A tensor of a site with shape :math:`(N, K, *)`; the whole batch may be one datum."""
        tensor = tensor if draw.particles > 1 else tensor[None]
        if self.layout.plate is None:
            return tensor[None]
        return data_first(tensor, site, self.layout.plate)

    def _unrowed(self, rows: Tensor) -> Tensor:
        return rows[0] if self.layout.plate is None else rows


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    r"""A tensor with as many dimensions as another, of size one on the right."""
    return tensor.reshape(tensor.shape + (1,) * (other.dim() - tensor.dim()))
