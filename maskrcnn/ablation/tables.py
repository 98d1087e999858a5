"""The tables of a report, as data frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd
import yaml

from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.statistics import paired_bootstrap, show, signed
from maskrcnn.ablation.summary import FEW, METRICS, Difference, Row, differences, kinds_of, matched, name_of

MAIN = tuple(m for m in METRICS if m not in {f"{k}_AP{s}" for k in ("segm", "bbox") for s in "sml"})
_TEMPLATES = files(__package__).joinpath("templates")
TEXTS: dict[str, Any] = yaml.safe_load(_TEMPLATES.joinpath("texts.yaml").read_text("utf-8"))
_CELLS = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, float("inf")]


Captioned = list[tuple[str, pd.DataFrame]]
Line = tuple[Mapping[str, str], Mapping[str, object]]  # values on the axes, then the other columns


@dataclass(frozen=True)
class Section:
    """A folded part of the report.

    Args:
        title: the title.
        text: what the tables show.
        tables: (caption, table) pairs.
    """

    title: str
    text: str
    tables: Captioned


def sections(table: Table, rows: Sequence[Row]) -> list[Section]:
    """The sections of a report. Sections whose numbers the runs do not have are left out.

    Args:
        table: the table.
        rows: its rows.
    """
    make = (_metrics, _differences, _paper, _by_size, _in_given_boxes, _cross)
    whole = all("image" in row.records[0].get("instances", ()) for row in rows)
    drawn = TEXTS["drawn"]["whole images" if whole else "single objects"]
    return with_texts("sections", [tables_of(table, rows) for tables_of in make], drawn)


def with_texts(key: str, contents: Sequence[Captioned], drawn: str = "") -> list[Section]:
    """Sections with the titles and texts of ``TEXTS[key]``. Those without tables are left out.

    Args:
        key: ``sections`` or ``across sections``.
        contents: the tables of each section.
        drawn: what a bootstrap draws.
    """
    texts = zip(TEXTS[key].items(), contents, strict=True)
    return [
        Section(title, text.format(count=len(found[0][1]), few=FEW, drawn=drawn), found)
        for (title, text), found in texts
        if found
    ]


def _captioned(lines: Sequence[Line], caption: str = "") -> Captioned:
    """One table; nothing without lines. A column may have the same name as an axis."""
    if not lines:
        return []
    places, texts = zip(*lines, strict=True)
    return [(caption, pd.concat([pd.DataFrame(places), pd.DataFrame(texts)], axis=1))]


def _metrics(_: Table, rows: Sequence[Row]) -> Captioned:
    """All metrics of every row."""
    metrics = [m for m in MAIN if any(row.values(m) for row in rows)]
    shown = ({name_of(m): show(row.estimate(m)) for m in metrics} for row in rows)
    return _captioned(
        [(row.axes, {"runs": len(row.records), **own}) for row, own in zip(rows, shown, strict=True)]
    )


def _differences(table: Table, rows: Sequence[Row]) -> Captioned:
    """All differences that the table compares, over seeds and within images."""
    return _captioned([(d.axes, _difference(d)) for d in differences(table, rows, MAIN)])


def _difference(d: Difference) -> dict[str, str]:
    intervals = [e for e in (d.by_seed, d.by_image) if e is not None and e.low is not None]
    agree = all(e.resolved for e in intervals) and len({e.mean > 0 for e in intervals}) == 1
    return {
        "difference": f"{d.first} − {d.second}",
        "metric": name_of(d.metric),
        "by seed": show(d.by_seed, sign=True),
        "within images": "" if d.by_image is None else show(d.by_image, sign=True),
        "resolved": "one run" if d.by_seed.low is None else "yes" if agree else "no",
        "share lost": "" if d.share is None else show(d.share, scale=100, unit=" %"),
        "paper": signed(d.paper),
    }


def _paper(table: Table, rows: Sequence[Row]) -> Captioned:
    """Every metric next to the published one."""
    lines: list[Line] = []
    for row, metric in product(rows if table.paper else (), MAIN):
        own, there = row.estimate(metric), table.published(row.axes).get(metric)
        if own is not None:
            paper = "–" if there is None else f"{there:.1f}"
            line = {"metric": name_of(metric), "here": show(own), "paper": paper}
            if table.data == "coco":  # metrics of different data sets are not comparable
                line["here − paper"] = "" if there is None else signed(own.mean - there)
            lines.append((row.axes, line))
    return _captioned(lines)


def _by_size(table: Table, rows: Sequence[Row]) -> Captioned:
    """AP and its differences by object size."""
    edges = rows[0].records[0]["by_size"]["edges"]
    ends = [*(f"{edge:g}" for edge in edges[1:]), ""]
    names = [f"{low:g}–{high} px" for low, high in zip(edges, ends, strict=True)]

    def line(row: Row, texts: Sequence[str]) -> dict[str, str]:
        cell = "by level" if row.cell is None else f"{row.cell:g} px"
        return {"cell side": cell, **dict(zip(names, texts, strict=True))}

    counts = [
        (place, {"cell side": "", **dict(zip(names, map(str, objects), strict=True))})
        for place, objects in _objects(table, rows)
    ]
    tables: Captioned = []
    for kind in kinds_of(rows):
        name = name_of(f"{kind}_AP")
        found = [
            (row.axes, line(row, ["–" if np.isnan(v) else f"{v:.1f}" for v in row.by_size(kind)]))
            for row in rows
        ]
        tables += _captioned(found + counts, name[0].upper() + name[1:])
        gains = [
            (
                {**d.axes, "difference": f"{d.first} − {d.second}"},
                line(d.row, [show(gain, sign=True) for gain in d.by_size]),
            )
            for d in differences(table, rows, [f"{kind}_AP"])
        ]
        tables += _captioned(gains, f"Differences in {name}, paired by seed")
    return tables


def _objects(table: Table, rows: Sequence[Row]) -> list[tuple[dict[str, str], list[int]]]:
    """Number of objects by size: one line, or one for each combination of the other axes if their data differ."""
    counts: list[tuple[dict[str, str], list[int]]] = []
    axis = table.compare.axis if table.compare else None
    for row in rows:
        place = {name: "objects" if name == axis else text for name, text in row.axes.items()}
        if all(place != known for known, _ in counts):
            counts.append((place, row.records[0]["by_size"]["objects"]))
    if all(objects == counts[0][1] for _, objects in counts):
        first, *others = table.axes
        return [({first: "objects", **dict.fromkeys(others, "")}, counts[0][1])]
    return counts


def _cross(table: Table, rows: Sequence[Row]) -> Captioned:
    """AP of models that are tested with other operators than in training."""
    if table.cross is None or not any(row.records[0].get("tested_with") for row in rows):
        return []
    lines = []
    for row in rows:
        tested = {row.axes[table.cross]: row.records[0]["metrics"], **row.records[0]["tested_with"]}
        line = {}
        for value in table.axes[table.cross]:
            metrics = tested.get(value, {})
            ap = metrics.get("segm", metrics.get("bbox", {})).get("AP")
            line[f"tested with {value}"] = "–" if ap is None else f"{ap:.1f}"
        lines.append((row.axes, line))
    return _captioned(lines)


def _in_given_boxes(table: Table, rows: Sequence[Row]) -> Captioned:
    """Mean mask IoU of runs with ground-truth boxes, and its differences paired by object."""
    if table.compare is None or any("instances" not in row.records[0] for row in rows):
        return []
    axis, of = table.compare.axis, table.compare.of
    lines: list[Line] = []
    sizes: list[Line] = []
    for axes, objects in _places(table, rows):
        paired = axes[axis] != of and bool(objects["first"].notna().all())
        gain = {f"{of} − this, paired by object": _gain(objects) if paired else ""}
        mean = f"{objects['iou'].mean():.2f}"
        lines.append((axes, {"objects": len(objects), "mean mask IoU": mean, **gain}))
        for span, own in objects.groupby("span", observed=True) if paired else ():
            if len(own) >= FEW:
                found = {"size in cells": span, "objects": len(own), f"{of} − this, mask IoU": _gain(own)}
                sizes.append((axes, found))
    return _captioned(lines) + _captioned(sizes, "By object size in cells")


def _places(table: Table, rows: Sequence[Row]) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Yield the objects of every row, then the objects of all folds together if all folds have runs."""
    assert table.compare is not None
    of = {table.compare.axis: table.compare.of}
    found = [(row, _instances(row, [best for best in rows if best.axes == row.axes | of])) for row in rows]
    yield from ((row.axes, objects) for row, objects in found)
    if table.folds is None:
        return
    for values in product(*({**table.axes, table.folds: ["all"]}.values())):
        axes = dict(zip(table.axes, values, strict=True))
        parts = [objects for row, objects in found if {**row.axes, table.folds: "all"} == axes]
        if len(parts) == len(table.axes[table.folds]):
            yield axes, pd.concat(parts)


def _instances(row: Row, best: Sequence[Row]) -> pd.DataFrame:
    """A line per object.

    ``iou`` is the mean over the row's seeds. ``first`` (of the row in ``best``) and ``second`` (of this row) are
    means over the seeds that both rows have, and NaN if ``best`` is empty.
    """
    instances = row.records[0]["instances"]
    compared = [
        side.mean_of("instances", "iou") for other in best for side in matched(other, row) if side.records
    ]
    first, second = compared or (np.nan, np.nan)
    cells = np.sqrt(instances["area"]) / (np.nan if row.cell is None else row.cell)
    names = [f"{low:g}–{'' if np.isinf(high) else f'{high:g}'}" for low, high in pairwise(_CELLS)]
    return pd.DataFrame(
        {
            "iou": row.mean_of("instances", "iou"),
            "first": first,
            "second": second,
            "span": pd.cut(cells, _CELLS, right=False, labels=names),
            "image": instances.get("image", np.nan),  # older records lack it
        }
    )


def _gain(objects: pd.DataFrame) -> str:
    """Mean of ``first - second`` with its interval. Images are drawn with all their objects."""
    images = None if objects["image"].isna().any() else objects["image"].to_numpy()
    gain = paired_bootstrap(objects["first"].to_numpy(), objects["second"].to_numpy(), images)
    return show(gain, sign=True, digits=2)
