r"""Discrete sites summed out, separately for each datum and particle."""

__all__ = ["contract", "enumerated", "posterior"]

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from pyro.ops.contract import contract_to_tensor
from pyro.ops.packed import pack
from pyro.poutine import Trace
from pyro.poutine.enum_messenger import EnumMessenger
from torch import Tensor

from pyro_vae.layout import PARTICLES, Layout, frames


@contextmanager
def enumerated(layout: Layout) -> Iterator[None]:
    r"""Expands the enumerated sites to all their values, left of plates and particles."""
    with EnumMessenger(-layout.nesting - 2) if layout.enumerated else nullcontext():
        yield


def contract(trace: Trace, names: Sequence[str], keep: Sequence[str | None]) -> Tensor:
    r"""The log of a product of densities, summed over every enumerated site.

    .. math:: \log \sum_{c} \prod_{s \in \text{names}} p(s \mid c)

    Plates other than those kept are multiplied out, those kept that no density lies in have
    size one.

    Arguments:
        trace: The model's trace, with ``log_prob`` at its sites, masked but not scaled.
        names: The sites :math:`s`, enumerated ones among them.
        keep: The names of the plates that stay, from left to right.

    Returns:
        A tensor with one dimension for each plate kept.
    """
    symbols = trace.plate_to_symbol
    terms, dims = [], set()
    for name in names:
        site = trace.nodes[name]
        term: Any = site["packed"]["log_prob"]
        terms.append((frozenset(symbols[frame.name] for frame in frames(site)), term))
        dims |= set(term._pyro_dims) - set(symbols.values())
    # packing drops plates of size one: there they are no dimension to keep
    present = {dim for _, term in terms for dim in term._pyro_dims}
    kept = [symbol if (symbol := symbols.get(name or "")) in present else None for name in keep]
    tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    for plates, term in terms:
        tree.setdefault(plates & present | frozenset(k for k in kept if k), []).append(term)
    result: Any = contract_to_tensor(tree, dims, target_ordinal=frozenset(k for k in kept if k))
    order = [k for k in kept if k and k in result._pyro_dims]
    sizes = dict(zip(result._pyro_dims, result.shape, strict=True))
    permuted = result.permute([result._pyro_dims.index(k) for k in order])
    return permuted.reshape([sizes[k] if k in order else 1 for k in kept])


def posterior(trace: Trace, site: str, names: Sequence[str], plate: str | None) -> Tensor:
    r"""The posterior probabilities of an enumerated site, separately for each particle.

    .. math::
        p(c \mid x, z) = \frac{\partial}{\partial a_c} \log \sum_{c'} e^{a_{c'}} \, p(x, z, c')
            \Big|_{a = 0}

    The values of other enumerated sites are summed out.

    Arguments:
        trace: The model's trace, as for :func:`contract`.
        site: The enumerated site.
        names: All sites that depend on an enumerated one, ``site`` among them.
        plate: The name of the data plate.

    Returns:
        A tensor with the values of the site first and then its plates and particles, where they
        stand.
    """
    node: Any = trace.nodes[site]
    around = {frame.dim: frame.size for frame in frames(node)}
    plates = [around.get(dim, 1) for dim in range(min(around), 0)]
    number = node["fn"].enumerate_support(expand=False).shape[0]
    left = -node["infer"]["_enumerate_dim"] - 1 - len(plates)
    before = node["packed"]
    with torch.enable_grad():
        offsets = before["log_prob"].new_zeros(number, *[1] * left, *plates).requires_grad_()
        log_prob = node["log_prob"].detach() + offsets
        node["packed"] = {"log_prob": pack(log_prob, node["infer"]["_dim_to_symbol"])}
        total = contract(trace, names, (PARTICLES, plate)).sum()
        (found,) = torch.autograd.grad(total, offsets)
    node["packed"] = before
    return found.reshape(number, *plates)
