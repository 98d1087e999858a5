"""The report's parts on the size of the objects, in pixels and in cells of the map that the head pools from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from maskrcnn.ablation.document import Block, Grid, Heading, Paragraph
from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.plots import KINDS
from maskrcnn.ablation.statistics import show
from maskrcnn.ablation.summary import FEW, Row, cell_pixels, compared, gain_by_size


def by_size(table: Table, rows: Sequence[Row], kinds: Sequence[str]) -> list[Block]:
    """AP and its gains by the size of the objects. kinds: ``bbox``, ``segm``, ``keypoints``."""
    blocks: list[Block] = []
    for kind in kinds:
        edges = [*table.sizes, None]
        names = [f"{low:g}–{'' if high is None else f'{high:g}'} px" for low, high in pairwise(edges)]
        lines = []
        for row in rows:
            mean = row.by_size(kind)
            cell = cell_pixels(row.records[0])
            cells = "by level" if cell is None else f"{cell:g} px"
            lines.append([*row.axes.values(), cells, *("–" if np.isnan(v) else f"{v:.1f}" for v in mean)])
        lines += _objects(table, rows)
        what = f"{KINDS[kind]} AP"
        blocks += [
            Paragraph(what[0].upper() + what[1:] + ":"),
            Grid(f"sizes-{kind}", [*table.axes, "a cell", *names], lines),
        ]
        if gains := _size_gains(table, rows, kind):
            others = [axis for axis in table.axes if table.compare and axis != table.compare.axis]
            blocks += [
                Paragraph(f"Differences in {what}, paired by seed:"),
                Grid(f"size-gains-{kind}", [*others, "difference", "a cell", *names], gains),
            ]
    if not blocks:
        return []
    text = (
        "Of the objects whose square root of area lies in each range of pixels of the original image; "
        f"divided by a cell's side it is their size in cells. Ranges of fewer than {FEW} objects are left out."
    )
    return [Heading("By object size"), Paragraph(text), *blocks]


def _objects(table: Table, rows: Sequence[Row]) -> list[list[str]]:
    """How many there are: a line, or where the places of the other axes have data of their own, a line for each."""
    counts: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        of = table.compare.axis if table.compare else None
        place = tuple("objects" if axis == of else text for axis, text in row.axes.items())
        counts.setdefault(place, row.records[0]["by_size"]["objects"])
    if len({tuple(numbers) for numbers in counts.values()}) == 1:
        counts = {("objects", *[""] * (len(table.axes) - 1)): next(iter(counts.values()))}
    return [[*place, "", *map(str, numbers)] for place, numbers in counts.items()]


def _size_gains(table: Table, rows: Sequence[Row], kind: str) -> list[list[str]]:
    lines = []
    for row, other in compared(table, rows):
        assert table.compare is not None
        axis = table.compare.axis
        cell = cell_pixels(row.records[0])
        lines.append(
            [
                *(value for name, value in row.axes.items() if name != axis),
                f"{row.axes[axis]} − {other.axes[axis]}",
                "by level" if cell is None else f"{cell:g} px",
                *(show(gain, sign=True) for gain in gain_by_size(row, other, kind)),
            ]
        )
    return lines
