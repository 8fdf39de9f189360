r"""Ctrl-C, SIGTERM and SIGHUP, put off until there is a good moment."""

__all__ = ["Interrupts"]

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# a user's Ctrl-C, a system's request to end, a terminal that is closed
_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Interrupts:
    r"""Notes SIGINT, SIGTERM and SIGHUP instead of obeying them, until :meth:`obey` is called.

    The second one acts at once. Handlers are those of before again at the end; where they
    cannot be set (in other threads than the main one), or are ignored, nothing is noted.

    Example:
        >>> with Interrupts() as interrupts:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     interrupts.caught == signal.SIGTERM
        True
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # None: a handler that was not set from Python, and could not be restored
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def obey(self) -> None:
        r"""Sends the process the signal that was caught, if one was, with the old handlers."""
        self._restore()
        if self.caught is not None:
            signal.raise_signal(self.caught)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.caught = number
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
