"""The processes that load data: how they are started, how they end, and how their death is reported."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import DataLoader

from maskrcnn.data.order import Ticket
from maskrcnn.errors import UserError

# A run that was asked to stop still needs its workers' batches; by then it has saved and ended.
SECONDS_AFTER_SIGTERM = 30


class Fetch(Protocol):
    """Makes a batch, in a worker."""

    def __call__(self, tickets: list[Ticket], /) -> Any: ...


class BatchError(UserError):
    """A batch cannot be loaded: a file cannot be read, or a worker died."""


class FetchError(Exception):
    """The code of a data set or a transform failed; the message or the cause holds its traceback."""


class _Failure(NamedTuple):
    """A UserError on its way out of a worker; torch would bury its message in the worker's traceback."""

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
        except Exception as error:  # of a type of its own: a RuntimeError would look like a dead worker's
            raise FetchError(f"{type(error).__name__}: {error}") from error


def _as_it_is(batch: Any) -> Any:
    return batch


def _outlive_signals(worker: int) -> None:
    """Ctrl-C and batch systems signal every process of a run; the workers end when the run does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(SECONDS_AFTER_SIGTERM))


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches, without the SIGCHLD handler that torch sets.

    That handler raises in whatever frame runs, even within an update of the weights. Without it, a worker's death is
    noticed where the next batch is waited for.
    """
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)
    return batches


def read_ahead(
    fetch: Fetch,
    tickets: Iterator[list[Ticket]],
    num_workers: int,
    pin_memory: bool | None,
    seed: int,
) -> Iterator[Any]:
    """What ``fetch`` makes of the tickets, in order.

    Args:
        fetch: makes a batch.
        tickets: of the batches.
        num_workers: processes that load ahead of time; 0 loads in this one.
        pin_memory: copy batches into page-locked memory; None does so where CUDA is.
        seed: of what a transform may draw in a worker besides its own numbers.

    Raises:
        BatchError: if ``fetch`` raises a UserError, or a worker dies.
        FetchError: if ``fetch`` raises anything else.
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
    batches = _started(loader)
    while True:
        try:
            batch = next(batches, None)
        # A worker that dies within a batch also leaves a closed connection, which may be noticed first.
        except (RuntimeError, ConnectionError, EOFError) as error:
            reason = str(error) or "its connection is closed"
            raise BatchError(
                f"a process that loads data died ({reason}); most often the machine ran out of memory, "
                f"or of shared memory in /dev/shm: lower the number of workers (now {num_workers}); with 0 the "
                "data is loaded in this process"
            ) from error
        if batch is None:
            return
        if isinstance(batch, _Failure):
            raise BatchError(batch.message)
        yield batch
