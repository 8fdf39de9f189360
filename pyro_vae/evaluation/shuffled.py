r"""What a decoder loses with the latents of other data."""

__all__ = ["shuffled"]

import math
from dataclasses import replace

import torch
from torch import Tensor

from pyro_vae.capturable import Mode
from pyro_vae.evaluation.bounds import bounds
from pyro_vae.evaluation.chunks import few
from pyro_vae.evaluation.encoded import local_sites
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.pair import Pair

Fields = tuple[Tensor, ...]


def shuffled(
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
    r"""What data lose in log-likelihood with the latents of others in place of their own.

    .. math::
        \Delta_n = \mathbb{E}_{q(z \mid x_n)} \log p(x_n \mid z)
            - \mathbb{E}_{q(z \mid x_{\pi(n)})} \log p(x_n \mid z), \qquad \pi(n) \neq n

    The permutation :math:`\pi` is a random cycle through all data. ``shuffled`` is the
    log-likelihood with the latents of others, ``shuffled.loss`` is :math:`\Delta`. A decoder that
    does not look at its latents loses nothing. One of which the guide is the posterior, on data
    like its own, loses on average the mutual information of data and latents, and the lautum
    information besides, thus more than the information that there is.

    Arguments:
        pair, fields, place, particles, batch_size, data_size, seed, capture: As for
            :func:`pyro_vae.evaluate`.

    Raises:
        ValueError: If there are not at least two data, or no latents of each; and as
            :func:`pyro_vae.evaluate` does for the metric ``"elbo"``.

    References:
        | Lautum Information (Palomar & Verdú, 2008)
        | https://doi.org/10.1109/TIT.2007.915715

    Example:
        >>> from pyro_vae.evaluation.setting import evaluating
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> x, model, guide = torch.eye(4), VAE((4,), 2), AmortizedNormal((4,), {"z": 2})
        >>> with evaluating(model, guide, rows=(x,)) as place:
        ...     found = shuffled(
        ...         Pair(model, guide), (x,), place, particles=9, batch_size=None, data_size=4,
        ...         seed=0, capture=False)
        >>> list(found)
        ['shuffled', 'shuffled.loss']
    """
    if (size := fields[0].shape[0]) < 2:
        raise ValueError(
            f"expected at least two data, to take the latents of another, got {size}: give more"
        )
    local_sites(
        pair.draw(few(fields, place, batch_size), {}, data_size=data_size), "shuffled latents"
    )
    others = _others(fields, seed)
    count = len(fields)
    crossed = Pair(
        lambda *rows: pair.model(*rows[:count]),
        lambda *rows: pair.guide(*rows[count:]),
        pair.data_plate,
    )

    def log_likelihood(programs: Pair, rows: Fields, seed: int) -> Estimate:
        return bounds(
            ("elbo",),
            programs,
            rows,
            place,
            particles=particles,
            batch_size=batch_size,
            data_size=data_size,
            seed=seed,
            capture=capture,
        )["log_likelihood"]

    # with the same noise their errors would depend on one another
    again = (seed + 1) % 2**32
    own = log_likelihood(pair, fields, seed)
    other = replace(log_likelihood(crossed, (*fields, *others), again), seed=seed)
    return {"shuffled": other, "shuffled.loss": _difference(own, other)}


def _others(fields: Fields, seed: int) -> Fields:
    r"""For each datum another one: the next in a random order."""
    order = torch.randperm(fields[0].shape[0], generator=torch.Generator().manual_seed(seed))
    after = torch.empty_like(order)
    after[order] = order.roll(-1)
    return tuple(field[after.to(field.device)] for field in fields)


def _difference(own: Estimate, other: Estimate) -> Estimate:
    r"""The difference of two estimates of each datum, whose particles are different ones."""
    if own.per_datum is None or other.per_datum is None:
        raise AssertionError  # bounds have figures of each datum
    error = math.hypot(own.stderr, other.stderr)
    return replace(Estimate.of(own.per_datum - other.per_datum, error, own.unit), seed=own.seed)
