r"""Runs of a program that may fail, with the lines of its statements."""

__all__ = ["Trial", "explain", "quiet", "run", "undisturbed", "users_line"]

import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import pyro
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger

from pyro_vae.checks.finding import Finding, Severity
from pyro_vae.lines import failure, is_users, line_of
from pyro_vae.programs import Program, isolated, modules, unchanged

# what errors of libraries, which know no more, mean in programs
_MENDS = {
    "same dtype": "give data and networks one dtype, as by x.float() or network.double()",
    "shapes cannot be multiplied": (
        "the network's in_features are not the width of what it is given: flatten one datum into "
        "a row, as by x.flatten(1), or change them"
    ),
    "argument": "both programs are called with the same arguments, which are the batch",
    "forward": "give the program a forward, or pass its method, such as vae.model",
}


@dataclass(frozen=True)
class Trial:
    r"""What one run of a program left behind.

    Arguments:
        role: Which program it is, ``"model"`` or ``"guide"``.
        trace: The sites that it came to.
        lines: The file and line of each site's statement, where a user wrote it.
        error: What stopped it, if anything did.
    """

    role: str
    trace: Trace
    lines: Mapping[str, str] = field(default_factory=dict)
    error: Exception | None = None

    def finding(
        self, site: str, message: str, advice: str, severity: Severity = "error"
    ) -> Finding:
        r"""A finding at a site of this program, with the line of its statement."""
        return Finding(site, severity, message, advice, self.role, self.lines.get(site))


def run(
    role: str,
    program: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    replayed: Trace | None = None,
    around: AbstractContextManager[Any] | None = None,
) -> Trial:
    r"""Runs a program once, whatever happens; latents are those of ``replayed``, if given."""
    lines, tracer, error = _Lines(), poutine.trace(), None
    replay = nullcontext() if replayed is None else poutine.replay(trace=replayed)
    try:
        # block stands outside: handlers around the check are none of its business
        with around or nullcontext(), poutine.block(), tracer, lines, replay:
            isolated(program)(*args, **kwargs)
    except Exception as caught:
        error = caught
    return Trial(role, tracer.trace, lines.found, error)


def explain(error: BaseException, role: str, advice: str = "") -> Finding:
    r"""The finding that a program raised an error, with the user's own line."""
    message, line = failure(error)
    first = str(error).split("\n", 1)[0].strip(" :")
    said = f"{type(error).__name__}: {first}" if first else type(error).__name__
    advice = advice or next((mend for known, mend in _MENDS.items() if known in first), "")
    site = None if message is None else message["name"]
    return Finding(site, "error", f"expected the {role} to run, got {said}", advice, role, line)


@contextmanager
def undisturbed(*programs: Any) -> Iterator[None]:
    r"""Leaves no trace of what runs inside, and lets no warning out: what matters is found."""
    store = pyro.get_param_store()
    kept = unchanged(*(program for program in programs if program is not None))
    with warnings.catch_warnings(), pyro.validation_enabled(True), kept:
        warnings.simplefilter("ignore")
        with store.scope(store.get_state()):
            yield


@contextmanager
def quiet(*programs: Program) -> Iterator[None]:
    r"""Switches dropout and the like off, as ``eval`` does, and on again at the end."""
    found = [m for program in programs for top in modules(program).values() for m in top.modules()]
    modes = [(module, module.training) for module in found]
    try:
        for module in found:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class _Lines(Messenger):
    r"""Notes where each sample statement was written."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if line := users_line(sys._getframe()):
            self.found[msg["name"]] = line


def users_line(start: FrameType) -> str | None:
    r"""The innermost line of the user's that a frame was called from; ``None`` if there is none."""
    for frame, number in traceback.walk_stack(start):
        if is_users(frame):
            return line_of(frame, number)
        # what stands above the run of the program called the check
        if frame.f_code is run.__code__:
            return None
    return None
