"""The report's parts on the size of the objects, in pixels and in cells of the map that the head pools from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from maskrcnn.ablation.document import Block, Grid, Heading, Paragraph
from maskrcnn.ablation.figures import KINDS
from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.record import Record
from maskrcnn.ablation.statistics import paired_bootstrap, show
from maskrcnn.ablation.summary import FEW, Row, cell_pixels, common_seeds, compared, gain_by_size


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


def given_boxes(table: Table, rows: Sequence[Row]) -> list[Block]:
    """Mean mask IoU, paired by object, where the boxes were given."""
    if table.compare is None or any("instances" not in row.records[0] for row in rows):
        return []
    axis, of = table.compare.axis, table.compare.of
    lines = [[*row.axes.values(), "", f"{_ious(row.records).mean():.2f}", ""] for row in rows]
    header = [*table.axes, "objects", "mean mask IoU", f"{of} − this, paired by object"]
    for line, row in zip(lines, rows, strict=True):
        line[-3] = str(len(row.records[0]["instances"]["iou"]))
        if row.axes[axis] != of and (pair := _compared(table, rows, row)) is not None:
            line[-1] = show(paired_bootstrap(*map(_ious, pair)), sign=True, digits=2)
    return [
        Heading("Mask IoU of given boxes"),
        Paragraph(
            "Of every object the IoU of its mask, the seeds averaged, and the mean of the paired differences with the "
            "95 % interval of a bootstrap over objects: it knows nothing of what another seed would change, nor that "
            "the objects of one image belong together."
        ),
        Grid("instances", header, lines),
        *_instance_sizes(table, rows),
    ]


def _instance_sizes(table: Table, rows: Sequence[Row]) -> list[Block]:
    """The paired gain by object size in cells."""
    assert table.compare is not None
    axis, of = table.compare.axis, table.compare.of
    bounds = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, float("inf")]
    lines = []
    for row in (r for r in rows if r.axes[axis] != of):
        pair, cell = _compared(table, rows, row), cell_pixels(row.records[0])
        if pair is None or cell is None:
            continue
        first, second = pair
        area = np.array(row.records[0]["instances"]["area"])
        cells = np.sqrt(area) / cell
        for low, high in pairwise(bounds):
            inside = (cells >= low) & (cells < high)
            if inside.sum() >= FEW:
                gain = paired_bootstrap(_ious(first)[inside], _ious(second)[inside])
                span = f"{low:g}–{'' if np.isinf(high) else f'{high:g}'}"
                lines.append(
                    [*row.axes.values(), span, str(int(inside.sum())), show(gain, sign=True, digits=2)]
                )
    header = [*table.axes, "size in cells", "objects", f"{of} − this, mask IoU"]
    return [Grid("instance-sizes", header, lines)] if lines else []


def _compared(
    table: Table, rows: Sequence[Row], row: Row
) -> tuple[Sequence[Record], Sequence[Record]] | None:
    """The runs that ``row`` is compared with and its own, of the seeds that both have; None where there is none."""
    assert table.compare is not None
    wanted = {**row.axes, table.compare.axis: table.compare.of}
    best = next((r for r in rows if r.axes == wanted), None)
    first, second = ([], []) if best is None else common_seeds(best, row)
    return (first, second) if first else None


def _ious(records: Sequence[Record]) -> Any:
    return np.mean([r["instances"]["iou"] for r in records], axis=0)
