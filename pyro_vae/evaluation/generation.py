r"""What a model generates, and how a guide encodes."""

__all__ = ["Cut", "Device", "decode", "encode", "encoded", "reconstruct", "sample", "single"]

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.capturable import Mode
from pyro_vae.captured import Captured
from pyro_vae.counts import check_counts
from pyro_vae.data import Data
from pyro_vae.evaluation.chunks import batches, few
from pyro_vae.evaluation.fields import Batch, Rows, read
from pyro_vae.evaluation.generator import Generator
from pyro_vae.evaluation.rows import (
    Centred,
    Mean,
    blind_mean,
    check_rows,
    data_first,
    inferred,
    join,
    mean,
    outputs,
)
from pyro_vae.evaluation.setting import evaluating, parameter_dtype
from pyro_vae.layout import Layout, Site, latent_sites
from pyro_vae.pair import Pair
from pyro_vae.programs import Program

Device = torch.device | str | None
Fields = tuple[Tensor, ...]
Found = tuple[dict[str, Tensor], dict[str, Tensor]]


def encode(
    model: Program,
    guide: Program,
    *batch: Data | Rows,
    draws: int | None = None,
    batch_size: int = 256,
    data_plate: str | None = None,
    device: Device = None,
    seed: int = 0,
    capture: Mode = "auto",
) -> dict[str, Tensor]:
    r"""The latents of data: the means of the guide, or draws from it.

    A site's mean is that given the means of the sites that the guide draws before it. A discrete
    site gives its mode, one without a mean (a flow, say) the average of 100 draws.

    Arguments:
        model: The generative program.
        guide: The program that draws its latents.
        batch: What both are called with: tensors or arrays with shapes :math:`(N, *)`, or a data
            set, of which it is ``x`` of the test split, drawn as :func:`evaluate` does. What is
            floating is converted to the type of the parameters.
        draws: The number of draws :math:`S`, in place of the mean.
        batch_size: The number of data that are encoded at once.
        data_plate: The name of the data plate; by default ``data``, else the only plate that
            all observed sites share, else none: then all data are encoded at once.
        device: Where it is computed, by default where the parameters are.
        seed: The seed of what is drawn.
        capture: Whether batches run as one compiled graph, as for :func:`evaluate`; ``"auto"``
            where there are at least 40,000, each draw counted.

    Returns:
        The latents by site, with shape :math:`(N, *)`, or :math:`(S, N, *)` of draws; those
        outside the data plate have no dimension :math:`N`.

    Raises:
        TypeError: If the batch is no data.
        ValueError: If it has no rows, or rows that the programs do not take.

    Example:
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> encode(model, guide, torch.eye(4))["z"].shape
        torch.Size([4, 2])
    """
    check_counts(draws=draws, batch_size=batch_size)
    fields = read(batch, seed, parameter_dtype(model, guide))
    with evaluating(model, guide, rows=fields, device=device, seed=seed) as place:
        pair = Pair(model, guide, data_plate)
        cut = Cut(fields, pair, batch_size, place)
        run = _encoder(pair, cut, draws, capture)
        if draws is None:
            parts = [run(*part)[0] for part in cut]
        else:
            drawn = ([run(*part)[0] for _ in range(draws)] for part in cut)
            parts = [{n: torch.stack([d[n] for d in ds]) for n in ds[0]} for ds in drawn]
    return join(parts, sorted(cut.layout.shared), dim=0 if draws is None else 1)


def reconstruct(
    model: Program,
    guide: Program,
    *batch: Data | Rows,
    batch_size: int = 256,
    data_plate: str | None = None,
    device: Device = None,
    seed: int = 0,
    capture: Mode = "auto",
) -> Tensor | dict[str, Tensor]:
    r"""The means of observed sites, given the latents that :func:`encode` finds.

    .. math:: \hat x_n = \mathbb{E}[x \mid z = \mathbb{E}_q[z \mid x_n]]

    Sites that the model sums out have the values of the highest posterior probability. What
    the model observes besides stays observed.

    Arguments:
        model, guide, batch: As for :func:`encode`, and so is the rest.

    Returns:
        The mean of the observed site, with shape :math:`(N, *)`; of several, by site.

    Raises:
        TypeError: If the batch is no data.
        ValueError: If it has no rows, or rows that the programs do not take.

    Example:
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> reconstruct(model, guide, torch.eye(4)).shape
        torch.Size([4, 4])
    """
    check_counts(batch_size=batch_size)
    fields = read(batch, seed, parameter_dtype(model, guide))
    with evaluating(model, guide, rows=fields, device=device, seed=seed) as place:
        pair = Pair(model, guide, data_plate)
        cut = Cut(fields, pair, batch_size, place)
        run, blind = (partial(_reconstructed, pair, cut.layout, m) for m in (mean, blind_mean))
        programs = {"model": pair.model, "guide": pair.guide}
        call = Captured(run, programs, capture, cut.calls, blind=blind)
        parts = [call(*part)[0] for part in cut]
    return single(join(parts))


def decode(
    model: Program,
    guide: Program,
    latents: Rows | Mapping[str, Rows],
    *,
    batch: Batch | None = None,
    batch_size: int = 256,
    data_plate: str | None = None,
    device: Device = None,
    seed: int = 0,
    capture: Mode = "auto",
) -> Tensor | dict[str, Tensor]:
    r"""The means of observed sites, given latents.

    .. math:: \hat x_n = \mathbb{E}[x \mid z_n]

    Sites that are not given, such as those that the model sums out, are drawn from the model.

    Arguments:
        model, guide: As for :func:`encode`.
        latents: The latents by site, as :func:`encode` returns them, with shapes
            :math:`(N, *)`; of a single site, the tensor will do.
        batch: What the model is called with, if it cannot be called as ``model(n=N)``: rows
            that are repeated up to :math:`N`. What it observes of them is ignored. They
            come as a tuple, or alone, and are of the kinds that :func:`encode` takes.
        batch_size, data_plate, device, seed, capture: As for :func:`encode`.

    Returns:
        The mean of the observed site, with shape :math:`(N, *)`; of several, by site.

    Raises:
        ValueError: If the latents are not those of the model, or if a batch is needed.

    Example:
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> decode(model, guide, torch.randn(3, 2)).shape
        torch.Size([3, 4])
    """
    check_counts(batch_size=batch_size)
    dtype = parameter_dtype(model, guide)
    fields = None if batch is None else read(batch, seed, dtype)
    with evaluating(model, guide, rows=fields or (), device=device, seed=seed) as place:
        source = Generator(model, guide, fields, data_plate, place)
        found = source.decode(latents, dtype, batch_size, capture)
    return single(found)


def sample(
    model: Program,
    guide: Program,
    n: int = 64,
    *,
    mean: bool = False,
    batch: Batch | None = None,
    batch_size: int = 256,
    data_plate: str | None = None,
    device: Device = None,
    seed: int = 0,
    capture: Mode = "auto",
) -> Tensor | dict[str, Tensor]:
    r"""Draws data from the model.

    .. math:: z_n \sim p(z), \quad x_n \sim p(x \mid z_n)

    Global latents are drawn from the guide, for which a batch is needed.

    Arguments:
        model, guide: As for :func:`encode`.
        n: The number of draws :math:`N`.
        mean: Whether to return :math:`\mathbb{E}[x \mid z_n]` in place of :math:`x_n`, which
            makes smoother pictures.
        batch: As for :func:`decode`.
        batch_size, data_plate, device, seed, capture: As for :func:`encode`.

    Returns:
        The draws of the observed site, with shape :math:`(N, *)`; of several, by site.

    Raises:
        ValueError: If a batch is needed.

    Example:
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> sample(model, guide, n=3).shape
        torch.Size([3, 4])
    """
    check_counts(n=n, batch_size=batch_size)
    fields = None if batch is None else read(batch, seed, parameter_dtype(model, guide))
    with evaluating(model, guide, rows=fields or (), device=device, seed=seed) as place:
        source = Generator(model, guide, fields, data_plate, place)
        size = batch_size if source.plate else 1
        rows = torch.arange(n, device=place).split(size)
        call = source.captured(means=mean, mode=capture, calls=n // size)
        parts = []
        for part in rows:
            found = call(part, {})
            # without a data plate the whole batch is one datum
            parts.append(found if source.plate else {k: t[None] for k, t in found.items()})
    return single(join(parts))


class Cut:
    r"""A batch cut into smaller ones, if there is a data plate to be cut.

    Arguments:
        batch: The batch.
        pair: The model and the guide.
        batch_size: The number of data in a part.
        device: Where parts are moved to.
    """

    def __init__(self, batch: Fields, pair: Pair, batch_size: int, device: torch.device) -> None:
        self.batch, self.device, rows = batch, device, batch[0].shape[0]
        self.layout = pair.plan(few(batch, device, batch_size), {}).layout
        self.size = rows if self.layout.plate is None else batch_size
        self.calls = max(1, rows // self.size)  # those of the first one's size

    def __iter__(self) -> Iterator[Fields]:
        return batches(self.batch, self.size, self.device)


def _encoder(pair: Pair, cut: Cut, draws: int | None, capture: Mode) -> Captured:
    programs = {"guide": pair.guide}
    if draws is not None:
        run = partial(_encoded, pair.guide, cut.layout)
        return Captured(run, programs, capture, cut.calls * draws)
    run, blind = (partial(_encoded, Centred(m)(pair.guide), cut.layout) for m in (mean, blind_mean))
    return Captured(run, programs, capture, cut.calls, blind=blind)


def _encoded(guide: Program, layout: Layout, *batch: Tensor) -> Found:
    r"""What is drawn that is a latent of the model, with the data first; and all that is."""
    sites = _drawn(guide, layout, batch)
    latents = {n: s for n, s in sites.items() if not s["infer"].get("is_auxiliary")}
    found = {n: data_first(s["value"], s, layout.plate) for n, s in latents.items()}
    return found, _values(sites)


def _reconstructed(pair: Pair, layout: Layout, mean: Mean, *batch: Tensor) -> Found:
    r"""Means of what is observed, with the data first; and all that was drawn before."""
    means = _values(_drawn(Centred(mean)(pair.guide), layout, batch))
    found = {
        name: data_first(mean(site["fn"]), site, layout.plate)
        for name, site in outputs(inferred(pair, layout, batch, means)).items()
        if name not in means
    }
    return found, means


def encoded(pair: Pair, layout: Layout, batch: Fields) -> dict[str, Site]:
    r"""What the guide draws, at its means."""
    return _drawn(Centred()(pair.guide), layout, batch)


def _drawn(guide: Program, layout: Layout, batch: Fields) -> dict[str, Site]:
    r"""What a guide draws, where it is of the batch's size."""
    trace = poutine.trace(guide).get_trace(*batch)
    check_rows(trace, layout.plate, batch[0].shape[0])
    return latent_sites(trace)


def _values(sites: Mapping[str, Site]) -> dict[str, Tensor]:
    return {name: site["value"] for name, site in sites.items()}


def single(found: dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
    r"""The only tensor, or else all by site."""
    return next(iter(found.values())) if len(found) == 1 else found
