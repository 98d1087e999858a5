"""Records of finished runs, grouped by their place in the table's grid and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import getitem
from typing import Any

import numpy as np

from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.record import Record
from maskrcnn.ablation.statistics import (
    Estimate,
    Floats,
    lost_share,
    mean_interval,
    paired_bootstrap,
    paired_by_seed,
)

KINDS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
METRICS = {
    f"{kind}_{name}": (kind, name)
    for kind in ("segm", "bbox", "keypoints")
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")
    if (kind, name) != ("keypoints", "APs")
}
FEW = 10  # AP of fewer objects is left out


@dataclass(frozen=True)
class Row:
    """The runs at one place of the grid, by rising seed."""

    axes: dict[str, str]
    records: list[Record]

    def values(self, metric: str) -> list[float]:
        """A metric (``segm_AP``) of every run that has it."""
        found = [value(record, metric) for record in self.records]
        return [v for v in found if v is not None]

    def estimate(self, metric: str) -> Estimate | None:
        """Mean and interval over the seeds; None where no run has the metric."""
        values = self.values(metric)
        return mean_interval(values) if values else None

    def mean_of(self, *keys: str) -> Floats:
        """Mean over the seeds of a list of numbers, ``record[key][key]...``; NaN where one is undefined."""
        means: Floats = np.mean([np.array(reduce(getitem, keys, r), float) for r in self.records], axis=0)
        return means

    def by_size(self, kind: str) -> Floats:
        """AP of the objects in each range of sizes, NaN where there are fewer than `FEW`."""
        few = np.array(self.records[0]["by_size"]["objects"]) < FEW
        return np.where(few, np.nan, self.mean_of("by_size", kind))

    def without(self, axis: str | None) -> dict[str, str]:
        """The place on the other axes."""
        return {key: text for key, text in self.axes.items() if key != axis}

    @property
    def cell(self) -> float | None:
        """Side of a feature cell in pixels of the original image (the median over images); None for a pyramid."""
        stride = stride_of(self.records[0])
        return None if stride == "fpn" else float(stride) / float(self.records[0]["network_scale"])


@dataclass(frozen=True)
class Difference:
    """One metric of two rows that differ on ``axis`` alone, paired by seed: ``row`` minus ``other``. See `paired`."""

    table: Table
    axis: str
    row: Row
    other: Row
    metric: str

    @property
    def first(self) -> str:
        """The row's value on the axis."""
        return self.row.axes[self.axis]

    @property
    def second(self) -> str:
        """The other row's value on the axis."""
        return self.other.axes[self.axis]

    @property
    def axes(self) -> dict[str, str]:
        """The place on the other axes."""
        return self.row.without(self.axis)

    @property
    def at(self) -> str:
        """`` at stride 16``; empty for the only place."""
        return f" at {place_name(self.axes)}" if self.axes else ""

    @cached_property
    def values(self) -> tuple[list[float], list[float]]:
        """The metric of both rows, seed by seed; empty where a run has no such metric."""
        first, second = self.row.values(self.metric), self.other.values(self.metric)
        return (first, second) if len(first) == len(second) else ([], [])

    @property
    def gains(self) -> list[float]:
        """The difference of every seed."""
        return [a - b for a, b in zip(*self.values, strict=True)]

    @cached_property
    def by_seed(self) -> Estimate:
        """The mean difference. Raises ValueError where a run has no such metric."""
        return paired_by_seed(*self.values)

    @cached_property
    def by_image(self) -> Estimate | None:
        """The mean difference of the AP within each image, paired by image; None for other metrics than AP."""
        kind, name = METRICS[self.metric]
        if name != "AP":
            return None
        return paired_bootstrap(self.row.mean_of("per_image", kind), self.other.mean_of("per_image", kind))

    @property
    def by_size(self) -> list[Estimate | None]:
        """The mean difference in AP for each range of sizes; None where there are fewer than `FEW` objects."""
        kind, found = METRICS[self.metric][0], []
        for place, objects in enumerate(self.row.records[0]["by_size"]["objects"]):
            first, second = (
                [r["by_size"][kind][place] for r in row.records] for row in (self.row, self.other)
            )
            few = objects < FEW or None in [*first, *second]
            found.append(None if few else paired_by_seed(first, second))
        return found

    @property
    def share(self) -> Estimate | None:
        """The share that the second loses; None where the first is not ``compare.of`` or one of its runs has 0."""
        of_all = self.table.compare is not None and self.first == self.table.compare.of
        return lost_share(*self.values) if of_all and min(self.values[0]) > 0 else None

    @property
    def paper(self) -> float | None:
        """The published difference; None where the paper has no metric for one of the rows."""
        first, second = (self.table.published(row.axes).get(self.metric) for row in (self.row, self.other))
        return None if first is None or second is None else first - second


def value(record: Record, metric: str) -> float | None:
    """A metric of one run, in percent; None where the run has none."""
    kind, name = METRICS[metric]
    found: float | None = record["metrics"].get(kind, {}).get(name)
    return found


def name_of(metric: str) -> str:
    """``segm_AP75`` is ``mask AP75``."""
    kind, name = METRICS[metric]
    return f"{KINDS[kind]} {name}"


def place_name(axes: dict[str, str]) -> str:
    """``stride 16``; empty for the only place."""
    return ", ".join(f"{axis} {text}" for axis, text in axes.items())


def kinds_of(rows: Sequence[Row]) -> list[str]:
    """The kinds of AP that all runs have: keypoints, masks, boxes."""
    return [k for k in ("keypoints", "segm", "bbox") if all(k in row.records[0]["by_iou"] for row in rows)]


def grid_rows(table: Table, records: Sequence[Record]) -> list[Row]:
    """The records by their place in the grid, in its order; places without a record are left out."""
    places = [run.axes for run in table.runs(seeds=1)]
    by_seed = sorted(records, key=lambda record: int(record["seed"]))
    rows = [Row(axes, [record for record in by_seed if record["axes"] == axes]) for axes in places]
    return [row for row in rows if row.records]


def grouped(rows: Sequence[Row], axis: str) -> dict[str, dict[str, Row]]:
    """``{place on the other axes: {value of axis: row}}``."""
    groups: dict[str, dict[str, Row]] = {}
    for row in rows:
        groups.setdefault(place_name(row.without(axis)), {})[row.axes[axis]] = row
    return groups


def matched(*rows: Row) -> list[Row]:
    """The rows, each with its runs of the seeds that all of them have."""
    seeds = set.intersection(*({record["seed"] for record in row.records} for row in rows))
    return [Row(row.axes, [r for r in row.records if r["seed"] in seeds]) for row in rows]


def paired(table: Table, axis: str, row: Row, other: Row, metric: str) -> Difference:
    """``row`` minus ``other``, over the seeds that both have."""
    first, second = matched(row, other)
    return Difference(table, axis, first, second, metric)


def differences(table: Table, rows: Sequence[Row], metrics: Sequence[str]) -> list[Difference]:
    """What ``table.compare`` asks for: pairs of rows that differ on its axis alone."""
    if table.compare is None:
        return []
    axis, of = table.compare.axis, table.compare.of
    wanted = [(of, value) for value in table.axes[axis] if value != of] + table.compare.also
    found = [
        paired(table, axis, row, other, metric)
        for row in rows
        for first, second in wanted
        for other in rows
        if row.axes[axis] == first and other.axes == {**row.axes, axis: second}
        for metric in metrics
    ]
    return [difference for difference in found if difference.gains]


def bin_centres(edges: Sequence[float]) -> Floats:
    """Geometric middles of ranges of sizes; the open last one is taken as half as wide again as its edge."""
    ends = [*edges[1:], edges[-1] * 1.5]
    return np.array([np.sqrt(max(low, high / 4) * high) for low, high in zip(edges, ends, strict=True)])


def stride_of(record: Record) -> str:
    """The stride of the map that the heads read: 8, 16, 32 for C3, C4, C5, ``fpn`` for a pyramid."""
    if "stride" in record["axes"]:
        return str(record["axes"]["stride"])
    config: dict[str, Any] = record["manifest"]["config"]
    if "FPN" in config["model"]["pyramid"]["_target_"]:
        return "fpn"
    backbone = config["model"]["backbone"]
    if "last_stride" in backbone:
        return str(backbone["last_stride"])
    return "16" if backbone.get("dilated") else str(2 ** int(backbone["last_stage"]))


def operator_switches(record: Record) -> dict[str, Any]:
    """The settings of the mask head's operator (the box head's where there is no mask head)."""
    config: dict[str, Any] = record["manifest"]["config"]
    operator = config.get("mask_roi_op") or config["roi_op"]
    return {key: setting for key, setting in operator.items() if not key.startswith(("_", "canonical"))}
