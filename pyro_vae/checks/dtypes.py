r"""Priors in another precision than the data and the parameters."""

__all__ = ["check_dtypes"]

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyro_vae.checks.finding import Finding
from pyro_vae.checks.graph import parts
from pyro_vae.checks.trial import Trial
from pyro_vae.layout import latent_sites
from pyro_vae.programs import Program, modules


def check_dtypes(
    model: Trial, programs: tuple[Program, Program], batch: tuple[tuple[Any, ...], dict[str, Any]]
) -> Iterator[Finding]:
    r"""Finds latents that the prior draws in another dtype than that of the parameters.

    In training, where values are the guide's, nothing shows it; networks refuse them where the
    model draws its own.

    Arguments:
        model: A run of the model.
        programs: The model and the guide.
        batch: The arguments of both.
    """
    tops = [top for program in programs for top in modules(program).values()]
    own = _floating([parameter for top in tops for parameter in top.parameters()])
    found = own or _floating(tree_leaves(batch))
    if len(found) != 1:
        return
    (home,) = found
    for name, site in latent_sites(model.trace).items():
        given = parts(site["fn"])
        other = [part for part, t in given.items() if t.is_floating_point() and t.dtype != home]
        if other and site["value"].is_floating_point():
            yield model.finding(
                name,
                f"expected a prior of {home}, as the {'parameters' if own else 'data'} are, got "
                f"{other[0]} of {given[other[0]].dtype}, in which it generates",
                "make constants like the data, as x.new_zeros(…), or keep them by "
                "register_buffer, which .to(dtype) converts",
                "warning",
            )


def _floating(leaves: list[Any]) -> set[Any]:
    return {leaf.dtype for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()}
