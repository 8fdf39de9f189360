r"""How smoothly a decoder goes from one datum to another, and how steep it is."""

__all__ = ["smoothness"]

import pyro
import torch
from torch import Tensor

from pyro_vae.capturable import Mode
from pyro_vae.evaluation.decoder import Decoder
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.generation import Cut
from pyro_vae.evaluation.memorisation import nearest
from pyro_vae.evaluation.steepness import singular_values
from pyro_vae.pair import Pair

_STEPS = 20
_ITERATIONS = 30

Fields = tuple[Tensor, ...]


def smoothness(
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
    r"""How far a decoder is from a straight map of latents to data.

    .. math::
        f(z) = \mathbb{E}[x \mid z], \quad \bar z_n = \mathbb{E}_q[z \mid x_n], \quad
        y_s = f((1 - \tfrac{s}{S}) \bar z_n + \tfrac{s}{S} \bar z_m) \\
        \text{length}_n = \frac{\sum_s \lVert y_s - y_{s-1} \rVert}{\lVert y_S - y_0 \rVert}
        \qquad
        \text{gap}_n = \frac{\min_j \lVert y_{S/2} - x_j \rVert}
            {\frac{1}{N} \sum_i \min_{j \ne i} \lVert x_i - x_j \rVert} \qquad
        \text{lipschitz}_n = \lVert J_f(\bar z_n) \rVert_2

    Between pairs of data, drawn from the seed, latents go in :math:`S = 20` straight steps:

    - ``interpolation.length`` is how much longer the way of the decoder's means is than the
      straight line between its ends: 1 at least, and 1 if it is straight;
    - ``interpolation.gap`` is the distance of the decoder's mean half-way from the nearest
      datum, in units of the average one between a datum and its nearest: about 1 or below if
      what lies between is like data, more where the way leads through a hole, as between the
      codes of an autoencoder, of which nothing asks to be close to others;
    - ``lipschitz`` is the decoder's steepest slope at the posterior's means, in units of data, as
      the programs get them (of standardised data these are standard deviations), by units of
      latents, by 30 power iterations, which approach it from below;
    - ``lipschitz.relative`` is the same in units of the spread of the decoder's means by that of
      the latents, so that it compares decoders whose latents have different scales: 1 if the
      decoder only turns its latents, more if it is steeper in some places or directions than
      what it covers.

    Arguments:
        pair: The model and the guide.
        fields: What both are called with, :math:`N` data.
        place: Where it is computed.
        particles: Of no account: nothing is drawn but pairs of data.
        batch_size: The most data in a batch, by default 256.
        data_size: Of no account.
        seed: The seed of pairs and of the first directions.
        capture: Nothing is captured.

    Raises:
        ValueError: If there are not at least two data; if there is no data plate, no latent
            inside, or a discrete one; if no gradient passes from data to latents.

    References:
        | Spectral Norm Regularization (Yoshida & Miyato, 2017), for power iterations
        | https://arxiv.org/abs/1705.10941

    Example:
        >>> from pyro_vae.evaluation.setting import evaluating
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> x, model, guide = torch.eye(4), VAE((4,), 2), AmortizedNormal((4,), {"z": 2})
        >>> with evaluating(model, guide, rows=(x,)) as place:
        ...     found = smoothness(
        ...         Pair(model, guide), (x,), place, particles=1, batch_size=None, data_size=4,
        ...         seed=0, capture=False)
        >>> list(found)
        ['interpolation.length', 'interpolation.gap', 'lipschitz', 'lipschitz.relative']
    """
    if (size := fields[0].shape[0]) < 2:
        raise ValueError(f"expected at least two data, to go from one to another, got {size}")
    cut = Cut(fields, pair, min(batch_size or 256, size), place)
    decoders = [Decoder(pair, cut.layout, batch, "smoothness") for batch in cut]
    latents = torch.cat([decoder.latents for decoder in decoders])
    pyro.set_rng_seed(seed)
    others = latents[_partners(size).to(place)].split([len(d.latents) for d in decoders])
    ways = [_way(d, d.latents, other) for d, other in zip(decoders, others, strict=True)]
    lengths, halves = (torch.cat(parts) for parts in zip(*ways, strict=True))
    slopes = torch.cat([singular_values(d, d.latents, _ITERATIONS) for d in decoders])
    means = torch.cat([decoder(decoder.latents) for decoder in decoders])
    found = {
        "interpolation.length": lengths,
        "interpolation.gap": _gaps(halves, torch.cat([decoder.data for decoder in decoders])),
        "lipschitz": slopes,
        "lipschitz.relative": slopes * _spread(latents) / _spread(means),
    }
    units = {"lipschitz": "programs' data / latents"}
    return {
        name: Estimate.of(each.double(), 0.0, units.get(name, ""), seed)
        for name, each in found.items()
    }


def _partners(size: int) -> Tensor:
    r"""Another datum for each, none of them twice."""
    order = torch.randperm(size, device="cpu")
    return torch.empty_like(order).index_copy_(0, order, order.roll(1))


def _way(decoder: Decoder, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    r"""The length of each way by that of the straight line, and the mean half-way."""
    first = before = half = decoder(start)
    total = torch.zeros_like(first[:, 0])
    for step in range(1, _STEPS + 1):
        after = decoder(torch.lerp(start, end, step / _STEPS))
        half = after if step == _STEPS // 2 else half
        total, before = total + (after - before).norm(dim=-1), after
    straight = (before - first).norm(dim=-1)
    return torch.where(total == 0, 1.0, total / straight), half  # 1 where nothing moves


def _gaps(points: Tensor, data: Tensor) -> Tensor:
    data = data.to(points.dtype)
    between = nearest(data, data, 2)[0][:, 1]
    return nearest(points, data, 1)[0][:, 0] / between.mean()


def _spread(rows: Tensor) -> Tensor:
    r"""The root of the summed variances."""
    return rows.var(0).sum().sqrt()
