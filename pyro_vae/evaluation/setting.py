r"""The setting in which programs are evaluated: nothing is trained, nothing is left behind."""

__all__ = ["evaluating"]

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch
from pyro import poutine
from torch import nn

from pyro_vae.programs import Program, modules, unchanged


@contextmanager
def evaluating(
    *programs: Program, device: torch.device | str | None = None, seed: int = 0
) -> Iterator[torch.device]:
    r"""Runs programs without gradients, in evaluation mode, from a seed, on a device.

    Modes, buffers, devices and the caller's random state are restored.

    Arguments:
        programs: The programs, of which the modules are found.
        device: The device, by default that of the programs' parameters.
        seed: The seed that randomness starts from.

    Yields:
        The device, on which the programs expect their data.
    """
    tops = {id(m): m for program in programs for m in modules(program).values()}.values()
    modes = [(module, module.training) for top in tops for module in top.modules()]
    homes = [(top, home) for top in tops if (home := _home(top)) is not None]
    place = _default(homes) if device is None else torch.device(device)
    try:
        for top in tops:
            top.eval().to(place)
        with unchanged(*programs), torch.no_grad(), torch.device(place), poutine.block():
            pyro.set_rng_seed(seed)
            yield place
    finally:
        for module, training in modes:
            module.training = training
        for top, home in homes:
            top.to(home)


def _home(module: nn.Module) -> torch.device | None:
    tensors = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else None


def _default(homes: list[tuple[nn.Module, torch.device]]) -> torch.device:
    stored = pyro.get_param_store().named_parameters()
    places = [*(home for _, home in homes), *(tensor.device for _, tensor in stored)]
    return places[0] if places else torch.get_default_device()
