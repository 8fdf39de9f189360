r"""One torch optimiser for all parameters, from whatever the user gave."""

__all__ = ["OptimizerLike", "follow", "make_optimizer"]

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, SparseAdam

from pyro_vae.clips import ByParameter, to_torch

Named = Sequence[tuple[str, Tensor]]
OptimizerLike = Callable[[Any], Optimizer] | PyroOptim


def make_optimizer(optim: OptimizerLike, named: Named) -> Optimizer:
    r"""Builds one optimiser over ``(name, parameter)`` pairs.

    Arguments:
        optim: A ``torch.optim`` class or ``functools.partial`` of one, any callable from the
            pairs to an optimiser, or a ``pyro.optim`` object: its constructor, arguments (by
            parameter too), clipping and schedule are kept, its one optimiser per parameter is
            not, and ``ClippedAdam`` becomes torch's Adam (see :func:`pyro_vae.clips.to_torch`).
            Names are prefixed ``model.`` and ``guide.``.
        named: The pairs.

    Raises:
        TypeError: If ``optim`` is none of these, does not return an optimiser, or returns one
            whose step needs a closure or sparse gradients.
    """
    optimizer: Any = None
    if isinstance(optim, PyroOptim):
        optimizer = _unwrapped(optim, named)
    elif callable(optim):
        optimizer = optim(list(named))
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            "expected a torch.optim class (functools.partial(torch.optim.Adam, lr=1e-3)), a "
            "callable from (name, parameter) pairs to an optimiser, or a pyro.optim object, got "
            f"{type(optim).__name__}, which gave {type(optimizer).__name__}"
        )
    if inspect.signature(optimizer.step).parameters["closure"].default is inspect.Parameter.empty:
        raise TypeError(
            f"expected an optimiser that steps from gradients, got {type(optimizer).__name__}, "
            "which needs a closure to evaluate the loss again: use a first-order one, such as "
            "torch.optim.Adam"
        )
    if isinstance(optimizer, SparseAdam):
        raise TypeError(
            "expected an optimiser for dense gradients, which bounds have, got "
            f"{type(optimizer).__name__}: use torch.optim.Adam"
        )
    _fuse(optimizer)
    return optimizer


def follow(
    optimizer: Optimizer,
    optim: OptimizerLike,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
) -> None:
    r"""Has an optimiser train other parameters than before, by name.

    One in the place of another takes its options but not its state, one that is gone is left
    out, a new one joins with the options that ``optim`` gives it.

    Arguments:
        optimizer: What :func:`make_optimizer` made of ``optim``.
        optim: The user's description of it.
        before: Its parameters.
        after: Those it shall have.
    """
    heirs = {id(p): after.get(name) for name, p in before.items()}
    for group in optimizer.param_groups:
        params = [heirs.get(id(p), p) for p in group["params"]]
        kept = [i for i, p in enumerate(params) if p is not None]
        group["params"] = [params[i] for i in kept]
        if "param_names" in group:
            group["param_names"] = [group["param_names"][i] for i in kept]
    now = {id(p) for p in after.values()}
    for parameter in before.values():
        if id(parameter) not in now:
            optimizer.state.pop(parameter, None)
    if joined := [(name, p) for name, p in after.items() if name not in before]:
        for group in make_optimizer(optim, joined).param_groups:
            optimizer.add_param_group(group)
    if isinstance(optim, PyroOptim):
        _add_clips(optimizer, optim, [(n, p) for n, p in after.items() if id(p) not in heirs])


def _fuse(optimizer: Optimizer) -> None:
    r"""One kernel for all parameters, where torch has one and the user did not choose."""
    for group in optimizer.param_groups:
        free = group.get("fused") is None and group.get("foreach") is None
        devices = {p.device.type for p in group["params"]}
        free = free and all(p.is_contiguous() for p in group["params"])  # kernels ignore strides
        if type(optimizer) in (Adam, AdamW, SGD) and free and devices <= {"cpu", "cuda"}:
            # fused, momentum of some parameters only (others joined or thawed later) is an error
            group["fused"] = not group.get("differentiable", False) and not group.get("momentum")


def _unwrapped(optim: PyroOptim, named: Named) -> Optimizer:
    arguments = optim.pt_optim_args
    construct = cast(Callable[..., Optimizer], optim.pt_optim_constructor)
    if not callable(arguments):
        optimizer = construct([p for _, p in named], **arguments)
    else:
        split = optim.pt_optim_args_argc == 2
        options = [_options(arguments, name, split) for name, _ in named]
        groups = [{"params": [p], **o} for (_, p), o in zip(named, options, strict=True)]
        # the first's options are the defaults too: an option may have none
        optimizer = construct(groups, **options[0])
    optimizer = to_torch(optimizer)
    _add_clips(optimizer, optim, named)
    if isinstance(optim, PyroLRScheduler):
        # Pyro's users call optim.step() after an epoch: it steps what it finds here
        optim.optim_objs[named[0][1]] = optim.pt_scheduler_constructor(optimizer, **optim.kwargs)
    return optimizer


def _options(options: Any, name: str, split: bool) -> dict[str, Any]:
    r"""The options of one parameter, by the name that Pyro calls it: without our prefix."""
    if not callable(options):
        return dict(options)
    bare = name.partition(".")[2]
    module, _, parameter = bare.partition(".")
    return dict(options(module, parameter or bare) if split else options(bare))


def _add_clips(optimizer: Optimizer, optim: PyroOptim, named: Named) -> None:
    if optim.pt_clip_args:
        clips = [(p, _options(optim.pt_clip_args, name, split=True)) for name, p in named]
        optimizer.register_step_pre_hook(ByParameter(clips))
