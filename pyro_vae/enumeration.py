r"""Discrete sites summed out, separately for each datum and particle."""

__all__ = ["contract", "enumerated"]

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from pyro.ops.contract import contract_to_tensor
from pyro.poutine import Trace
from pyro.poutine.enum_messenger import EnumMessenger
from torch import Tensor

from pyro_vae.layout import Layout, frames


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
