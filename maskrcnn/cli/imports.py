"""Imports that take seconds."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it, Ctrl-C ends the process as the system does.

    There is nothing to save yet, and the modules that are imported might catch an exception.
    """
    if (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        or current_thread() is not main_thread()
    ):
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
