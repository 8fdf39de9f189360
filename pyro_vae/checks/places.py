r"""Tensors on another device than the data and the parameters."""

__all__ = ["check_places"]

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pyro_vae.checks.finding import Finding
from pyro_vae.checks.graph import parts
from pyro_vae.checks.trial import Trial
from pyro_vae.checks.witness import Witness
from pyro_vae.layout import sample_sites
from pyro_vae.programs import Program, modules

_MEND = (
    "make constants like the data, as x.new_zeros(…), or keep them by register_buffer, which "
    ".to(device) moves"
)


def check_places(
    programs: tuple[Program, Program],
    batch: tuple[tuple[Any, ...], dict[str, Any]],
    runs: Callable[[], tuple[Trial, Trial]],
    trials: tuple[Trial, Trial],
) -> Iterator[Finding]:
    r"""Finds constants made on another device than that of the data and the parameters.

    Single numbers are left alone: these may stand anywhere.

    Arguments:
        programs: The model and the guide.
        batch: The arguments of both.
        runs: Runs the model and the guide.
        trials: What they left behind before.
    """
    data = {leaf.device for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()}
    tops = [m for program in programs for m in modules(program).values()]
    own = {parameter.device for top in tops for parameter in top.parameters()}
    if len(data) == 1 and len(own) == 1 and data != own:
        yield Finding(
            None,
            "error",
            f"expected data and parameters on one device, got data on {_said(data)} and "
            f"parameters on {_said(own)}",
            "move the programs' modules by .to(x.device), or the batch",
        )
        return
    if len(data | own) != 1:
        return
    home = next(iter(data | own))
    found = [*_sites(trials, home)]
    if found or any(t.error is not None and "device" in str(t.error) for t in trials):
        yield from _explained(found, home, runs)


def _sites(trials: tuple[Trial, Trial], home: torch.device) -> Iterator[tuple[Trial, str, str]]:
    for trial in reversed(trials):
        for name, site in sample_sites(trial.trace).items():
            for part, tensor in parts(site["fn"]).items():
                if tensor.dim() and tensor.device != home:
                    yield trial, name, f"{part} on {tensor.device}"


def _explained(
    found: list[tuple[Trial, str, str]],
    home: torch.device,
    runs: Callable[[], tuple[Trial, Trial]],
) -> Iterator[Finding]:
    watch = Witness()
    with watch:
        runs()
    strange = [(t, line) for t, line in watch.made if t.dim() and t.device != home]
    if found:
        trial, name, what = found[0]
        message = f"expected everything on {home}, as data and parameters are, got {what}"
        yield trial.finding(name, message, _MEND)
    elif strange:
        tensor, line = strange[0]
        message = (
            f"expected everything on {home}, as data and parameters are, got a tensor of shape "
            f"{tuple(tensor.shape)} made on {tensor.device}"
        )
        yield Finding(None, "error", message, _MEND, None, line)


def _said(devices: set[torch.device]) -> str:
    return ", ".join(map(str, devices))
