"""Suppresses the progress messages that pycocotools prints."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ONE_AT_A_TIME = threading.RLock()


class _Muted:
    """Standard output without what one thread prints."""

    def __init__(self, stream: Any, thread: int) -> None:
        self._stream, self._thread = stream, thread

    def write(self, text: str) -> int:
        if threading.get_ident() == self._thread:
            return len(text)
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def silence() -> Iterator[None]:
    """A context that drops what this thread prints. Other threads are not affected."""
    with _ONE_AT_A_TIME:
        before = sys.stdout
        sys.stdout = _Muted(before, threading.get_ident())
        try:
            yield
        finally:
            sys.stdout = before
