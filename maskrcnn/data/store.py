"""Stores records in one flat buffer, so that data-loading workers share them instead of copying them."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T")


class RecordStore(Generic[T]):
    """A read-only list whose items are pickled in one buffer.

    A list of a million small Python objects grows by a copy per worker: reading an object writes its reference count,
    which un-shares its memory page after a fork. The buffer has no such counts. As a tensor, it is passed to spawned
    workers in shared memory.
    """

    def __init__(self, records: Iterable[T]) -> None:
        import torch  # lazily, so that checking and scoring annotations does not import it

        buffer, ends = bytearray(), [0]
        for record in records:
            buffer += pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL)
            ends.append(len(buffer))
        self._buffer = torch.from_numpy(np.frombuffer(buffer or bytearray(1), np.uint8))
        self._ends = torch.tensor(ends)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> T:
        begin, end = int(self._ends[index]), int(self._ends[index + 1])
        record: Any = pickle.loads(self._buffer.numpy()[begin:end].data)
        return record  # type: ignore[no-any-return]
