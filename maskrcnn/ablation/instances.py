"""The report's part on masks of given boxes: the IoU of every object, paired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.ablation.document import Block, Grid, Heading, Paragraph
from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.statistics import paired_bootstrap, show
from maskrcnn.ablation.summary import FEW, Row, cell_pixels, common_seeds

Floats = npt.NDArray[np.float64]
CELLS = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, float("inf")]


@dataclass(frozen=True)
class _Objects:
    """Of the objects of a place ``[I]``: ``first`` the IoU that they are compared with, ``second`` their own, their
    size in cells (NaN where the level differs) and image."""

    first: Floats
    second: Floats
    cells: Floats
    image: npt.NDArray[np.int64] | None

    def gain(self, inside: npt.NDArray[np.bool_] | None = None) -> str:
        chosen = np.ones(len(self.first), bool) if inside is None else inside
        groups = None if self.image is None else self.image[chosen]
        return show(paired_bootstrap(self.first[chosen], self.second[chosen], groups), sign=True, digits=2)


def given_boxes(table: Table, rows: Sequence[Row]) -> list[Block]:
    """Mean mask IoU, paired by object, where the boxes were given."""
    if table.compare is None or any("instances" not in row.records[0] for row in rows):
        return []
    axis, of = table.compare.axis, table.compare.of
    lines, sizes = [], []
    for axes, parts in _places(table, rows):
        own = np.concatenate([_ious(row.records) for row in parts])
        line = [*axes.values(), str(len(own)), f"{own.mean():.2f}", ""]
        if axes[axis] != of and (objects := _objects(table, rows, parts)) is not None:
            line[-1] = objects.gain()
            sizes += [[*axes.values(), *cells] for cells in _by_cells(objects)]
        lines.append(line)
    header = [*table.axes, "objects", "mean mask IoU", f"{of} − this, paired by object"]
    size_header = [*table.axes, "size in cells", "objects", f"{of} − this, mask IoU"]
    return [
        Heading("Mask IoU of given boxes"),
        Paragraph(
            "Of every object the IoU of its mask, the seeds averaged, and the mean of the paired differences with the "
            f"95 % interval of a bootstrap over {_drawn(rows)}"
        ),
        Grid("instances", header, lines),
        *([Grid("instance-sizes", size_header, sizes)] if sizes else []),
    ]


def _drawn(rows: Sequence[Row]) -> str:
    unknown = "it knows nothing of what another seed would change"
    if all(_images(row) is not None for row in rows):
        return f"images, each with all its objects: {unknown}."
    return f"objects: {unknown}, nor that the objects of one image belong together."


def _places(table: Table, rows: Sequence[Row]) -> Iterator[tuple[dict[str, str], list[Row]]]:
    """Every row, then those of all folds together where all are there."""
    for row in rows:
        yield row.axes, [row]
    if table.folds is None:
        return
    together: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        place = {**row.axes, table.folds: "all"}
        together.setdefault(tuple(place.values()), []).append(row)
    for values, parts in together.items():
        if len(parts) == len(table.axes[table.folds]):
            yield dict(zip(table.axes, values, strict=True)), parts


def _objects(table: Table, rows: Sequence[Row], parts: Sequence[Row]) -> _Objects | None:
    """The objects of the rows ``parts``; None where one has no run to be compared with."""
    assert table.compare is not None
    found = []
    for row in parts:
        wanted = {**row.axes, table.compare.axis: table.compare.of}
        best = next((r for r in rows if r.axes == wanted), None)
        first, second = ([], []) if best is None else common_seeds(best, row)
        if not first:
            return None
        area, cell = np.array(row.records[0]["instances"]["area"]), cell_pixels(row.records[0])
        cells = np.full(len(area), np.nan) if cell is None else np.sqrt(area) / cell
        found.append((_ious(first), _ious(second), cells, _images(row)))
    *numbers, images = zip(*found, strict=True)
    image = None if any(i is None for i in images) else np.concatenate(images)
    compared, own, sizes = (np.concatenate(column) for column in numbers)
    return _Objects(compared, own, sizes, image)


def _by_cells(objects: _Objects) -> Iterator[list[str]]:
    """The paired gain by object size in cells."""
    for low, high in pairwise(CELLS):
        inside = (objects.cells >= low) & (objects.cells < high)
        if inside.sum() >= FEW:
            span = f"{low:g}–{'' if np.isinf(high) else f'{high:g}'}"
            yield [span, str(int(inside.sum())), objects.gain(inside)]


def _images(row: Row) -> Any:
    """The image of each object; None of older records, which do not say."""
    images = row.records[0]["instances"].get("image")
    return None if images is None else np.array(images)


def _ious(records: Sequence[Any]) -> Floats:
    mean: Floats = np.mean([r["instances"]["iou"] for r in records], axis=0)
    return mean
