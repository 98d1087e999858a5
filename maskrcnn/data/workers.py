"""The data-loading processes: how they start and end, and how their death is reported."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from maskrcnn.data.order import Ticket
from maskrcnn.errors import UserError

# A run that was asked to stop still needs batches from its workers. It has saved and ended before this time is over.
SECONDS_AFTER_SIGTERM = 30


class Fetch(Protocol):
    """Loads a batch in a worker."""

    def __call__(self, tickets: list[Ticket], /) -> Any: ...


class BatchError(UserError):
    """A batch cannot be loaded: a file cannot be read, or a worker died."""


class FetchError(Exception):
    """The code of a data set or a transform raised an error. The message or the cause has its traceback."""


class _Batches(torch.utils.data.Dataset[Any]):
    """Lets torch's DataLoader load batches by their tickets."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    def __getitem__(self, tickets: list[Ticket]) -> Any:
        try:
            return self._fetch(tickets)
        except UserError as error:
            return UserError(str(error))  # returned, because torch would hide it in the worker's traceback
        except Exception as error:  # a type of its own, because torch reports a dead worker by RuntimeError
            raise FetchError(f"{type(error).__name__}: {error}") from error


def _as_it_is(batch: Any) -> Any:
    return batch


def _outlive_signals(worker: int) -> None:
    """Ignore signals. Ctrl-C and batch systems signal every process of a run, but workers end when the run does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(SECONDS_AFTER_SIGTERM))


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches, without torch's SIGCHLD handler.

    That handler raises in any frame, even within an update of the weights. Without it, a dead worker is reported only
    while waiting for a batch.
    """
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)
    return batches


def read_ahead(
    fetch: Fetch, tickets: Iterator[list[Ticket]], num_workers: int, pin_memory: bool | None, seed: int
) -> Iterator[Any]:
    """Yield the results of ``fetch`` for each list of tickets, in order.

    Args:
        fetch: loads a batch.
        tickets: the images of each batch.
        num_workers: number of data-loading processes; 0 loads in this process.
        pin_memory: copy batches to page-locked memory; None does so if CUDA is available.
        seed: seed of torch's random numbers in the workers.

    Raises:
        BatchError: ``fetch`` raises a UserError, or a worker dies.
        FetchError: ``fetch`` raises another exception.
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
        # Without a generator, torch draws the workers' seed from the random numbers of the model.
        generator=torch.Generator().manual_seed(seed),
    )
    batches = _started(loader)
    while True:
        try:
            batch = next(batches, None)
        # If a worker dies within a batch, the error may be that of its closed connection.
        except (RuntimeError, ConnectionError, EOFError) as error:
            reason = str(error) or "its connection is closed"
            raise BatchError(
                f"a process that loads data died ({reason}); most often the machine ran out of memory, "
                f"or of shared memory in /dev/shm: lower the number of workers (now {num_workers}); with 0 the "
                "data is loaded in this process"
            ) from error
        if batch is None:
            return
        if isinstance(batch, UserError):
            raise BatchError(str(batch))
        yield batch
