r"""What latents cost, and what data cost given them."""

__all__ = ["rate_distortion"]

import torch
from torch import Tensor

from pyro_vae.capturable import Mode
from pyro_vae.evaluation.bounds import bounds
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.pair import Pair


def rate_distortion(
    pair: Pair,
    fields: tuple[Tensor, ...],
    place: torch.device,
    *,
    particles: int,
    batch_size: int | None,
    data_size: int,
    seed: int,
    capture: Mode,
) -> dict[str, Estimate]:
    r"""The two parts of the bound, as a code of data by latents has them.

    .. math::
        R = \mathbb{E}_x \text{KL}(q(z \mid x) \| p(z)) \qquad
        D = -\mathbb{E}_x \mathbb{E}_{q(z \mid x)} \log p(x \mid z) \qquad
        R + D = -\text{elbo}

    They are ``rate``, which is at least the information of data and latents under the guide, and
    ``distortion``. Both are sampled, with the same particles.

    Arguments:
        pair, fields, place, particles, batch_size, data_size, seed, capture: As for
            :func:`pyro_vae.evaluate`.

    Raises:
        ValueError: As :func:`pyro_vae.evaluate` does for the metric ``"elbo"``.

    References:
        | Fixing a Broken ELBO (Alemi et al., 2018)
        | https://arxiv.org/abs/1711.00464

    Example:
        >>> from pyro_vae.evaluation.setting import evaluating
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> x, model, guide = torch.eye(4), VAE((4,), 2), AmortizedNormal((4,), {"z": 2})
        >>> with evaluating(model, guide, rows=(x,)) as place:
        ...     found = rate_distortion(
        ...         Pair(model, guide), (x,), place, particles=9, batch_size=None, data_size=4,
        ...         seed=0, capture=False)
        >>> list(found)
        ['rate', 'distortion']
    """
    found = bounds(
        ("elbo",),
        pair,
        fields,
        place,
        particles=particles,
        batch_size=batch_size,
        data_size=data_size,
        seed=seed,
        capture=capture,
    )
    return {"rate": found["kl"], "distortion": -found["log_likelihood"]}
