r"""Densities of drawn values through which no gradient passes, and what they learn from."""

__all__ = ["scores"]

from torch import Tensor

from pyro_vae.draws import Draw
from pyro_vae.layout import latent_sites


def scores(draw: Draw) -> tuple[Tensor, Tensor]:
    r""":math:`\log q` of the guide's sites that are not reparametrised.

    .. math::
        \nabla_\phi \, \mathbb{E}_q[f(z)] = \mathbb{E}_q[\nabla_\phi f(z)
            + f(z) \, \nabla_\phi \log q(z)]

    Neither ``poutine.scale`` nor a mask is in them: values are drawn as the distribution says.

    Returns:
        The sum over sites that learn from the datum that they belong to, with shape
        :math:`(K, N)`, and over those that learn from all data, with shape :math:`(K, 1)`: global
        ones, and those that a global one may depend on, being drawn before it.
    """
    sites = latent_sites(draw.guide_trace)
    last = max((i for i, name in enumerate(sites) if draw.is_shared(name)), default=-1)
    zero = draw.log_weights.detach().new_zeros(())
    local = zero.expand(draw.particles, draw.batch_size)
    shared = zero.expand(draw.particles, 1)
    for i, site in enumerate(sites.values()):
        if site["fn"].has_rsample:
            continue
        density = draw.folded(site["fn"].log_prob(site["value"]), site)
        if i > last:
            local = local + density
        else:
            shared = shared + density.sum(1, keepdim=True)
    return local, shared
