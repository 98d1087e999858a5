"""Numbers that have a least value; it is checked where a config is read, before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class AtLeast:
    """Of an annotated number: the least value it may have."""

    bound: int


Count = Annotated[int, AtLeast(0)]
Positive = Annotated[int, AtLeast(1)]
