"""Records of finished runs, grouped by their place in the table's grid and compared."""

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

KINDS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
METRICS = {
    f"{kind}_{name}": (kind, name)
    for kind in ("segm", "bbox", "keypoints")
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")
    if (kind, name) != ("keypoints", "APs")
}
Floats = npt.NDArray[np.float64]
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

    def mean_of(self, get: Callable[[Record], Sequence[float | None]]) -> Floats:
        """Mean over the seeds of a list of numbers, NaN where one is undefined."""
        rows = [[np.nan if v is None else v for v in get(record)] for record in self.records]
        means: Floats = np.mean(np.array(rows, np.float64), axis=0)
        return means

    def by_size(self, kind: str) -> Floats:
        """AP of the objects in each range of sizes, NaN where there are fewer than `FEW`."""
        means = self.mean_of(lambda record: record["by_size"][kind])
        return np.where(np.array(self.records[0]["by_size"]["objects"]) < FEW, np.nan, means)

    def without(self, axis: str | None) -> dict[str, str]:
        """The place on the other axes."""
        return {key: text for key, text in self.axes.items() if key != axis}


@dataclass(frozen=True)
class Difference:
    """``first`` minus ``second`` in one metric, at the place ``axes`` of the other axes.

    by_seed: paired by seed. by_image: mean of the AP within images, paired by image; None for other metrics than AP.
    share: of the first's AP that the second loses; None where the first is not ``compare.of``. paper: the published
    difference; None where there is none.
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
    rows = []
    for values in product(*table.axes.values()):
        axes = dict(zip(table.axes, values, strict=True))
        own = sorted((r for r in records if r["axes"] == axes), key=lambda r: r["seed"])
        if own:
            rows.append(Row(axes, own))
    return rows


def grouped(table: Table, rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """``{place on the other axes: {value of the compared axis: row}}``."""
    axis = table.compare.axis if table.compare else next(iter(table.axes))
    groups: dict[str, dict[str, Row]] = {}
    for row in rows:
        groups.setdefault(place_name(row.without(axis)), {})[row.axes[axis]] = row
    return groups


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


def common_seeds(row: Row, other: Row) -> tuple[list[Record], list[Record]]:
    """The runs of both rows with the seeds that both have."""
    seeds = {r["seed"] for r in row.records} & {r["seed"] for r in other.records}
    first, second = ([r for r in side.records if r["seed"] in seeds] for side in (row, other))
    return first, second


def paired_values(row: Row, other: Row, metric: str) -> tuple[list[float], list[float]]:
    """A metric of both rows, seed by seed; empty where a run has no such metric."""
    a, b = (Row({}, side).values(metric) for side in common_seeds(row, other))
    return (a, b) if len(a) == len(b) else ([], [])


def differences(table: Table, rows: Sequence[Row], metrics: Sequence[str]) -> list[Difference]:
    """What ``table.compare`` asks for, over the seeds that both sides have."""
    pairs = compared(table, rows)
    found = [_difference(table, row, other, m) for row, other in pairs for m in metrics]
    return [difference for difference in found if difference is not None]


def _difference(table: Table, row: Row, other: Row, metric: str) -> Difference | None:
    assert table.compare is not None
    axis = table.compare.axis
    a, b = paired_values(row, other, metric)
    if not a:
        return None
    kind, name = METRICS[metric]
    return Difference(
        axes=row.without(axis),
        first=row.axes[axis],
        second=other.axes[axis],
        metric=metric,
        by_seed=paired_by_seed(a, b),
        by_image=_by_image(*common_seeds(row, other), kind) if name == "AP" else None,
        share=lost_share(a, b) if row.axes[axis] == table.compare.of and all(v > 0 for v in a) else None,
        paper=published_difference(table, row.axes, other.axes, metric),
    )


def published_difference(
    table: Table, axes: dict[str, str], other: dict[str, str], metric: str
) -> float | None:
    """The paper's difference between two places; None where it has no metric for one of them."""
    first, second = (table.published(place).get(metric) for place in (axes, other))
    return None if first is None or second is None else first - second


def gain_by_size(row: Row, other: Row, kind: str) -> list[Estimate | None]:
    """``row`` minus ``other`` for each range of sizes, paired by seed; None below `FEW` objects."""
    sides = common_seeds(row, other)
    found: list[Estimate | None] = []
    for place, objects in enumerate(row.records[0]["by_size"]["objects"]):
        first, second = ([r["by_size"][kind][place] for r in side] for side in sides)
        few = objects < FEW or not first or None in [*first, *second]
        found.append(None if few else paired_by_seed(first, second))
    return found


def _by_image(first: Sequence[Record], second: Sequence[Record], kind: str) -> Estimate:
    sides = (Row({}, list(side)) for side in (first, second))
    one, two = (side.mean_of(lambda record: record["per_image"][kind]) for side in sides)
    return paired_bootstrap(one, two)


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


def cell_pixels(record: Record) -> float | None:
    """Side of a feature cell in pixels of the original image (the median over images); None for a pyramid."""
    stride = stride_of(record)
    return None if stride == "fpn" else float(stride) / float(record["network_scale"])


def operator_switches(record: Record) -> dict[str, Any]:
    """The settings of the mask head's operator (the box head's where there is no mask head)."""
    config: dict[str, Any] = record["manifest"]["config"]
    operator = config.get("mask_roi_op") or config["roi_op"]
    return {key: setting for key, setting in operator.items() if not key.startswith(("_", "canonical"))}
