"""SIGTERM and SIGINT ask a run to stop between two steps; a second SIGINT (Ctrl-C) stops it at once.

A second SIGTERM changes nothing: batch systems send several.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """``requested`` turns true when one of the signals arrives, and ``then`` is called."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.requested = False
        self._then = then

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within it the signals set ``requested``. Needs the process's main thread."""
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._then()
