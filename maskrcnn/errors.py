"""Exceptions for users' mistakes and for interruption, and the types of settings whose violation is a mistake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal


class UserError(Exception):
    """Something a user can mend: a wrong key, path, file or value.

    The message says what was found, where (file, key, image id), what was expected and how to mend it.
    Command-line tools print it without a traceback and exit with status 2.
    """


class Interrupted(Exception):
    """A signal asked the run to stop, and it has saved what is needed to go on from here (exit status 75)."""


@dataclass(frozen=True)
class Bounds:
    """Of an annotated number: the least value it may have, or one that it must exceed, and one to stay below."""

    least: float | None = None
    above: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        """Whether ``value`` lies within; NaN never does."""
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        named = (("of at least", self.least), ("above", self.above), ("below", self.below))
        return " and ".join(f"{words} {bound:g}" for words, bound in named if bound is not None)


Count = Annotated[int, Bounds(least=0)]
Positive = Annotated[int, Bounds(least=1)]
Seed = Annotated[int, Bounds(least=0, below=2**63)]
Amount = Annotated[float, Bounds(least=0)]
PositiveAmount = Annotated[float, Bounds(above=0)]
Fraction = Annotated[float, Bounds(least=0, below=1)]
Precision = Literal["fp32", "bf16", "fp16", "fp64"]
