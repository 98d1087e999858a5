"""The processes that load data: how they are started, outlive signals, and how their death is told."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import DataLoader

from maskrcnn.data.order import Ticket
from maskrcnn.errors import UserError


class Fetch(Protocol):
    """Makes a batch, in a worker."""

    def __call__(self, tickets: list[Ticket], /) -> Any: ...


class BatchError(UserError):
    """A batch cannot be had: a file cannot be read, or a process that loads data died."""


class _Failure(NamedTuple):
    """A UserError on its way out of a worker; torch would bury its words in the worker's traceback."""

    message: str


class _Batches(torch.utils.data.Dataset[Any]):
    """Lets torch's DataLoader ask for whole batches by their tickets."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    def __getitem__(self, tickets: list[Ticket]) -> Any:
        try:
            return self._fetch(tickets)
        except UserError as error:
            return _Failure(str(error))


def _as_it_is(batch: Any) -> Any:
    return batch


# A run that was asked to stop still takes its workers' batches; by then it has saved and gone.
SECONDS_AFTER_SIGTERM = 30


def _outlive_signals(worker: int) -> None:
    """Ctrl-C and batch systems signal every process of a run; the workers end when the run does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(SECONDS_AFTER_SIGTERM))


class _Deaths:
    """Tells of a dead worker where a batch is waited for.

    torch's own handler of SIGCHLD raises in whatever frame runs: within an update, or while a file is written. Once
    taken over, it is so for all loaders of the process.
    """

    def __init__(self) -> None:
        self._tell: Callable[[int, FrameType | None], Any] | None = None
        self._waiting = self._noted = False

    def take_over(self) -> None:
        """Stand in for torch's handler, which it sets once in a process: with the first workers it starts."""
        handler = signal.getsignal(signal.SIGCHLD)
        in_main = threading.current_thread() is threading.main_thread()
        if self._tell is None and in_main and callable(handler):
            self._tell = handler
            signal.signal(signal.SIGCHLD, self._note)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Within it torch's RuntimeError is raised, of workers that died before too."""
        self._waiting = True
        try:
            if self._noted:
                self._note(signal.SIGCHLD, None)
            yield
        finally:
            self._waiting = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = not self._waiting
        if self._waiting and self._tell is not None:
            self._waiting = False  # another death does not disturb what is done on the way out
            self._tell(number, frame)
            self._waiting = True


_deaths = _Deaths()


def read_ahead(
    fetch: Fetch,
    tickets: Iterator[list[Ticket]],
    num_workers: int,
    pin_memory: bool | None,
    seed: int,
) -> Iterator[Any]:
    """What ``fetch`` makes of the tickets, made by ``num_workers`` processes ahead of time; by this one with 0.

    seed: of what a transform may draw in a worker beside its own numbers. Raises BatchError, and that here alone: a
    worker's death does not disturb what is done with the batches.
    """
    pin = torch.cuda.is_available() if pin_memory is None else pin_memory
    loader: DataLoader[Any] = DataLoader(
        _Batches(fetch),
        batch_size=None,
        sampler=tickets,
        num_workers=num_workers,
        pin_memory=pin,
        collate_fn=_as_it_is,
        worker_init_fn=_outlive_signals,
        # Without one torch takes the workers' seed from the numbers that the model draws from.
        generator=torch.Generator().manual_seed(seed),
    )
    try:
        with _deaths.told():
            batches = iter(loader)
            if num_workers:
                _deaths.take_over()
        while True:
            with _deaths.told():
                batch = next(batches, None)
            if batch is None:
                return
            if isinstance(batch, _Failure):
                raise BatchError(batch.message)
            yield batch
    except (RuntimeError, ConnectionError, EOFError) as error:
        # A process that dies within a batch also leaves a closed connection behind, which may be met first.
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
            raise
        reason = str(error) or "its connection is closed"
        raise BatchError(
            f"a process that loads data died ({reason}); most often the machine ran out of memory, "
            f"or of shared memory in /dev/shm: lower the number of workers (now {num_workers}); with 0 the "
            "data is loaded in this process"
        ) from error
