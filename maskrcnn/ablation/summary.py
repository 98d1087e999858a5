"""Groups the records of finished runs by their place in a table's grid, and compares them."""

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
FEW = 10  # AP of fewer objects is not reported


@dataclass(frozen=True)
class Row:
    """The runs of one combination of values, by rising seed.

    Args:
        axes: the value on each axis.
        records: the record of each run.
    """

    axes: dict[str, str]
    records: list[Record]

    def values(self, metric: str) -> list[float]:
        """A metric of every run that has it, for example ``segm_AP``."""
        found = [value(record, metric) for record in self.records]
        return [v for v in found if v is not None]

    def estimate(self, metric: str) -> Estimate | None:
        """Mean and interval of a metric over seeds; None if no run has the metric."""
        values = self.values(metric)
        return mean_interval(values) if values else None

    def mean_of(self, *keys: str) -> Floats:
        """Mean over seeds of a list of numbers in the records.

        Args:
            *keys: path of the list, ``record[key][key]...``.

        Returns:
            The means; NaN where a number is None.
        """
        means: Floats = np.mean([np.array(reduce(getitem, keys, r), float) for r in self.records], axis=0)
        return means

    def by_size(self, kind: str) -> Floats:
        """AP in each size range; NaN for a range of fewer than `FEW` objects."""
        few = np.array(self.records[0]["by_size"]["objects"]) < FEW
        return np.where(few, np.nan, self.mean_of("by_size", kind))

    def without(self, axis: str | None) -> dict[str, str]:
        """The values on all axes but one."""
        return {key: text for key, text in self.axes.items() if key != axis}

    @property
    def cell(self) -> float | None:
        """Side of a feature cell in pixels of the original image, as the median over images; None for a pyramid."""
        stride = stride_of(self.records[0])
        return None if stride == "fpn" else float(stride) / float(self.records[0]["network_scale"])


@dataclass(frozen=True)
class Difference:
    """The difference in one metric of two rows, paired by seed: ``row`` minus ``other``. Made by `paired`.

    Args:
        table: the table.
        axis: the axis on which the rows differ.
        row: the first row.
        other: the second row, with the same seeds.
        metric: for example ``segm_AP``.
    """

    table: Table
    axis: str
    row: Row
    other: Row
    metric: str

    @property
    def first(self) -> str:
        """The first row's value on the axis."""
        return self.row.axes[self.axis]

    @property
    def second(self) -> str:
        """The second row's value on the axis."""
        return self.other.axes[self.axis]

    @property
    def axes(self) -> dict[str, str]:
        """The values on the other axes."""
        return self.row.without(self.axis)

    @property
    def at(self) -> str:
        """`` at stride 16``, the values on the other axes as text; empty if there are none."""
        return f" at {place_name(self.axes)}" if self.axes else ""

    @cached_property
    def values(self) -> tuple[list[float], list[float]]:
        """The metric of both rows by seed; two empty lists if a run lacks it."""
        first, second = self.row.values(self.metric), self.other.values(self.metric)
        return (first, second) if len(first) == len(second) else ([], [])

    @property
    def gains(self) -> list[float]:
        """The difference for each seed."""
        return [a - b for a, b in zip(*self.values, strict=True)]

    @cached_property
    def by_seed(self) -> Estimate:
        """Mean difference over seeds.

        Raises:
            ValueError: a run lacks the metric.
        """
        return paired_by_seed(*self.values)

    @cached_property
    def by_image(self) -> Estimate | None:
        """Mean difference of AP within each image, over images; None for metrics other than AP."""
        kind, name = METRICS[self.metric]
        if name != "AP":
            return None
        return paired_bootstrap(self.row.mean_of("per_image", kind), self.other.mean_of("per_image", kind))

    @property
    def by_size(self) -> list[Estimate | None]:
        """Mean difference in AP over seeds in each size range; None for a range of fewer than `FEW` objects."""
        kind = METRICS[self.metric][0]
        first, second = (
            np.array([record["by_size"][kind] for record in row.records], float).T
            for row in (self.row, self.other)
        )  # [sizes, seeds]
        few = np.array(self.row.records[0]["by_size"]["objects"]) < FEW
        unknown = few | np.isnan(first - second).any(1)
        sides = zip(unknown, first, second, strict=True)
        return [None if left_out else paired_by_seed(a, b) for left_out, a, b in sides]

    @property
    def share(self) -> Estimate | None:
        """Share of the first row's metric that the second loses.

        None if the first row does not have ``table.compare.of``, or one of its runs has a metric of 0.
        """
        of_all = self.table.compare is not None and self.first == self.table.compare.of
        return lost_share(*self.values) if of_all and min(self.values[0]) > 0 else None

    @property
    def paper(self) -> float | None:
        """The paper's difference; None if the paper lacks the metric of a row."""
        first, second = (self.table.published(row.axes).get(self.metric) for row in (self.row, self.other))
        return None if first is None or second is None else first - second


def value(record: Record, metric: str) -> float | None:
    """A metric of one run in percent; None if the run lacks it.

    Args:
        record: the run's record.
        metric: one of `METRICS`, for example ``segm_AP``.
    """
    kind, name = METRICS[metric]
    found: float | None = record["metrics"].get(kind, {}).get(name)
    return found


def name_of(metric: str) -> str:
    """Name of a metric in reports: ``mask AP75`` for ``segm_AP75``."""
    kind, name = METRICS[metric]
    return f"{KINDS[kind]} {name}"


def place_name(axes: dict[str, str]) -> str:
    """Values on axes as text: ``stride 16`` for ``{"stride": "16"}``."""
    return ", ".join(f"{axis} {text}" for axis, text in axes.items())


def kinds_of(rows: Sequence[Row]) -> list[str]:
    """The kinds of AP that all runs have, in the order keypoints, masks, boxes."""
    return [k for k in ("keypoints", "segm", "bbox") if all(k in row.records[0]["by_iou"] for row in rows)]


def grid_rows(table: Table, records: Sequence[Record]) -> list[Row]:
    """Group records by their place in the table's grid.

    Args:
        table: the table.
        records: records of its finished runs.

    Returns:
        The rows that have a record, in the order of the grid.
    """
    places = [run.axes for run in table.runs(seeds=1)]
    by_seed = sorted(records, key=lambda record: int(record["seed"]))
    rows = [Row(axes, [record for record in by_seed if record["axes"] == axes]) for axes in places]
    return [row for row in rows if row.records]


def grouped(rows: Sequence[Row], axis: str) -> dict[str, dict[str, Row]]:
    """Group rows that differ on one axis alone.

    Args:
        rows: the rows.
        axis: the axis.

    Returns:
        ``{other axes as text: {value on the axis: row}}``.
    """
    groups: dict[str, dict[str, Row]] = {}
    for row in rows:
        groups.setdefault(place_name(row.without(axis)), {})[row.axes[axis]] = row
    return groups


def matched(*rows: Row) -> list[Row]:
    """The rows, reduced to the seeds that all of them have."""
    seeds = set.intersection(*({record["seed"] for record in row.records} for row in rows))
    return [Row(row.axes, [r for r in row.records if r["seed"] in seeds]) for row in rows]


def paired(table: Table, axis: str, row: Row, other: Row, metric: str) -> Difference:
    """The difference of two rows over the seeds that both have.

    Args:
        table: the table.
        axis: the axis on which the rows differ.
        row: the first row.
        other: the second row, which is subtracted.
        metric: for example ``segm_AP``.
    """
    first, second = matched(row, other)
    return Difference(table, axis, first, second, metric)


def differences(table: Table, rows: Sequence[Row], metrics: Sequence[str]) -> list[Difference]:
    """The differences that ``table.compare`` names, at every combination of the other axes.

    Args:
        table: the table.
        rows: its rows.
        metrics: for example ``["segm_AP"]``.

    Returns:
        The differences whose runs have the metric; empty without a comparison.
    """
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
    """Geometric centres of size ranges. The last range has no upper edge; 1.5 times its lower edge is used."""
    ends = [*edges[1:], edges[-1] * 1.5]
    return np.array([np.sqrt(max(low, high / 4) * high) for low, high in zip(edges, ends, strict=True)])


def stride_of(record: Record) -> str:
    """Stride of the map that the heads read: 8, 16 or 32 for C3, C4 or C5, ``fpn`` for a pyramid."""
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
    """Settings of the mask head's operator. A model without a mask head has those of the box head's."""
    config: dict[str, Any] = record["manifest"]["config"]
    operator = config.get("mask_roi_op") or config["roi_op"]
    return {key: setting for key, setting in operator.items() if not key.startswith(("_", "canonical"))}
