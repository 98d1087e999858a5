"""What is wrong in a data set, in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from maskrcnn.errors import UserError


@dataclass(frozen=True)
class Defect:
    """Something wrong in a data set.

    kind: the same words for the same thing. where: the entry, by id. remedy: what to do about it.
    fatal: training cannot go on in good faith; otherwise the entry is passed over, counted and reported.
    """

    kind: str
    where: str
    remedy: str
    fatal: bool

    def __str__(self) -> str:
        return f"{self.where}: {self.kind}; {self.remedy}"


def summarise(path: Path, defects: Iterable[Defect], shown: int = 3) -> list[str]:
    """One line for every kind of defect: how many, and where the first few are."""
    kinds: dict[str, list[Defect]] = {}
    for defect in defects:
        kinds.setdefault(defect.kind, []).append(defect)
    return [
        f"{path}: {len(found)} x {kind} ({', '.join(d.where for d in found[:shown])}"
        f"{', ...' if len(found) > shown else ''}); {found[0].remedy}"
        for kind, found in kinds.items()
    ]


def refuse_fatal(path: Path, defects: Iterable[Defect]) -> None:
    """Raise UserError with a line for every kind of defect that is fatal."""
    if fatal := summarise(path, (defect for defect in defects if defect.fatal)):
        raise UserError("\n".join(fatal))
