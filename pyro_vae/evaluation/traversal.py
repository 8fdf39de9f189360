r"""What a model makes of latents of which one or two features are moved."""

__all__ = ["Plane", "Traversal", "traverse"]

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.counts import check_counts
from pyro_vae.data import Data
from pyro_vae.evaluation.features import Feature, feature_kl, quantiles
from pyro_vae.evaluation.fields import Rows, read
from pyro_vae.evaluation.generation import Cut, Device, encoded, single
from pyro_vae.evaluation.generator import Generator
from pyro_vae.evaluation.rows import Centred, data_first, inferred, is_discrete
from pyro_vae.evaluation.setting import evaluating, parameter_dtype
from pyro_vae.layout import Site, latent_sites, plate_dims, sample_sites
from pyro_vae.pair import Pair
from pyro_vae.programs import Program

Means = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class Plane:
    r"""Means of the data over two latent features.

    Arguments:
        features: The two features.
        values: What each of them takes, with shape :math:`(2, S)`.
        means: The means, with shape :math:`(S, S, *)`, at value :math:`i` of the first and
            :math:`j` of the second feature; of several observed sites, by site.
    """

    features: tuple[Feature, Feature]
    values: Tensor
    means: Means


@dataclass(frozen=True)
class Traversal:
    r"""Means of the data along each latent feature.

    Arguments:
        features: The :math:`D` features, the greatest divergence first.
        values: What each of them takes, with shape :math:`(D, S)`.
        means: The means, with shape :math:`(D, S, *)`; of several observed sites, by site.
        plane: The means over two features, if there are two.
    """

    features: tuple[Feature, ...]
    values: Tensor
    means: Means
    plane: Plane | None


def traverse(
    model: Program,
    guide: Program,
    *batch: Data | Rows,
    datum: int | None = 0,
    extent: float = 3.0,
    steps: int = 11,
    side: int = 15,
    axes: tuple[tuple[str, int], tuple[str, int]] | None = None,
    draws: int = 10,
    batch_size: int = 256,
    data_plate: str | None = None,
    device: Device = None,
    seed: int = 0,
) -> Traversal:
    r"""Moves one latent feature at a time, and two over a plane, and decodes them.

    .. math::
        \hat x_d(t) = \mathbb{E}[x \mid z_d = F_d^{-1}(\Phi(t)), z_{-d} = \bar z_{-d}], \qquad
        \bar z = \mathbb{E}_q[z \mid x_n]

    :math:`F_d` is the prior of feature :math:`d`: of a normal one, :math:`t` counts standard
    deviations. Rows go evenly from :math:`t = -3` to 3, the plane over evenly spaced quantiles
    of the prior. The prior is that given the other latents at :math:`\bar z`, at which they
    stay. What the model sums out has its most probable value.

    Features are in the order of :math:`\mathbb{E}_x \text{KL}(q(z_d \mid x) \| p(z_d))`, the
    greatest first: in closed form where the guide has one, else estimated with draws. Of a
    multivariate normal guide it is that of the marginals, of a flow that of normals with the
    flow's moments, of a point :math:`-\log p(z_d)`. A feature at about 0 is not used.

    Arguments:
        model: The generative program.
        guide: The program that draws its latents.
        batch: The data that the order comes from, as for :func:`encode`.
        datum: The index :math:`n` of the datum whose latents are moved; with ``None`` it is the
            prior's means in place of the posterior's.
        extent: How far rows reach to either side, in standard deviations of the prior.
        steps: The number of values :math:`S` in a row.
        side: The number of values along each side of the plane.
        axes: Site and index of the two features of the plane, by default the two with the
            greatest divergence, in the model's order.
        draws: The number of draws for each datum's divergence.
        batch_size, data_plate, device, seed: As for :func:`encode`.

    Raises:
        TypeError: If the batch is no data.
        ValueError: If it has no rows, or rows that the programs do not take; if latents are not
            continuous vectors inside the data plate whose features can be moved on their own;
            if an argument is out of range.

    References:
        | Auto-Encoding Variational Bayes (Kingma & Welling, 2014), of which Figure 4 is a plane
        | https://arxiv.org/abs/1312.6114
        | beta-VAE (Higgins et al., 2017), of which Figure 1 has rows
        | https://openreview.net/forum?id=Sy2fzU9gl

    Example:
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=3), AmortizedNormal((4,), {"z": 3})
        >>> found = traverse(model, guide, torch.eye(4))
        >>> found.means.shape, found.plane.means.shape
        (torch.Size([3, 11, 4]), torch.Size([15, 15, 4]))
    """
    check_counts(steps=steps, side=side, draws=draws, batch_size=batch_size)
    if not (isfinite(extent) and extent > 0):
        raise ValueError(f"expected a finite extent above 0, got {extent}")
    dtype = parameter_dtype(model, guide)
    fields = read(batch, seed, dtype)
    row = _row(fields, datum)
    with evaluating(model, guide, rows=fields, device=device, seed=seed) as place:
        pair = Pair(model, guide, data_plate)
        parts = list(Cut(fields, pair, batch_size, place))
        known = _features(pair, parts, draws)
        features = tuple(sorted(known, key=lambda feature: -feature.kl))
        chosen = _axes(known, features, axes)
        mover = _Mover(pair, tuple(f.to(place) for f in row), datum is None, dtype, batch_size)
        values = mover.values(features, torch.linspace(-extent, extent, steps, dtype=dtype))
        rows = [mover.decode({f: row}) for f, row in zip(features, values, strict=True)]
        plane = None if chosen is None else mover.plane(chosen, side)
    means = {name: torch.stack([found[name] for found in rows]) for name in rows[0]}
    return Traversal(features, values, single(means), plane)


class _Mover:
    r"""Decodes the latents of one datum of which some features are moved.

    Arguments:
        pair: The model and the guide.
        row: What both are called with, one datum.
        prior: Whether latents stay at the prior's means in place of the posterior's.
        dtype: What floating latents are.
        batch_size: The number of data that are decoded at once.
    """

    def __init__(
        self,
        pair: Pair,
        row: tuple[Tensor, ...],
        prior: bool,
        dtype: torch.dtype | None,
        batch_size: int,
    ) -> None:
        self.dtype, self.batch_size = dtype, batch_size
        self.source = Generator(pair.model, pair.guide, row, pair.data_plate, row[0].device)
        if prior:
            trace = poutine.trace(Centred()(pair.model)).get_trace(*row)
        else:
            layout = pair.plan(row, {}).layout
            means = {name: site["value"] for name, site in encoded(pair, layout, row).items()}
            trace = inferred(pair, layout, row, means)
        self.sites = {n: s for n, s in sample_sites(trace).items() if n in self.source.latents}

    def values(self, features: Iterable[Feature], positions: Tensor) -> Tensor:
        r"""What features take at positions of a standard normal, with shape :math:`(D, S)`."""
        found = {}
        for name in dict.fromkeys(feature.site for feature in features):
            site = self.sites[name]
            moved = data_first(quantiles(site["fn"], positions), site, self.source.plate)[0]
            found[name] = moved.reshape(len(positions), -1)
        return torch.stack([found[f.site][:, f.index] for f in features])

    def plane(self, features: tuple[Feature, Feature], side: int) -> Plane:
        r"""Decodes two features at all pairs of evenly spaced quantiles."""
        below = (torch.arange(side, dtype=self.dtype) + 0.5) / side
        values = self.values(features, torch.distributions.Normal(0.0, 1.0).icdf(below))
        first, second = (grid.flatten() for grid in torch.meshgrid(*values, indexing="ij"))
        found = self.decode({features[0]: first, features[1]: second})
        means = {name: mean.unflatten(0, (side, side)) for name, mean in found.items()}
        return Plane(features, values, single(means))

    def decode(self, moves: Mapping[Feature, Tensor]) -> dict[str, Tensor]:
        r"""The means of observed sites where features take values with shape :math:`(S)`."""
        count = len(next(iter(moves.values())))
        latents = {name: self._fixed(site, count) for name, site in self.sites.items()}
        for feature, values in moves.items():
            latents[feature.site].view(count, -1)[:, feature.index] = values
        for name in {feature.site for feature in moves}:
            _check_support(name, self.sites[name], latents[name])
        return self.source.decode(latents, self.dtype, self.batch_size)

    def _fixed(self, site: Site, count: int) -> Tensor:
        value = data_first(site["value"], site, self.source.plate)
        return value.expand(count, *value.shape[1:]).clone()


def _row(fields: tuple[Tensor, ...], datum: int | None) -> tuple[Tensor, ...]:
    rows = fields[0].shape[0]
    if datum is not None and not 0 <= datum < rows:
        raise ValueError(f"expected datum to be an index from 0 to {rows - 1}, got {datum}")
    start = datum or 0
    return tuple(field[start : start + 1] for field in fields)


def _features(pair: Pair, parts: list[tuple[Tensor, ...]], draws: int) -> list[Feature]:
    r"""All features, in the order of the guide."""
    layout = pair.plan(parts[0], {}).layout
    if layout.plate is None:
        raise ValueError(
            "expected a data plate, in which each datum has latents to be moved, got none: put "
            'the statements into `with pyro.plate("data", x.shape[0])`, or give data_plate='
        )
    sums: dict[str, Tensor] = {}
    size = sum(part[0].shape[0] for part in parts)
    for part in parts:
        for _ in range(draws):
            for name, kl in _divergences(pair, part).items():
                sums[name] = sums.get(name, 0.0) + kl.double().sum(0) / (size * draws)
    found = [
        Feature(name, index, kl)
        for name, total in sums.items()
        for index, kl in enumerate(total.tolist())
    ]
    if not found:
        raise ValueError("expected a guide that draws latents, got none to be moved")
    return found


def _divergences(pair: Pair, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
    r"""Each feature's divergence from its prior by site, with shape :math:`(N, D)`."""
    layout = pair.plan(batch, {}).layout
    drawn = {
        name: site
        for name, site in latent_sites(poutine.trace(pair.guide).get_trace(*batch)).items()
        if not site["infer"].get("is_auxiliary")
    }
    for name, site in drawn.items():
        _check_vector(name, site, layout.plate)
    values = {name: site["value"] for name, site in drawn.items()}
    priors = sample_sites(inferred(pair, layout, batch, values, temperature=1))
    found = {}
    for name, site in drawn.items():
        analytic = name in layout.analytic
        kl = feature_kl(site["fn"], priors[name]["fn"], site["value"], analytic)
        found[name] = data_first(kl, site, layout.plate).reshape(batch[0].shape[0], -1)
    return found


def _check_vector(name: str, site: Site, plate: str | None) -> None:
    if plate not in plate_dims(site):
        raise ValueError(
            f"expected latents inside the data plate {plate!r}, got {name!r} outside: what all "
            "data share cannot be moved for one of them"
        )
    if is_discrete(site["fn"]):
        raise ValueError(
            f"expected continuous latents to be moved, got the discrete site {name!r}: decode its "
            "values with pyro_vae.decode"
        )
    shape = tuple(data_first(site["value"], site, plate).shape)
    if len(shape) > 2:
        raise ValueError(
            f"expected latents that are vectors, with shape (N, D), got {name!r} with shape {shape}"
        )


def _check_support(name: str, site: Site, latents: Tensor) -> None:
    try:
        inside = site["fn"].support.check(latents)
    except NotImplementedError:
        return
    if not bool(inside.all()):
        raise ValueError(
            f"expected latents of which each feature can be moved on its own, got {name!r} with "
            f"support {site['fn'].support}: decode points of it with pyro_vae.decode"
        )


def _axes(
    known: list[Feature],
    features: tuple[Feature, ...],
    axes: tuple[tuple[str, int], tuple[str, int]] | None,
) -> tuple[Feature, Feature] | None:
    r"""The features of the plane: those asked for, or the first two in the guide's order."""
    if axes is None:
        found = sorted(features[:2], key=known.index)
        return (found[0], found[1]) if len(found) == 2 else None
    named = {(feature.site, feature.index): feature for feature in known}
    if len(axes) != 2 or axes[0] == axes[1] or not all(axis in named for axis in axes):
        raise ValueError(f"expected axes to be two of the features {[*named]}, got {axes}")
    return named[axes[0]], named[axes[1]]
