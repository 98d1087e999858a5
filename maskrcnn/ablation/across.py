"""One report on the strides tables of all data sets: RoIAlign's gain, the share lost, and object size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from maskrcnn.ablation import record
from maskrcnn.ablation.grid import Table, available, read_table
from maskrcnn.ablation.plot import OPERATOR_COLOURS, Plot, cells_axis, colour_of, finished, new_panels
from maskrcnn.ablation.report import Report, write_pages
from maskrcnn.ablation.statistics import Estimate, lost_share, show, show_interval, signed
from maskrcnn.ablation.summary import (
    KINDS,
    METRICS,
    Difference,
    Row,
    bin_centres,
    grid_rows,
    grouped,
    kinds_of,
    name_of,
    paired,
)
from maskrcnn.ablation.tables import TEXTS, with_texts
from maskrcnn.errors import UserError

_OTHERS = ("pool", "warp")  # operators that align is compared with
_COLUMNS = [
    *("data", "stride", "metric", "align", "pool", "warp"),
    *("gain", "low", "high", "share", "median_cells"),
]
_LEAST_AP = 1.0  # points; the share of an AP near zero is noise
_MEASURES = (("gain", "points", 1), ("share", "% of align's AP", 100))
# Share of align's AP that pool loses in Tables 2c and 2d: (30.3 - 26.9) / 30.3 and (30.9 - 23.6) / 30.9.
_PAPER = {"16": 0.112, "32": 0.236}


def write_across(folders: Sequence[Path], out: Path) -> list[Path]:
    """Write across.csv, report.md, report.html and report.tex.

    Args:
        folders: folders with descriptions of tables. If two describe the same table, the first one is used.
        out: folder to write to. Records are read from ``out/../strides-<data>``.

    Returns:
        The written files.

    Raises:
        UserError: no strides table has a record.
    """
    found = list(_strides(folders, out.parent))
    if not found:
        raise UserError(
            f"no records in {out.parent}/strides-<data>/records: train a strides table first, "
            "for example tools/ablate.py table=strides data=shapes"
        )
    gains = pd.DataFrame([line for table, rows in found for line in _gains(table, rows)])
    sizes = pd.DataFrame([line for table, rows in found for line in _sizes(table, rows)])
    out.mkdir(parents=True, exist_ok=True)
    intervals = pd.DataFrame([vars(gain) for gain in gains["pool_gain"]]).rename(columns={"mean": "gain"})
    gains.join(intervals)[_COLUMNS].round(4).to_csv(out / "across.csv", index=False)
    return [out / "across.csv", *write_pages(_assemble(gains, sizes), out)]


def _strides(folders: Sequence[Path], root: Path) -> Iterator[tuple[Table, list[Row]]]:
    """The strides tables that have records, each with its rows."""
    for name, folder in {name: f for f in reversed(folders) for name in available(f)}.items():
        kind, _, data = name.partition("-")
        if kind == "strides" and (records := record.read_all(root / name)):
            table = read_table(folder, kind, data)
            yield table, grid_rows(table, records)


def _compared(table: Table, rows: Sequence[Row], metrics: Sequence[str]) -> Iterator[dict[str, Difference]]:
    """Yield ``{operator: align - operator}`` for every stride and metric that has runs of align and pool."""
    for place, metric in product(grouped(rows, "roi_op").values(), metrics):
        others = [place[name] for name in _OTHERS if name in place and "align" in place]
        sides = [paired(table, "roi_op", place["align"], row, metric) for row in others]
        found = {d.second: d for d in sides if d.gains}
        if "pool" in found:
            yield found


def _gains(table: Table, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield a line per stride and metric: means of the operators, gain of align, and share that the others lose."""
    metrics = [f"{kind}_{name}" for kind in kinds_of(rows) for name in ("AP", "AP50", "AP75")]
    for found in _compared(table, rows, metrics):
        pool = found["pool"]
        align = np.mean(pool.values[0])
        line = {"data": table.data, "stride": pool.row.axes["stride"], "metric": pool.metric, "align": align}
        for name in _OTHERS:
            d = found.get(name)
            line[name] = np.mean(d.values[1]) if d else None
            line[f"{name}_gain"] = d.by_seed if d else None
            line[f"{name}_share"] = lost_share(*d.values) if d and min(d.values[0]) > 0 else None
        line["share"] = pool.by_seed.mean / align if align > 0 else None
        yield {**line, "median_cells": _median_cells(pool.row), "seeds": len(pool.gains)}


def _median_cells(row: Row) -> float | None:
    """Median object size in cells. Without a recorded median, it is estimated from the counts by size."""
    first = row.records[0]
    cell, median = row.cell, first["by_size"].get("median")
    if cell is None:
        return None
    if median is None:
        counts = np.cumsum(first["by_size"]["objects"])
        place = int(np.searchsorted(counts, counts[-1] / 2))
        edges = first["by_size"]["edges"]
        low, high = [*edges, edges[-1] * 1.5][place : place + 2]
        before = counts[place - 1] if place else 0
        median = low + (high - low) * (counts[-1] / 2 - before) / (counts[place] - before)
    return float(median) / cell


def _sizes(table: Table, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield the gain over each other operator for each range of object sizes."""
    metrics = [f"{kind}_AP" for kind in kinds_of(rows)]
    for d in (d for found in _compared(table, rows, metrics) for d in found.values()):
        kind, cell = METRICS[d.metric][0], d.row.cell
        if cell is None:
            continue
        place = {"data": table.data, "stride": d.row.axes["stride"], "kind": kind, "other": d.second}
        centres = bin_centres(d.row.records[0]["by_size"]["edges"]) / cell
        for cells, gain, align in zip(centres, d.by_size, d.row.by_size(kind), strict=True):
            if gain is not None:
                share = gain.mean / align if align >= _LEAST_AP else np.nan
                numbers = {"gain": gain.mean, "half": gain.half or 0.0, "share": share}
                yield {**place, "cells": cells, **numbers}


def slope(frame: pd.DataFrame, measure: str, within: bool, scale: float = 1) -> Estimate:
    """Fit the change of a measure per doubling of the object size by least squares.

    Args:
        frame: one point per line, with columns ``data``, ``stride``, ``cells`` (object size) and ``measure``.
        measure: ``gain`` or ``share``.
        within: fit one intercept for each data set and stride, instead of one for all points.
        scale: factor of the result.

    Returns:
        The slope with its 95 % interval, which is None if the points do not determine it. ``count`` is the
        number of points.
    """
    known = frame[np.isfinite(frame[measure])]
    x, y = np.log2(known["cells"].to_numpy(float)), scale * known[measure].to_numpy(float)
    levels = (known["data"] + known["stride"]).to_numpy() if within else np.zeros(len(known))
    groups = pd.get_dummies(levels).to_numpy(float)
    design = np.column_stack([x, groups])
    weights, *_ = np.linalg.lstsq(design, y, rcond=None)
    free = len(y) - design.shape[1]
    if free < 1 or np.linalg.matrix_rank(design) < design.shape[1]:
        return Estimate(float(weights[0]), None, None, len(y))
    error = float(((y - design @ weights) ** 2).sum()) / free * np.linalg.inv(design.T @ design)[0, 0]
    half = float(stdtrit(free, 0.975) * np.sqrt(error))
    return Estimate(float(weights[0]), float(weights[0] - half), float(weights[0] + half), len(y))


def _assemble(gains: pd.DataFrame, sizes: pd.DataFrame) -> Report:
    main = _main(gains)
    frames = [_table(main), _slopes(sizes), _table(gains)]
    median = "{0.data}: {0.seeds} seeds; median object size {0.median_cells:.1f} cells at stride {0.stride}"
    return Report(
        title="RoIAlign, RoIWarp and RoIPool across data sets",
        introduction=TEXTS["across"],
        sentences=_sentences(main, sizes),
        overview=_overview(main),
        plots=[_size_plot(sizes, kind) for kind in ("segm", "bbox") if (sizes["kind"] == kind).any()],
        sections=with_texts("across sections", [[("", frame)] for frame in frames]),
        lists=[("Data sets", [median.format(row) for row in gains.drop_duplicates("data").itertuples()])],
    )


def _main(gains: pd.DataFrame) -> pd.DataFrame:
    """Mask AP, or box AP for data sets without masks."""
    masks = set(gains.loc[gains["metric"] == "segm_AP", "data"])
    of_boxes = (gains["metric"] == "bbox_AP") & ~gains["data"].isin(masks)
    return gains[(gains["metric"] == "segm_AP") | of_boxes]


def _table(gains: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for row in gains.to_dict("records"):
        line = {"data": row["data"], "stride": row["stride"], "metric": name_of(row["metric"])}
        line |= {name: "–" if pd.isna(row[name]) else f"{row[name]:.1f}" for name in ("align", *_OTHERS)}
        for name in _OTHERS:
            line[f"align − {name}"] = show_interval(row[f"{name}_gain"])
            line[f"{name} loses"] = show(row[f"{name}_share"], scale=100, digits=0, unit=" %")
        cells = row["median_cells"]
        lines.append({**line, "median object": "–" if pd.isna(cells) else f"{cells:.1f} cells"})
    return pd.DataFrame(lines)


def _slopes(sizes: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for (kind, other), frame in sizes.groupby(["kind", "other"], sort=False):
        for (measure, unit, scale), within in product(_MEASURES, (False, True)):
            found = slope(frame, measure, within, scale)
            level = "one per data set and stride" if within else "one for all points"
            follows = "yes" if found.resolved else "not resolved"
            lines.append([KINDS[kind], other, unit, found.count, level, show_interval(found), follows])
    header = ["AP", "gain over", "unit", "points", "intercept", "change per doubling of size", "excludes 0"]
    return pd.DataFrame(lines, columns=header)


def _sentences(main: pd.DataFrame, sizes: pd.DataFrame) -> list[str]:
    estimates = list(main["pool_gain"])
    above, sure = sum(e.mean > 0 for e in estimates), sum(e.resolved and e.mean > 0 for e in estimates)
    below = sum(e.resolved and e.mean < 0 for e in estimates)
    lines = [
        f"Align is above pool in {above} of {len(estimates)} comparisons (data set and stride); the interval "
        f"excludes 0 in {sure} of them{f', and shows pool ahead in {below}' if below else ''}."
    ]
    known = main.dropna(subset=["share"]).sort_values("share")
    if len(known):
        ends = (known.iloc[0], known.iloc[-1])
        lost = " to ".join(f"{100 * r.share:.0f} % ({r.data}, stride {r.stride})" for r in ends)
        lines.append(
            f"Pool loses {lost} of align's AP. In the paper, it loses "
            f"{100 * _PAPER['16']:.0f} % at stride 16 and {100 * _PAPER['32']:.0f} % at stride 32."
        )
    kind = "segm" if (sizes["kind"] == "segm").any() else "bbox"
    own = sizes[(sizes["kind"] == kind) & (sizes["other"] == "pool")]
    if len(own):
        points, share = slope(own, "gain", within=True), slope(own, "share", within=True, scale=100)
        lines.append(
            f"When the object size in cells doubles, the gain in {KINDS[kind]} AP changes by "
            f"{show_interval(points)} points and the share lost by {show_interval(share)} % of align's AP."
        )
    return lines


def _overview(main: pd.DataFrame) -> Plot:
    """Plot the gain and the share lost to pool and warp, by data set and stride."""
    left, right = new_panels((7.6, 0.42 * len(main) + 1.9), 1, 2, sharey=True)[0]
    for name, offset in (("pool", -0.13), ("warp", 0.13)):
        style = {"fmt": "o", "capsize": 3, "color": OPERATOR_COLOURS[name], "label": f"align over {name}"}
        for panel, column, scale in ((left, f"{name}_gain", 1), (right, f"{name}_share", 100)):
            known = [(i + offset, e) for i, e in enumerate(main[column]) if isinstance(e, Estimate)]
            means, halves = ([scale * e.mean for _, e in known], [scale * (e.half or 0) for _, e in known])
            panel.errorbar(means, [y for y, _ in known], xerr=halves, **style)
    paper = [(i, 100 * _PAPER[s]) for i, s in enumerate(main["stride"]) if s in _PAPER]
    right.plot([p for _, p in paper], [i for i, _ in paper], "|", color="#222", ms=14, label="paper, COCO")
    left.set_yticks(range(len(main)), [f"{r.data}, stride {r.stride}" for r in main.itertuples()])
    left.invert_yaxis()
    left.set(xlabel="gain in AP, points")
    right.set(xlabel="share of align's AP lost, %")
    for panel in (left, right):
        panel.axvline(0, color="#888", lw=0.8)
        panel.set_xlim(min(0, panel.get_xlim()[0]), None)
        panel.spines[["top", "right"]].set_visible(False)
    caption = "Gain of align by data set and stride, with 95 % intervals over the seeds."
    return finished("overview", caption, right)


def _size_plot(sizes: pd.DataFrame, kind: str) -> Plot:
    """Plot gain and share lost by object size in cells. Colours are data sets, line styles are strides."""
    own = sizes[(sizes["kind"] == kind) & (sizes["other"] == "pool")]
    datasets = list(dict.fromkeys(own["data"]))
    panels = new_panels((8, 4.2), 1, 2)[0]
    for (data, stride), frame in own.groupby(["data", "stride"], sort=False):
        line = "-o" if stride == "16" else "--s"
        style = {"color": colour_of(str(data), datasets), "ms": 4}
        label = f"{data}, stride {stride}"
        columns = (frame["cells"], frame["gain"], frame["half"])
        panels[0].errorbar(*columns, fmt=line, capsize=2, label=label, **style)
        panels[1].plot(frame["cells"], 100 * frame["share"], line, **style)
    _draw_slope(panels[0], own, "gain", 1)
    _draw_slope(panels[1], own, "share", 100)
    panels[0].set(ylabel=f"align − pool, {KINDS[kind]} AP")
    panels[1].set(ylabel="share of align's AP that pool loses, %")
    within = slope(own, "gain", within=True)
    caption = (
        f"Gain in {KINDS[kind]} AP by object size in cells. Within a data set and stride, it changes by "
        f"{signed(within.mean)} points per doubling of the size."
    )
    return finished(f"size_{kind}", caption, panels[0])


def _draw_slope(panel: Any, frame: pd.DataFrame, measure: str, scale: float) -> None:
    """Draw the line of `slope` through all points."""
    cells_axis(panel)
    known = frame[np.isfinite(frame[measure])]
    x = np.log2(known["cells"])
    ends = np.array([x.min(), x.max()])
    y = known[measure].mean() + slope(frame, measure, within=False).mean * (ends - x.mean())
    panel.plot(2**ends, scale * y, color="#222", lw=1, label="all points")
