"""The report's tables, as data frames of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from maskrcnn.ablation.claims import claims
from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.statistics import show, signed
from maskrcnn.ablation.summary import (
    FEW,
    METRICS,
    Difference,
    Row,
    cell_pixels,
    compared,
    differences,
    gain_by_size,
    kinds_of,
    name_of,
)

MAIN = tuple(m for m in METRICS if m not in {f"{k}_AP{s}" for k in ("segm", "bbox") for s in "sml"})
_DIFFERENCES = (
    "By seed: the mean of the paired differences of runs with the same seed. Within images: the same of the AP within "
    "each image by itself, averaged over the seeds and bootstrapped over images. It is another metric than AP, which "
    "ranks the detections of all images together, and its interval does not cover what another seed would change. "
    "Resolved: all intervals exclude 0, on the same side. Nothing is adjusted for the number of lines ({count}): one "
    "in twenty would exclude 0 by chance if nothing differed. Share lost: (first − second) / first."
)
_SIZES = (
    "Objects whose square root of area lies in each range of pixels of the original image. Divide by the side of a "
    f"cell to get their size in cells. Ranges of fewer than {FEW} objects are left out."
)


@dataclass(frozen=True)
class Section:
    """A folded part of the report: its title, a text, and tables with their captions."""

    title: str
    text: str
    tables: list[tuple[str, pd.DataFrame]]


def results(table: Table, rows: Sequence[Row]) -> Section:
    """Every place of the grid: number of runs, and each metric with its interval."""
    metrics = [m for m in MAIN if any(row.values(m) for row in rows)]
    lines = [
        [*row.axes.values(), len(row.records), *(show(row.estimate(m)) for m in metrics)] for row in rows
    ]
    frame = _frame([*table.axes, "runs", *map(name_of, metrics)], lines)
    return Section("All metrics", "The mean over the seeds ± half the 95 % interval.", [("", frame)])


def claims_table(table: Table, rows: Sequence[Row]) -> pd.DataFrame:
    """The paper's claims: what is claimed, here, in the paper, whether it holds."""
    lines = [[c.claim, c.here, c.paper, c.verdict.value] for c in claims(table, rows)]
    return _frame(["claim", "here", "paper", "holds"], lines)


def difference_table(table: Table, rows: Sequence[Row]) -> list[Section]:
    """All differences that the table compares, with both intervals."""
    found = differences(table, rows, MAIN)
    if not found:
        return []
    others = [axis for axis in table.axes if table.compare and axis != table.compare.axis]
    header = [*others, "difference", "metric", "by seed", "within images", "resolved", "share lost", "paper"]
    frame = _frame(header, [_difference_line(d, others) for d in found])
    return [Section("Differences", _DIFFERENCES.format(count=len(found)), [("", frame)])]


def _difference_line(d: Difference, others: Sequence[str]) -> list[str]:
    intervals = [e for e in (d.by_seed, d.by_image) if e is not None and e.low is not None]
    agree = all(e.resolved for e in intervals) and len({e.mean > 0 for e in intervals}) == 1
    return [
        *(d.axes[axis] for axis in others),
        f"{d.first} − {d.second}",
        name_of(d.metric),
        show(d.by_seed, sign=True),
        "" if d.by_image is None else show(d.by_image, sign=True),
        "one run" if d.by_seed.low is None else "yes" if agree else "no",
        "" if d.share is None else show(d.share, scale=100, unit=" %"),
        "new" if d.paper is None else signed(d.paper),
    ]


def paper_table(table: Table, rows: Sequence[Row]) -> list[Section]:
    """Every metric next to the published one."""
    if not table.paper:
        return []
    same_data = table.data == "coco"  # a difference to another data set's metric means nothing
    lines = []
    for row in rows:
        for metric in (m for m in MAIN if row.values(m)):
            own, there = row.estimate(metric), table.published(row.axes).get(metric)
            assert own is not None
            line = [
                *row.axes.values(),
                name_of(metric),
                show(own),
                "new" if there is None else f"{there:.1f}",
            ]
            lines.append([*line, "" if there is None else signed(own.mean - there)] if same_data else line)
    header = [*table.axes, "metric", "here", "paper", *(["here − paper"] if same_data else [])]
    text = "The paper's metrics are COCO's with an ImageNet backbone. On other data, compare the differences."
    return [Section("Next to the paper", text, [("", _frame(header, lines))])]


def size_tables(table: Table, rows: Sequence[Row]) -> list[Section]:
    """AP, and its differences, by the size of the objects."""
    edges = [*rows[0].records[0]["by_size"]["edges"], None]
    names = [f"{low:g}–{'' if high is None else f'{high:g}'} px" for low, high in pairwise(edges)]
    axis = table.compare.axis if table.compare else None
    tables = []
    for kind in kinds_of(rows):
        lines = [
            [*row.axes.values(), _cell(row), *("–" if np.isnan(v) else f"{v:.1f}" for v in row.by_size(kind))]
            for row in rows
        ]
        name = name_of(f"{kind}_AP")
        frame = _frame([*table.axes, "a cell", *names], lines + _objects(table, rows))
        tables.append((name[0].upper() + name[1:], frame))
        gains = [
            [
                *row.without(axis).values(),
                f"{row.axes[axis]} − {other.axes[axis]}",
                _cell(row),
                *(show(gain, sign=True) for gain in gain_by_size(row, other, kind)),
            ]
            for row, other in compared(table, rows)
            if axis is not None
        ]
        if gains:
            others = [name for name in table.axes if name != axis]
            caption = f"Differences in {name}, paired by seed"
            tables.append((caption, _frame([*others, "difference", "a cell", *names], gains)))
    return [Section("By object size", _SIZES, tables)] if tables else []


def _cell(row: Row) -> str:
    side = cell_pixels(row.records[0])
    return "by level" if side is None else f"{side:g} px"


def _objects(table: Table, rows: Sequence[Row]) -> list[list[str]]:
    """Numbers of objects: one line, or a line per place where the places of the other axes have other data."""
    counts: dict[tuple[str, ...], list[int]] = {}
    axis = table.compare.axis if table.compare else None
    for row in rows:
        place = tuple("objects" if name == axis else text for name, text in row.axes.items())
        counts.setdefault(place, row.records[0]["by_size"]["objects"])
    if len({tuple(numbers) for numbers in counts.values()}) == 1:
        counts = {("objects", *[""] * (len(table.axes) - 1)): next(iter(counts.values()))}
    return [[*place, "", *map(str, numbers)] for place, numbers in counts.items()]


def cross_table(table: Table, rows: Sequence[Row]) -> list[Section]:
    """AP of models that are tested with another operator than they were trained with."""
    if table.cross is None or not any(row.records[0].get("tested_with") for row in rows):
        return []
    values = list(table.axes[table.cross])
    lines = []
    for row in rows:
        first = row.records[0]
        tested = {row.axes[table.cross]: first["metrics"], **first["tested_with"]}
        kinds = [tested.get(v, {}) for v in values]
        found = [metrics.get("segm", metrics.get("bbox", {})).get("AP") for metrics in kinds]
        lines.append([*row.axes.values(), *("–" if ap is None else f"{ap:.1f}" for ap in found)])
    text = (
        "Mask AP of the first seed's models, tested with each operator. A row names the operator of training."
    )
    frame = _frame([*table.axes, *(f"tested with {v}" for v in values)], lines)
    return [Section("Trained with one operator, tested with another", text, [("", frame)])]


def _frame(header: Sequence[str], lines: Sequence[Sequence[object]]) -> pd.DataFrame:
    return pd.DataFrame([[str(text) for text in line] for line in lines], columns=list(header))
