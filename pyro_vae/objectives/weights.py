r"""Importance weights, and the draws that have them."""

__all__ = ["check_weights", "check_whole", "is_scaled", "log_weights", "shared_out"]

from typing import Any

from torch import Tensor

from pyro_vae.draws import Draw
from pyro_vae.layout import Site, sample_sites


def log_weights(draw: Draw, stopped: bool = False) -> Tensor:
    r"""The log-weights of each datum, or, where latents are shared, of all data as one.

    .. math:: \log w_{nk} = \log p(x_n, z_{nk}) - \log q(z_{nk} \mid x_n)

    Arguments:
        draw: A draw of several particles.
        stopped: Whether the guide's parameters count as constants.

    Returns:
        A tensor with shape :math:`(K, N)`; with global latents :math:`(K, 1)`, the sum over all
        data.

    Raises:
        ValueError: If several particles have no weights: see :func:`check_weights`.
    """
    check_weights(draw)
    found = draw.stopped_log_weights if stopped else draw.log_weights
    return found.sum(1, keepdim=True) if _is_whole(draw) else found


def shared_out(draw: Draw, bound: Tensor) -> Tensor:
    r"""A bound of each datum, with shape :math:`(N)`, of one with the columns of the weights."""
    if _is_whole(draw):
        bound = bound / draw.batch_size
    return bound.expand(draw.batch_size)


def check_weights(draw: Draw) -> None:
    r"""Raises where a bound of several particles would be none.

    Raises:
        ValueError: If latents are shared by more data than the batch holds: a mean over bounds
            of each datum, given latents of its own, may lie above the evidence; or if a density
            is scaled: the mean of its weights is no evidence.
    """
    if draw.particles == 1:
        return
    check_whole(draw)
    for trace in (draw.guide_trace, draw.model_trace):
        for name, site in sample_sites(trace).items():
            if is_scaled(draw, site):
                scale: Any = draw.scale(site)
                raise ValueError(
                    f"expected no poutine.scale where particles are weighed, got "
                    f"{'a tensor' if isinstance(scale, Tensor) else scale} at site {name!r}: "
                    "scaled densities are no densities; weigh terms by the objective "
                    "(ELBO(beta=…)), or take ELBO(), which is linear in them"
                )


def is_scaled(draw: Draw, site: Site) -> bool:
    r"""Whether ``poutine.scale`` gives a site's density another weight than one."""
    scale: Any = draw.scale(site)
    # N/B * B/N is one up to rounding
    return isinstance(scale, Tensor) or bool(abs(scale - 1) > 1e-9)


def check_whole(draw: Draw) -> None:
    r"""Raises where latents are shared by more data than the batch holds.

    Raises:
        ValueError: If they are: names them.
    """
    if draw.layout.shared and draw.batch_size != draw.data_size:
        raise ValueError(
            f"expected local latents only, or the whole data in one batch, for several particles, "
            f"got global latents {sorted(draw.layout.shared)} and {draw.batch_size} of "
            f"{draw.data_size} data: bounds of single data do not add up to one of all; use ELBO()"
        )


def _is_whole(draw: Draw) -> bool:
    return bool(draw.layout.shared) and draw.particles > 1
