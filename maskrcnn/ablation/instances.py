"""The report's part on masks of given boxes: the IoU of every object, paired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.statistics import paired_bootstrap, show
from maskrcnn.ablation.summary import FEW, Floats, Row, cell_pixels, common_seeds
from maskrcnn.ablation.tables import Section

CELLS = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, float("inf")]


@dataclass(frozen=True)
class _Objects:
    """Objects ``[I]``: IoU under ``compare.of`` and under their own operator, size in cells (NaN: a pyramid), image."""

    first: Floats
    second: Floats
    cells: Floats
    image: npt.NDArray[np.int64] | None

    def gain(self, inside: npt.NDArray[np.bool_] | None = None) -> str:
        chosen = np.ones(len(self.first), bool) if inside is None else inside
        groups = None if self.image is None else self.image[chosen]
        return show(paired_bootstrap(self.first[chosen], self.second[chosen], groups), sign=True, digits=2)


def instance_tables(table: Table, rows: Sequence[Row]) -> list[Section]:
    """Mean mask IoU, paired by object, of runs whose boxes were given."""
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
    tables = [("", pd.DataFrame(lines, columns=header))]
    if sizes:
        tables.append(("By object size in cells", pd.DataFrame(sizes, columns=size_header)))
    return [Section("Mask IoU of given boxes", _text(rows), tables)]


def _text(rows: Sequence[Row]) -> str:
    whole = all(_images(row) is not None for row in rows)
    drawn = (
        "images, each with all its objects" if whole else "objects, as if those of one image were independent"
    )
    return (
        "The IoU of every object's mask, averaged over the seeds, and the mean of the paired differences with the 95 % "
        f"interval of a bootstrap over {drawn}. The interval does not cover what another seed would change."
    )


def _places(table: Table, rows: Sequence[Row]) -> Iterator[tuple[dict[str, str], list[Row]]]:
    """Every row, then those of all folds together where all folds have runs."""
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
    """The image of each object; None for older records, which do not hold it."""
    images = row.records[0]["instances"].get("image")
    return None if images is None else np.array(images)


def _ious(records: Sequence[Any]) -> Floats:
    mean: Floats = np.mean([r["instances"]["iou"] for r in records], axis=0)
    return mean
