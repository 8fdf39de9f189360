r"""The setting in which programs are evaluated: nothing is trained, nothing is left behind."""

__all__ = ["evaluating", "parameter_dtype"]

import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyro_vae.devices import find_device
from pyro_vae.nonfinite import MEND_DATA, bad
from pyro_vae.programs import Program, modules, unchanged

# what distributions say of values and of parameters, and that NaN may be among them
_REFUSED = re.compile("to (be within the support|satisfy the constraint)")
_MAY_BE_NAN = re.compile(r"nan|\.\.\.")


@contextmanager
def evaluating(
    *programs: Program,
    rows: Sequence[Tensor] = (),
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Iterator[torch.device]:
    r"""Runs programs without gradients, in evaluation mode, from a seed, on a device.

    Modes, buffers, devices and the caller's random state are restored.

    Arguments:
        programs: The programs, of which the modules are found.
        rows: What they are called with, of which errors state the shapes.
        device: The device, by default that of the programs' parameters.
        seed: The seed that randomness starts from.

    Yields:
        The device, on which the programs expect their data.

    Raises:
        ValueError: If there is no such device, or if the programs do not take the rows.
    """
    chosen = None if device is None else find_device(device)
    tops = {id(m): m for program in programs for m in modules(program).values()}.values()
    modes = [(module, module.training) for top in tops for module in top.modules()]
    homes = [(top, home) for top in tops if (home := _home(top)) is not None]
    place = chosen or _default(homes)
    try:
        for top in tops:
            top.eval().to(place)
        with unchanged(*programs), torch.no_grad(), torch.device(place), poutine.block():
            pyro.set_rng_seed(seed)
            yield place
    except (RuntimeError, ValueError) as error:
        # of parameters that are not finite, data are not the cause
        known = (p for top in tops for p in top.parameters() if not is_lazy(p))
        sound = all(bool(p.isfinite().all()) for p in known)
        explained = _explained(error, rows, sound)
        raise explained from explained.__cause__
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


def parameter_dtype(*programs: Program) -> torch.dtype | None:
    r"""What the programs compute in: the type of the first floating parameter; None without."""
    tops = [module for program in programs for module in modules(program).values()]
    stored = (tensor for _, tensor in pyro.get_param_store().named_parameters())
    own = chain.from_iterable((*top.parameters(), *top.buffers()) for top in tops)
    return next((t.dtype for t in chain(own, stored) if t.is_floating_point()), None)


def _explained(error: Exception, rows: Sequence[Tensor], sound: bool) -> Exception:
    r"""The error without the table of all sites that Pyro appends, and with the rows' shapes.

    Where a distribution refuses its parameters or values, rows that are not finite are the cause.
    """
    cause = error
    while "Trace Shapes:" in str(cause) and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    if _is_ours(cause) or type(cause) not in (RuntimeError, ValueError):
        return cause
    # a program may know what to make of NaN, but of nothing infinite
    of_nan = _MAY_BE_NAN.search(str(cause).partition("found invalid values")[2])
    wrong = [field for field in rows if not (field.isfinite() if of_nan else ~field.isinf()).all()]
    if sound and wrong and _REFUSED.search(str(cause)):
        found = ValueError(f"expected finite data, got {bad(wrong[0])}: {MEND_DATA}")
        found.__cause__ = cause
        return found
    if cause is error:
        return cause
    shapes = ", ".join(str(tuple(field.shape)) for field in rows) or "none"
    first = str(cause).split("\n", 1)[0].strip(" :")
    found = ValueError(f"expected data that both programs take, got shapes {shapes}: {first}")
    found.__cause__ = cause
    return found


def _is_ours(error: Exception) -> bool:
    r"""Whether this library raised it, and says itself what was expected."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    here = str(frame.f_globals.get("__name__")).startswith("pyro_vae.")
    return here and isinstance(error, ValueError)
