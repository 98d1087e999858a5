"""SIGTERM and SIGINT ask a run to stop between two steps. A second SIGINT (Ctrl-C) stops it immediately.

A second SIGTERM has no effect, because batch systems send several.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Sets ``requested`` to True when one of the signals arrives.

    Args:
        answer: printed immediately by the main process, because a step may take long.
        then: called after that.
    """

    def __init__(self, answer: str, then: Callable[[], None] = lambda: None) -> None:
        self.requested = False
        self._answer, self._then = answer, then

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A context in which the signals set ``requested``. Outside the main thread it does nothing."""
        if not _in_main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.requested and os.environ.get("RANK", "0") == "0":
            with suppress(OSError):  # the terminal may be gone, but the run must still be saved
                # Do not use print, because print itself may have been interrupted.
                os.write(2, f"\n{self._answer}; Ctrl-C again stops at once\n".encode())
        self.requested = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._then()


@contextmanager
def interruptible() -> Iterator[None]:
    """A context for imports that take seconds: SIGINT ends the process immediately.

    There is nothing to save yet, and the imported modules might catch an exception.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler or not _in_main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _in_main_thread() -> bool:
    """Whether this is the main thread, the only one that may set signal handlers."""
    return threading.current_thread() is threading.main_thread()
