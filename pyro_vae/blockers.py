r"""What keeps a function that runs programs from becoming a compiled graph, in words."""

__all__ = ["explain"]

import linecache
import sys
import traceback
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (  # documented under this name
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from pyro_vae.lines import failure, is_users, line_of, module_of
from pyro_vae.programs import Program
from pyro_vae.reach import reach
from pyro_vae.traceable import traceable
from pyro_vae.undone import Change, Undone

_VALUES = "programs that do the same whatever their tensors hold"
_SHAPES = "shapes that do not depend on what tensors hold"

# what Python asks of a tensor -> what that is, and what to do instead
_ASKED = {
    **dict.fromkeys(
        ("__bool__", "is_nonzero", "__contains__", "equal", "allclose"),
        (
            "a branch on a tensor",
            "write torch.where(condition, a, b) in place of if, and poutine.mask around sites "
            "that count for some data only",
        ),
    ),
    **dict.fromkeys(
        ("__index__", "__int__"),
        (
            "an integer made of a tensor",
            "take sizes from shapes, as x.shape[0], loop over a fixed range, and index with the "
            "tensor itself, as by torch.gather",
        ),
    ),
    **dict.fromkeys(
        ("item", "__float__", "__complex__", "tolist"),
        (
            "a Python number made of a tensor ({})",
            "compute with the tensor itself, by torch's functions in place of those of math",
        ),
    ),
    "__format__": (
        "a tensor's value in a string",
        "leave it out: a graph runs no Python; log what a step returns",
    ),
    **dict.fromkeys(
        ("numpy", "__array__"),
        (
            "a NumPy array made of a tensor",
            "compute with torch's functions in place of NumPy's",
        ),
    ),
}
_MASKED = (
    "keep all elements: torch.where(mask, a, b) in place of a[mask], poutine.mask(mask=…) around "
    "a site, sums weighted by the mask"
)
_GENERATOR = (
    "a torch.Generator",
    "leave it out: the generator that torch.manual_seed and pyro.set_rng_seed set draws",
)
_VALIDATED = (
    "validate_args=True, which looks at values",
    "leave it out: pyro.enable_validation checks the eager steps",
)
_RANDOM = (
    "numbers of Python's or NumPy's random",
    "draw by torch.rand and the like, or by pyro.sample: a graph would repeat one number for ever",
)


class _GeneratorError(Exception):
    r"""A random operator was given a generator."""


class _SeedError(Exception):
    r"""A seed was set."""


class _Fakes(TorchFunctionMode):
    r"""Puts tensors without values in the place of real ones, by identity, wherever they are used.

    Arguments:
        mode: What makes them.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self.mode = mode
        self.fakes: dict[int, tuple[Tensor, Tensor]] = {}  # by id of a real tensor, kept alive
        self.reals: dict[int, Tensor] = {}  # by id of a fake one
        self.stopped: tuple[str, Exception] | None = None

    def substitute(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        if id(tensor) not in self.fakes:
            fake = self.mode.from_tensor(tensor.detach()).requires_grad_(tensor.requires_grad)
            self.fakes[id(tensor)], self.reals[id(fake)] = (tensor, fake), tensor
        return self.fakes[id(tensor)][1]

    def stopping(self, error: BaseException | None) -> str:
        r"""The function of torch's that an error arose in; empty if it was another's."""
        while error is not None:
            if self.stopped is not None and error is self.stopped[1]:
                return self.stopped[0]
            error = error.__cause__  # Pyro's traces raise another with the sites' shapes
        return ""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map_only(Tensor, self.substitute, (args, kwargs or {}))
        name = getattr(func, "__name__", str(func))
        try:
            if any(isinstance(leaf, torch.Generator) for leaf in tree_leaves((args, kwargs))):
                raise _GeneratorError(name)
            result = func(*args, **kwargs)
        except Exception as error:
            if self.stopped is None or self.stopped[1] is not error:
                self.stopped = name, error
            raise
        # what is written in place and assigned, as by +=, stays the tensor that it was
        return self.reals.get(id(result), result)


def explain(
    function: Callable[..., Any],
    programs: Mapping[str, Program],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> str | None:
    r"""Says what keeps a function from becoming a compiled graph; ``None`` if nothing is seen.

    The function runs once, on tensors that have shapes and no values, so that nothing is
    computed; each real tensor that it uses is replaced. What it draws, writes and prints is
    undone. Where something is found, it may run once more to find the line. Programs that set
    themselves up when they first run, as autoguides do, must have run before.

    Arguments:
        function: Called as ``function(substitute, *args, **kwargs)``, as a graph does;
            ``substitute`` returns what stands in a tensor's place.
        programs: The programs that it runs, by the names that messages use.
        args: Its arguments.
        kwargs: Those by keyword.

    Example:
        >>> def scaled(substitute, x):
        ...     return x * 2 if x.sum() > 0 else x
        >>> print(explain(scaled, {}, (torch.ones(3),)))
        expected programs that do the same whatever their tensors hold, got a branch on a tensor:
        write torch.where(condition, a, b) in place of if, and poutine.mask around sites that
        count for some data only
    """

    def run() -> tuple[str, Exception] | None:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        fakes = _Fakes(mode)
        try:
            with mode, fakes, traceable(), mock.patch("torch.manual_seed", _refuse_seed):
                function(fakes.substitute, *args, **(kwargs or {}))
        except Exception as error:
            return fakes.stopping(error), error
        return None

    if advances := _advances(programs):
        return advances
    with Undone(**programs) as undone:
        stopped = run()
    if stopped is not None:
        return _stopped(*stopped)
    if undone.drew:
        return _drawn(run, programs)
    if undone.changes:
        return _written(run, programs, undone.changes[0])
    return None


def _refuse_seed(*_: Any) -> None:
    raise _SeedError


def _advances(programs: Mapping[str, Program]) -> str | None:
    r"""The sentence for iterators, from which a graph would take nothing more."""
    for table in reach(False, **programs):
        for name, value in table.now().items():
            if hasattr(type(value), "__next__"):
                return (
                    f"expected programs that advance nothing, got an iterator, {table.kind} "
                    f"{name!r} of {table.name}: pass what it gives as a tensor"
                )
    return None


def _stopped(name: str, error: Exception) -> str:
    r"""The sentence for what an error interrupted."""
    expected = _VALUES
    if _validates(error):
        got, advice = _VALIDATED
    elif isinstance(error, _GeneratorError):
        expected = "programs that draw from the seeded generators"
        got, advice = _GENERATOR
    elif isinstance(error, _SeedError):
        expected = "programs that leave the random state alone"
        got, advice = "a seed that is set inside", "set it before training"
    elif isinstance(error, DynamicOutputShapeException):
        expected, advice = _SHAPES, _MASKED
        got = "indexing by a mask" if name == "__getitem__" else f"the result of {name}"
    elif name in _ASKED or "_local_scalar_dense" in str(error):
        # inside autograd all that is known is that one number was asked for
        name = name if name in _ASKED else "item"
        (got, advice), said = _ASKED[name], name.strip("_")
        got = got.format(f".{said}()" if said == name else f"{said}()")
    elif isinstance(error, DataDependentOutputException):
        got, advice = f"{name}, which looks at values", "give it what it would look for"
    else:
        first = str(error).strip().split("\n", 1)[0]
        expected = "programs that run on tensors without values, as a graph's"
        got, advice = f"{type(error).__name__}: {first}", "such steps run uncompiled"
    return f"expected {expected}, got {got}{_place(error)}: {advice}"


def _validates(error: Exception) -> bool:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(
        module_of(frame).endswith("distributions.distribution")
        and frame.f_code.co_name in ("__init__", "_validate_sample")
        for frame in frames
    )


def _place(error: Exception) -> str:
    r"""The user's line, and the site, that an error came from."""
    line = failure(error)[1]
    site = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        # a statement that runs, or one whose density is computed later
        message = next((m for k in ("msg", "site") if (m := frame.f_locals.get(k))), None)
        if not is_users(frame) and isinstance(message, dict) and message.get("type") == "sample":
            site = message["name"]
    return _said(line) + (f" (site {site!r})" if site else "")


def _said(line: str | None) -> str:
    if line is None:
        return ""
    file, number = line.rsplit(":", 1)
    text = linecache.getline(file, int(number)).strip()
    return f" at {line} `{text}`" if text else f" at {line}"


def _drawn(run: Callable[[], object], programs: Mapping[str, Program]) -> str:
    with Undone(**programs) as undone:
        line = _line(run, undone.randomness)
    got, advice = _RANDOM
    return f"expected programs that draw by torch, got {got}{_said(line)}: {advice}"


def _written(run: Callable[[], object], programs: Mapping[str, Program], change: Change) -> str:
    with Undone(**programs):
        line = _line(run, change.now)
    table, name = change.table, change.name
    got = f"{table.kind} {name!r} of {table.name} written to"
    if table.kind == "buffer":
        advice = f"write into the tensor, as by self.{name}.copy_(…)"
    elif isinstance(change.value, (int, float)):
        advice = "a graph would freeze it: make it a buffer, and count in place, as by .add_(1)"
    else:
        advice = (
            "a graph would write it once, a tensor without value: return it, or keep it in a "
            "buffer and write in place, as by .copy_(…)"
        )
    return f"expected programs that write to tensors only, got {got}{_said(line)}: {advice}"


def _line(run: Callable[[], object], probe: Callable[[], object]) -> str | None:
    r"""The user's line that changes what a probe returns."""
    before, last, done = probe(), None, False

    def watch(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal last, done
        if done or not is_users(frame):
            return None
        if done := probe() != before:
            return None
        left = frame.f_back if event == "return" else frame  # where it goes on
        while left is not None and not is_users(left):
            left = left.f_back
        last = None if left is None else line_of(left, left.f_lineno)
        return watch

    outer = sys.gettrace()
    sys.settrace(watch)
    try:
        run()
    finally:
        sys.settrace(outer)
    return last if probe() != before else None
