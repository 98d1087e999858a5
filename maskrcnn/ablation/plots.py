"""The report's plots."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pycocotools import mask as coco_mask

from maskrcnn.ablation.colours import OPERATOR_COLOURS
from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.record import Record
from maskrcnn.ablation.statistics import Estimate
from maskrcnn.ablation.summary import (
    KINDS,
    Row,
    bin_centres,
    cell_pixels,
    compared,
    differences,
    gain_by_size,
    grouped,
    name_of,
    paired_values,
    place_name,
    published_difference,
)
from maskrcnn.data.images import read_image
from maskrcnn.prediction.draw import draw_results

# The same content gives the same file: no date, and ids that do not change.
matplotlib.rcParams["svg.hashsalt"] = "maskrcnn"
# Text stays text in the browser's own font: half the size of outlines, and it can be searched and copied.
matplotlib.rcParams["svg.fonttype"] = "none"
_THRESHOLDS = np.arange(0.5, 1.0, 0.05)
_FEW_LINES = 6
SPARE_COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#aa3377",
    "#66ccee",
    "#777777",
    "#994f00",
    "#332288",
)
_LABEL = 12  # letters in a line below a group of bars
_STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Plot:
    """A picture: an SVG element, or the bytes of a WebP file. ``name`` is its file's name in the folder plots/."""

    name: str
    caption: str
    content: str | bytes

    @property
    def file(self) -> str:
        return f"{self.name}.{'svg' if isinstance(self.content, str) else 'webp'}"

    @property
    def inline(self) -> str:
        """An element for a page that needs no other file."""
        if isinstance(self.content, str):
            return self.content
        return f'<img alt="" src="data:image/webp;base64,{base64.b64encode(self.content).decode()}">'

    def write(self, folder: Path) -> None:
        content = self.content if isinstance(self.content, bytes) else self.content.encode()
        (folder / self.file).write_bytes(content)


def colour_of(value: str, values: Sequence[str]) -> str:
    """The operator's colour; another value gets one by its place among ``values``."""
    return OPERATOR_COLOURS.get(value) or SPARE_COLOURS[list(values).index(value) % len(SPARE_COLOURS)]


def overview(table: Table, rows: Sequence[Row], kind: str) -> Plot:
    """AP of every operator at every place of the other axes, with intervals; next to it the paper's."""
    metric, groups = f"{kind}_AP", grouped(table, rows)
    values = _values(groups)
    placed = {(name, value): row for name, members in groups.items() for value, row in members.items()}
    here = {key: row.estimate(metric) for key, row in placed.items()}
    seeds = max(len(row.records) for row in rows)
    over = f"bars: mean of {seeds} seeds; lines: 95 % interval" if seeds > 1 else "one run each"
    caption = f"{KINDS[kind].capitalize()} AP on {table.data} ({over})"
    if len(values) > _FEW_LINES:
        known = [(value, name, e) for (name, value), e in here.items() if e]
        names = [", ".join(text for text in (value, name) if text) for value, name, _ in known]
        canvas = _long_bars(names, [e for *_, e in known], [value for value, *_ in known], name_of(metric))
        return Plot("overview", f"{caption}.", svg(canvas))
    published = {key: table.published(row.axes).get(metric) for key, row in placed.items()}
    paper = {key: Estimate(v, None, None, 1) for key, v in published.items() if v is not None}
    sides: list[tuple[str, Mapping[tuple[str, str], Estimate | None]]] = [(f"here: {table.data}", here)]
    sides += [("paper: COCO", paper)] if paper else []
    width = max(3.1, 1.25 * len(groups)) * len(sides) + 0.4
    canvas = Figure(figsize=(width, 3.6), layout="constrained")
    panels = canvas.subplots(1, len(sides), sharey=True, squeeze=False)[0]
    for panel, (title, estimates) in zip(panels, sides, strict=True):
        _bars(panel, list(groups), values, estimates)
        panel.set(title=title)
    panels[0].set(ylabel=f"{KINDS[kind]} AP")
    panels[0].margins(y=0.08)
    panels[0].set_ylim(
        0, None
    )  # after all panels are drawn: it ends the automatic limits of those that share it
    legend(canvas, panels[0])
    missing = ", ".join(f"{v} at {n}" for n, v in here if paper and (n, v) not in paper)
    caption += " next to the paper's on COCO." if paper else "."
    return Plot("overview", caption + (f" Not in the paper: {missing}." if missing else ""), svg(canvas))


def _bars(
    panel: Any, names: Sequence[str], values: Sequence[str], of: Mapping[tuple[str, str], Estimate | None]
) -> None:
    width = 0.8 / len(values)
    for place, value in enumerate(values):
        known = [(i, e) for i, name in enumerate(names) if (e := of.get((name, value))) is not None]
        x = [i + (place - (len(values) - 1) / 2) * width for i, _ in known]
        heights, halves = [e.mean for _, e in known], _halves([e for _, e in known])
        drawn = panel.bar(
            x, heights, 0.92 * width, yerr=halves, color=colour_of(value, values), label=value, capsize=3
        )
        panel.bar_label(drawn, fmt="%.1f", padding=2)
    labels = [textwrap.fill(name, _LABEL) for name in names]
    panel.set_xticks(range(len(names)) if any(names) else [], labels if any(names) else [], fontsize=11)
    panel.set_xlim(-0.55, len(names) - 0.45)
    panel.spines[["top", "right"]].set_visible(False)


def _long_bars(
    names: Sequence[str], estimates: Sequence[Estimate], operators: Sequence[str], xlabel: str
) -> Figure:
    """A horizontal bar for each of many values, paler where it is a variant of an operator."""
    canvas = Figure(figsize=(7, 0.8 + 0.27 * len(names)), layout="constrained")
    panel = canvas.subplots()
    colours = [
        (OPERATOR_COLOURS.get(text.split(",")[0], SPARE_COLOURS[0]), 1 if text in OPERATOR_COLOURS else 0.55)
        for text in operators
    ]
    means = [estimate.mean for estimate in estimates]
    drawn = panel.barh(names, means, xerr=_halves(estimates), color=colours, ecolor="#222", capsize=2)
    panel.bar_label(drawn, fmt="%.1f", padding=3, fontsize=8)
    panel.axvline(0, color="#444", lw=0.8)
    panel.invert_yaxis()
    panel.set(xlabel=xlabel)
    panel.spines[["top", "right"]].set_visible(False)
    return canvas


def _halves(estimates: Sequence[Estimate]) -> list[float] | None:
    """Half the intervals; None where there are none."""
    halves = [estimate.half or 0.0 for estimate in estimates]
    return halves if any(halves) else None


def iou_curves(table: Table, rows: Sequence[Row], kind: str) -> Plot | None:
    """AP at each IoU threshold, and below it the gain of ``compare.of``; a column per place of the other axes."""
    groups = grouped(table, [row for row in rows if kind in row.records[0]["by_iou"]])
    if not groups:
        return None
    values = _values(groups)
    of = table.compare.of if table.compare and len(values) <= _FEW_LINES else None
    lines = 1 + any(of in members and len(members) > 1 for members in groups.values())
    canvas = Figure(figsize=(max(3.5 * len(groups), 6.5) + 0.5, 2.8 * lines + 0.5), layout="constrained")
    panels = canvas.subplots(lines, len(groups), sharex=True, sharey="row", squeeze=False)
    for column, (name, members) in zip(panels.T, groups.items(), strict=True):
        for value, row in members.items():
            mean = row.mean_of(lambda record: record["by_iou"][kind]["all"])
            column[0].plot(_THRESHOLDS, mean, label=value, color=colour_of(value, values), marker=".")
            if lines > 1 and of in members and value != of:
                gain = members[of].mean_of(lambda record: record["by_iou"][kind]["all"]) - mean
                column[1].plot(_THRESHOLDS, gain, color=colour_of(value, values), marker=".")
        column[0].set(title=name)
        column[-1].set(xlabel="IoU threshold")
        if lines > 1:
            column[1].axhline(0, color="#888", lw=0.8)
    panels[0][0].set(ylabel=f"{KINDS[kind]} AP", ylim=(0, None))
    if lines > 1:
        panels[1][0].set(ylabel=f"gain of {of} over each")
    legend(canvas, panels[0][0])
    caption = f"{KINDS[kind].capitalize()} AP at each IoU threshold, mean of the seeds"
    return Plot(f"iou_{kind}", f"{caption}{f'; below: the gain of {of}' if lines > 1 else ''}.", svg(canvas))


def size_gain(table: Table, rows: Sequence[Row], kind: str) -> Plot | None:
    """The gain of ``compare.of`` over the others, against object size in feature cells."""
    if table.compare is None or any(kind not in row.records[0]["by_size"] for row in rows):
        return None
    canvas = Figure(figsize=(7.2, 4.4), layout="constrained")
    panel = canvas.subplots()
    pairs = list(_pairs(table, rows))
    places = list(dict.fromkeys(_place(table, row) for row, _, _ in pairs))
    for row, other, cell in pairs:
        found = zip(
            bin_centres(row.records[0]["by_size"]["edges"]) / cell,
            gain_by_size(row, other, kind),
            strict=True,
        )
        known = [(x, gain) for x, gain in found if gain is not None]
        second, place = other.axes[table.compare.axis], _place(table, row)
        panel.errorbar(
            [x for x, _ in known],
            [gain.mean for _, gain in known],
            [gain.half or 0 for _, gain in known],
            color=colour_of(second, list(table.axes[table.compare.axis])),
            linestyle=_STYLES[places.index(place) % len(_STYLES)],
            label=", ".join(text for text in (f"{table.compare.of} − {second}", place) if text),
            marker="o",
            ms=4,
            capsize=2,
        )
    if not any(np.size(line.get_xdata()) for line in panel.lines):
        return None
    cells_axis(panel)
    panel.set(ylabel=f"gain in {KINDS[kind]} AP")
    legend(canvas, panel)
    caption = f"Gain of {table.compare.of} in {KINDS[kind]} AP by the size of the objects in cells of the map that the "
    return Plot(
        f"size_{kind}", caption + "head pools from; bars are 95 % intervals over the seeds.", svg(canvas)
    )


def cells_axis(panel: Any) -> None:
    panel.axhline(0, color="#888", lw=0.8)
    panel.set(xscale="log", xlabel="object size in cells (√area / stride)")
    low, high = panel.get_xlim()
    ticks = [t for t in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64) if low <= t <= high]
    panel.set_xticks(ticks, [f"{t:g}" for t in ticks])
    panel.minorticks_off()


def gains(table: Table, rows: Sequence[Row], metric: str) -> Plot | None:
    """Every stated difference as a bar with its interval, where there are many.

    The intervals are over the seeds. Where no place has several seeds, the bars are the mean AP within images, with the
    interval over images.
    """
    found = differences(table, rows, [metric])
    if len(found) <= _FEW_LINES:
        return None
    names = [", ".join([f"{d.first} − {d.second}", *d.axes.values()]) for d in found]
    several = any(d.by_seed.low is not None for d in found)
    shown = [d.by_seed if several or d.by_image is None else d.by_image for d in found]
    what = f"{name_of(metric)}{'' if several else ' within images'}"
    canvas = _long_bars(names, shown, [d.second for d in found], f"difference in {what}")
    over = "seeds" if several else "images, which do not cover what another seed would change"
    return Plot("gains", f"Differences in {what} with 95 % intervals over the {over}.", svg(canvas))


def stride_gain(table: Table, rows: Sequence[Row], metric: str) -> Plot | None:
    """The gain against the stride, a dot per seed, and the paper's; None for one stride."""
    pairs = list(_pairs(table, rows))
    sides = [cell for *_, cell in pairs]
    # The cells of one stride differ a little in pixels of the original image, as the images do.
    if table.compare is None or not sides or max(sides) < 1.2 * min(sides):
        return None
    axis, of = table.compare.axis, table.compare.of
    values = list(table.axes[axis])
    canvas = Figure(figsize=(6.4, 4), layout="constrained")
    panel = canvas.subplots()
    for place, value in enumerate(v for v in values if v != of):
        own = [
            (np.log2(cell) + 0.05 * place, row, other)
            for row, other, cell in pairs
            if other.axes[axis] == value
        ]
        sets = [(x, np.subtract(*paired_values(row, other, metric))) for x, row, other in own]
        colour = colour_of(value, values)
        for x, points in sets:
            panel.plot([x] * len(points), points, ".", color=colour, alpha=0.5)
        panel.plot(
            [x for x, _ in sets], [p.mean() for _, p in sets], "-o", color=colour, label=f"{of} − {value}"
        )
        paper = [(x, published_difference(table, row.axes, other.axes, metric)) for x, row, other in own]
        if known := [(x, gain) for x, gain in paper if gain is not None]:
            label = f"{of} − {value}, paper on COCO"
            panel.plot(*np.transpose(known), "--s", color=colour, mfc="white", label=label)
    cells = sorted(set(sides))
    panel.set_xticks(np.log2(cells), [f"{cell:g}" for cell in cells])
    panel.set(xlabel="side of a cell in pixels of the original image", ylabel=f"gain in {name_of(metric)}")
    panel.set(ylim=(min(0, panel.get_ylim()[0]), None))
    panel.axhline(0, color="#888", lw=0.8)
    legend(canvas, panel)
    return Plot("stride_gain", f"Gain of {of} by stride: every seed (dots) and their mean.", svg(canvas))


def learning_curves(table: Table, rows: Sequence[Row]) -> Plot:
    """Training loss of the first seed."""
    groups = grouped(table, rows)
    values = _values(groups)
    columns = min(len(groups), 3)
    lines = -(-len(groups) // columns)
    canvas = Figure(figsize=(max(3.5 * columns, 6.5) + 0.5, 2.8 * lines + 0.6), layout="constrained")
    panels = canvas.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for unused in panels[len(groups) :]:
        unused.set_axis_off()
    for panel, (name, members) in zip(panels, groups.items(), strict=False):
        for value, row in members.items():
            if curve := row.records[0]["curve"]:
                panel.plot(*np.transpose(curve), label=value, color=colour_of(value, values), lw=1)
        panel.set(title=name, xlabel="step", xlim=(0, None))
    panels[0].set(ylabel="training loss", ylim=(0, None))
    legend(canvas, panels[0])
    return Plot("learning_curves", "Training loss of the first seed.", svg(canvas))


def example_images(rows: Sequence[Row], images: Path) -> Plot | None:
    """The same images under every operator: the first seed, detections above 0.5.

    images: the folder with the pictures that the records name; None is returned where one is missing.
    """
    shown = {(row.records[0]["id"], picture_of(e)) for row in rows for e in row.records[0]["examples"]}
    if not shown or not all((images / name).is_file() for _, name in shown):
        return None
    names = {c["id"]: c["name"] for c in rows[0].records[0]["manifest"]["config"]["categories"]}
    count = max(len(row.records[0]["examples"]) for row in rows)
    few = len(rows) <= _FEW_LINES
    side = 1.9 if few else 1.4
    size = (side * len(rows), (side + 0.15) * count) if few else (side * count, (side + 0.2) * len(rows))
    canvas = Figure(figsize=size, layout="constrained")
    grid = canvas.subplots(count, len(rows), squeeze=False).T if few else canvas.subplots(len(rows), count)
    known: dict[str, list[list[float]]] = {}
    for line, row in zip(grid, rows, strict=True):
        for panel in line:
            panel.set_axis_off()
        for panel, example in zip(line, row.records[0]["examples"], strict=False):
            name = picture_of(example)
            detections = coloured(example["detections"], known.setdefault(name, []))
            panel.imshow(draw_results(read_image(str(images / name)), detections, names))
        line[0].set_title(", ".join(row.axes.values()), loc="left", fontsize=10)
    same = len({name for _, name in shown}) == count
    what = "The same images" if same else "The first images of each run's data"
    return Plot("examples", f"{what} under each model (first seed), scores above 0.5.", _webp(canvas))


def coloured(detections: Sequence[Record], known: list[list[float]]) -> list[Record]:
    """The detections, each with a ``colour`` that its object keeps in every picture of the image.

    Args:
        detections: COCO results of one image.
        known: boxes (x, y, width, height) seen so far; their indices are the colours. A box that overlaps none of them
            by half is added. The highest score chooses first, and no two detections share a colour.
    """
    found: list[Record] = []
    free = list(range(len(known)))
    for detection in sorted(detections, key=lambda d: -d["score"]):
        box = detection["bbox"]
        overlaps = (
            coco_mask.iou([box], [known[i] for i in free], [0] * len(free)) if free else np.zeros((1, 0))
        )
        if overlaps.max(initial=0) >= 0.5:
            colour = free.pop(int(overlaps.argmax()))
        else:
            colour = len(known)
            known.append(box)
        found.append({**detection, "colour": colour})
    return found


def picture_of(example: Record) -> str:
    """The name of an example's picture in the folder of pictures."""
    return str(example.get("picture") or Path(example["image"]["file_name"]).name)


def _values(groups: Mapping[str, Mapping[str, Row]]) -> list[str]:
    """The values of the compared axis that have runs."""
    return list(dict.fromkeys(value for members in groups.values() for value in members))


def _pairs(table: Table, rows: Sequence[Row]) -> Iterator[tuple[Row, Row, float]]:
    """``compare.of``, another row, and the side of a cell in pixels; pyramids have no single stride."""
    for row, other in compared(table, rows):
        cell = cell_pixels(row.records[0])
        if table.compare and row.axes[table.compare.axis] == table.compare.of and cell is not None:
            yield row, other, cell


def _place(table: Table, row: Row) -> str:
    return place_name(row.without(table.compare.axis if table.compare else None))


def legend(canvas: Figure, panel: Any) -> None:
    """Outside of the panels, so that it covers no data."""
    handles, labels = panel.get_legend_handles_labels()
    if len(labels) > _FEW_LINES:
        canvas.legend(handles, labels, loc="outside right upper", fontsize=8)
    elif len(labels) > 1 or labels != [""]:
        columns = 2 if max(map(len, labels)) > 20 else 4
        canvas.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)


def _webp(canvas: Figure) -> bytes:
    """Photographs: a tenth of the size of the same pixels as PNG."""
    agg = FigureCanvasAgg(canvas)
    agg.draw()
    pixels = np.asarray(agg.buffer_rgba())[..., 2::-1]
    return cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 75])[1].tobytes()


def svg(canvas: Figure) -> str:
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
