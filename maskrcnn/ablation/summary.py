"""Records of finished cells, grouped and compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.record import Record
from maskrcnn.ablation.statistics import Estimate, lost_share, mean_interval, paired_bootstrap, paired_by_seed

METRICS = {
    f"{kind}_{name}": (kind, name)
    for kind in ("segm", "bbox", "keypoints")
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")
    if (kind, name) != ("keypoints", "APs")
}
Floats = npt.NDArray[np.float64]
FEW = 10  # objects whose AP says nothing


@dataclass(frozen=True)
class Row:
    """The runs of one place of the grid, by rising seed."""

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

    def mean_of(self, get: Callable[[Record], Sequence[float | None]]) -> Floats:
        """The mean over the seeds of a list of figures, NaN where one is undefined."""
        rows = [[np.nan if v is None else v for v in get(record)] for record in self.records]
        means: Floats = np.mean(np.array(rows, np.float64), axis=0)
        return means

    def by_size(self, kind: str) -> Floats:
        """AP of the objects in each range of sizes, NaN where there are fewer than `FEW`."""
        means = self.mean_of(lambda record: record["by_size"][kind])
        return np.where(np.array(self.records[0]["by_size"]["objects"]) < FEW, np.nan, means)


@dataclass(frozen=True)
class Difference:
    """``first`` minus ``second`` in one metric.

    by_seed: paired by seed. by_image: of the mean score within images, paired by image (None without such scores).
    share: of the first's AP that the second loses, where the first is ``compare.of``. paper: the published difference,
    None where there is none.
    """

    axes: dict[str, str]
    first: str
    second: str
    metric: str
    by_seed: Estimate
    by_image: Estimate | None
    share: Estimate | None
    paper: float | None


def value(record: Record, metric: str) -> float | None:
    """A metric of one run, in percent."""
    kind, name = METRICS[metric]
    found: float | None = record["metrics"].get(kind, {}).get(name)
    return found


def grid_rows(table: Table, records: Sequence[Record]) -> list[Row]:
    """The records by their place in the grid, in its order; places without one are left out."""
    rows = []
    for values in product(*table.axes.values()):
        axes = dict(zip(table.axes, values, strict=True))
        own = sorted((r for r in records if r["axes"] == axes), key=lambda r: r["seed"])
        if own:
            rows.append(Row(axes, own))
    return rows


def differences(table: Table, rows: Sequence[Row], metrics: Sequence[str]) -> list[Difference]:
    """What ``table.compare`` asks for, over the seeds that both sides have."""
    found = []
    for row, other in compared(table, rows):
        found += [pair for m in metrics if (pair := _difference(table, row, other, m)) is not None]
    return found


def compared(table: Table, rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """The pairs of rows that ``table.compare`` asks for, everything but its axis equal."""
    if table.compare is None:
        return []
    axis, of = table.compare.axis, table.compare.of
    wanted = [(of, value) for value in table.axes[axis] if value != of] + table.compare.also
    return [
        (row, other)
        for row in rows
        for first, second in wanted
        for other in rows
        if row.axes[axis] == first and other.axes == {**row.axes, axis: second}
    ]


def _difference(table: Table, row: Row, other: Row, metric: str) -> Difference | None:
    assert table.compare is not None
    axis = table.compare.axis
    first, second = common_seeds(row, other)
    a, b = Row(row.axes, first).values(metric), Row(other.axes, second).values(metric)
    if not a or len(a) != len(b):
        return None
    published = [table.published(r.axes).get(metric) for r in (row, other)]
    paper = None if None in published else published[0] - published[1]  # type: ignore[operator]
    return Difference(
        axes={k: v for k, v in row.axes.items() if k != axis},
        first=row.axes[axis],
        second=other.axes[axis],
        metric=metric,
        by_seed=paired_by_seed(a, b),
        by_image=_by_image(first, second, METRICS[metric][0]) if METRICS[metric][1] == "AP" else None,
        share=lost_share(a, b) if row.axes[axis] == table.compare.of and all(v > 0 for v in a) else None,
        paper=paper,
    )


def common_seeds(row: Row, other: Row) -> tuple[list[Record], list[Record]]:
    """The runs of both rows with the seeds that both have."""
    seeds = {r["seed"] for r in row.records} & {r["seed"] for r in other.records}
    first, second = ([r for r in side.records if r["seed"] in seeds] for side in (row, other))
    return first, second


def gain_by_size(row: Row, other: Row, kind: str) -> list[Estimate | None]:
    """``row`` minus ``other`` for each range of sizes, paired by seed; None below `FEW` objects."""
    sides = common_seeds(row, other)
    found: list[Estimate | None] = []
    for place, objects in enumerate(row.records[0]["by_size"]["objects"]):
        first, second = ([r["by_size"][kind][place] for r in side] for side in sides)
        few = objects < FEW or not first or None in [*first, *second]
        found.append(None if few else paired_by_seed(first, second))
    return found


def _by_image(first: Sequence[Record], second: Sequence[Record], kind: str) -> Estimate | None:
    one, two = (
        Row({}, list(side)).mean_of(lambda record: record["per_image"][kind]) for side in (first, second)
    )
    return paired_bootstrap(one, two)


def stride_of(record: Record) -> str:
    """The stride the heads see: of the axes, or of the model: 8, 16, 32 for C3, C4, C5, ``fpn`` for a pyramid."""
    if "stride" in record["axes"]:
        return str(record["axes"]["stride"])
    config: dict[str, Any] = record["manifest"]["config"]
    if "FPN" in config["model"]["pyramid"]["_target_"]:
        return "fpn"
    backbone = config["model"]["backbone"]
    return "16" if backbone.get("dilated") else str(2 ** int(backbone["last_stage"]))


def cell_pixels(record: Record) -> float | None:
    """Side of a feature cell in pixels of the original image (the median over images); None for a pyramid."""
    stride = stride_of(record)
    return None if stride == "fpn" else float(stride) / float(record["network_scale"])


def operator_switches(record: Record) -> dict[str, Any]:
    """The settings of the mask head's operator (the box head's where there is no mask head)."""
    config: dict[str, Any] = record["manifest"]["config"]
    operator = config.get("mask_roi_op") or config["roi_op"]
    return {key: setting for key, setting in operator.items() if not key.startswith(("_", "canonical"))}
