"""Exceptions for users' mistakes and interruptions, and bounded types for settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal


class UserError(Exception):
    """A mistake that a user can fix: a wrong key, path, file or value.

    The message states what was found, where (file, key, image id), what was expected and how to fix it. Commands print
    it without a traceback and exit with status 2.
    """


class Interrupted(Exception):
    """A signal stopped the run after it saved its state. Commands exit with status 75."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of an annotated number. None means no bound.

    Args:
        least: the smallest allowed value.
        above: the value must be greater than this.
        below: the value must be less than this.
    """

    least: float | None = None
    above: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        """Whether ``value`` lies within the bounds. NaN never does."""
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
