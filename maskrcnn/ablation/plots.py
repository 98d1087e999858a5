"""The report's plots, as SVG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from pycocotools import mask as coco_mask

from maskrcnn.ablation.document import Figure
from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.record import Record
from maskrcnn.ablation.summary import Row, cell_pixels, common_seeds, compared, differences, gain_by_size
from maskrcnn.data.images import Pixels
from maskrcnn.prediction.draw import draw_results

# The same content gives the same file: no date, ids that do not change.
matplotlib.rcParams["svg.hashsalt"] = "maskrcnn"
# Words stay words, in the browser's own font: half the size of their outlines, and they can be searched and copied.
matplotlib.rcParams["svg.fonttype"] = "none"
_THRESHOLDS = np.arange(0.5, 1.0, 0.05)
_FEW_LINES = 6  # of which a legend finds room between them
_COLOURS = {"align": "#1b7837", "pool": "#b2182b", "warp": "#e08214", "align_legacy": "#5aae61"}


def iou_curves(table: Table, rows: Sequence[Row], kind: str) -> Figure | None:
    """AP against the IoU threshold, a panel per place of the other axes."""
    groups = _groups(table, [row for row in rows if kind in row.records[0]["by_iou"]])
    if not groups:
        return None
    canvas, panels = _panels(groups)
    for panel, (name, members) in zip(panels, groups.items(), strict=True):
        for label, row in members.items():
            mean = row.mean_of(lambda record: record["by_iou"][kind]["all"])
            panel.plot(_THRESHOLDS, mean, label=label, color=_COLOURS.get(label), marker=".")
        panel.set(title=name, xlabel="IoU threshold", ylabel=f"{KINDS[kind]} AP", ylim=(0, None))
        _legend(panel)
    caption = f"{KINDS[kind].capitalize()} AP at each IoU threshold, mean of the seeds."
    return Figure(f"iou_{kind}", caption, _svg(canvas))


def size_gain(table: Table, rows: Sequence[Row], kind: str) -> Figure | None:
    """What ``compare.of`` gains over the others, against object size in feature cells."""
    if table.compare is None or any(kind not in row.records[0]["by_size"] for row in rows):
        return None
    canvas = Canvas(figsize=(7, 4.2), layout="constrained")
    panel = canvas.subplots()
    for first, second, label, cell in _pairs(table, rows):
        centres = _centres(table.sizes) / cell
        gains = [(x, g) for x, g in zip(centres, gain_by_size(first, second, kind), strict=True) if g]
        if not gains:
            continue
        x, y, half = [x for x, _ in gains], [g.mean for _, g in gains], [g.half or 0.0 for _, g in gains]
        panel.errorbar(x, y, half if any(half) else None, marker="o", capsize=2, label=label)
    if not panel.lines:
        return None
    panel.axhline(0, color="#888", lw=0.8)
    panel.set(xscale="log", xlabel="object size in feature cells (square root of its area / stride)")
    panel.set(ylabel=f"gain in {KINDS[kind]} AP")
    ticks = [
        t for t in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64) if panel.get_xlim()[0] <= t <= panel.get_xlim()[1]
    ]
    panel.set_xticks(ticks, [f"{t:g}" for t in ticks])
    panel.minorticks_off()
    _legend(panel)
    of = table.compare.of
    caption = f"Gain of {of} in {KINDS[kind]} AP, by the size of objects in cells of the map that the head pools from; "
    caption += "bars are 95 % intervals over the seeds, where there are several."
    return Figure(f"size_{kind}", caption, _svg(canvas))


def gains(table: Table, rows: Sequence[Row], metric: str) -> Figure | None:
    """Every stated difference as a bar with its interval: over the seeds, or where no place has several of them the
    mean AP within images, whose interval is over the images."""
    found = differences(table, rows, [metric])
    if len(found) <= _FEW_LINES:
        return None
    canvas = Canvas(figsize=(7, 0.8 + 0.26 * len(found)), layout="constrained")
    panel = canvas.subplots()
    names = [", ".join([f"{d.first} − {d.second}", *d.axes.values()]) for d in found]
    several = any(d.by_seed.low is not None for d in found)
    shown = [d.by_seed if several or d.by_image is None else d.by_image for d in found]
    halves = [estimate.half or 0.0 for estimate in shown]
    means, bars = [estimate.mean for estimate in shown], halves if any(halves) else None
    panel.barh(names, means, xerr=bars, color="#7fbf7b", ecolor="#444", capsize=2)
    panel.axvline(0, color="#444", lw=0.8)
    panel.invert_yaxis()
    panel.tick_params(labelsize=8)
    what = f"{KINDS[metric.rpartition('_')[0]]} AP{'' if several else ' within images'}"
    panel.set(xlabel=f"difference in {what}")
    over = (
        "seeds" if several else "images: one run each, so that what another seed would change is not in them"
    )
    caption = f"Differences in {what} with 95 % intervals over the {over}."
    return Figure("gains", caption, _svg(canvas))


def stride_gain(table: Table, rows: Sequence[Row], metric: str) -> Figure | None:
    """The gain against the stride, a dot per seed; None of one stride, whose cells differ a little by the images."""
    pairs = list(_pairs(table, rows))
    sides = [cell for *_, cell in pairs]
    if table.compare is None or not sides or max(sides) < 1.2 * min(sides):
        return None
    canvas = Canvas(figsize=(6, 4), layout="constrained")
    panel = canvas.subplots()
    others = sorted({second.axes[table.compare.axis] for _, second, _, _ in pairs})
    for place, other in enumerate(others):
        own = [p for p in pairs if p[1].axes[table.compare.axis] == other]
        x, y = [], []
        for first, second, _, cell in own:
            a, b = (Row({}, side).values(metric) for side in common_seeds(first, second))
            gains = np.subtract(a, b)
            colour = _COLOURS.get(other)
            panel.plot([np.log2(cell) + 0.04 * place] * len(gains), gains, ".", color=colour, alpha=0.5)
            x.append(np.log2(cell) + 0.04 * place)
            y.append(gains.mean())
        panel.plot(x, y, marker="o", color=_COLOURS.get(other), label=f"{table.compare.of} − {other}")
    cells = sorted({cell for *_, cell in pairs})
    panel.set_xticks(np.log2(cells), [f"{cell:g}" for cell in cells])
    panel.axhline(0, color="#888", lw=0.8)
    panel.set(
        xlabel="side of a cell (stride) in pixels of the original image",
        ylabel=f"gain in {KINDS[metric.rpartition('_')[0]]} AP",
    )
    panel.legend()
    return Figure("stride_gain", "Gain against stride: the seeds (dots) and their mean.", _svg(canvas))


def learning_curves(table: Table, rows: Sequence[Row]) -> Figure:
    """Training loss of the first seed."""
    groups = _groups(table, rows)
    canvas, panels = _panels(groups)
    for panel, (name, members) in zip(panels, groups.items(), strict=True):
        for label, row in members.items():
            if curve := row.records[0]["curve"]:
                panel.plot(*np.transpose(curve), label=label, color=_COLOURS.get(label), lw=1)
        panel.set(title=name, xlabel="step", ylabel="training loss")
        _legend(panel)
    return Figure("learning_curves", "Training loss of the first seed.", _svg(canvas))


def example_images(table: Table, rows: Sequence[Row], images: Path | None) -> Figure | None:
    """The same images under every operator: a line per cell (first seed), detections above 0.5.

    images: the folder that the records' file names are in; None where there are none to show.
    """
    shown = {
        (row.records[0]["id"], name) for row in rows for name in map(picture_of, row.records[0]["examples"])
    }
    if images is None or not shown or not all((images / name).is_file() for _, name in shown):
        return None
    names = {c["id"]: c["name"] for c in rows[0].records[0]["manifest"]["config"]["categories"]}
    count = max(len(row.records[0]["examples"]) for row in rows)
    side = 2.4 if len(rows) <= _FEW_LINES else 1.4
    canvas = Canvas(figsize=(side * count, (side + 0.2) * len(rows)), layout="constrained")
    panels = np.atleast_2d(canvas.subplots(len(rows), count, squeeze=False))
    known: dict[str, list[list[float]]] = {}
    for line, row in zip(panels, rows, strict=True):
        for panel in line:
            panel.set_axis_off()
        for panel, example in zip(line, row.records[0]["examples"], strict=False):
            name = picture_of(example)
            detections = coloured(example["detections"], known.setdefault(name, []))
            panel.imshow(draw_results(_rgb(cv2.imread(str(images / name))), detections, names))
        line[0].set_title(", ".join(f"{k} {v}" for k, v in row.axes.items()), loc="left", fontsize=9)
    same = len({name for _, name in shown}) == count
    what = "The same images" if same else "The first images of its data"
    return Figure(
        "examples", f"{what} under each cell's model (first seed), scores above 0.5.", _jpeg(canvas)
    )


def coloured(detections: Sequence[Record], known: list[list[float]]) -> list[Record]:
    """The detections with a ``colour`` that an object has in every picture of its image.

    known: the boxes x, y, width, height seen so far, whose places are the colours; one that overlaps none of
    them by half is added. The surest choose first, and no two the same.
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


KINDS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}


def _rgb(bgr: Any) -> Pixels:
    return np.ascontiguousarray(bgr[..., ::-1])


def _groups(table: Table, rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """A panel per place of the axes that are not compared; in it the compared values."""
    axis = table.compare.axis if table.compare else next(iter(table.axes))
    groups: dict[str, dict[str, Row]] = {}
    for row in rows:
        name = ", ".join(f"{key} {value}" for key, value in row.axes.items() if key != axis)
        groups.setdefault(name, {})[row.axes[axis]] = row
    return groups


def _pairs(table: Table, rows: Sequence[Row]) -> list[tuple[Row, Row, str, float]]:
    """(of, other, label, side of a cell in pixels) of everything compared whose stride is one number."""
    assert table.compare is not None
    axis, of = table.compare.axis, table.compare.of
    found = []
    for row, other in compared(table, rows):
        cell = cell_pixels(row.records[0])
        if row.axes[axis] == of and cell is not None:
            rest = [f"{k} {v}" for k, v in row.axes.items() if k != axis]
            found.append((row, other, ", ".join([f"{of} − {other.axes[axis]}", *rest]), cell))
    return found


def _centres(edges: Sequence[float]) -> Any:
    """Geometric middles of the sizes; the last one is open and taken as half as wide again."""
    ends = [*edges[1:], edges[-1] * 1.5]
    return np.array([np.sqrt(max(low, high / 4) * high) for low, high in zip(edges, ends, strict=True)])


def _legend(panel: Any) -> None:
    """Beside the panel where it would cover the lines."""
    many = len(panel.get_legend_handles_labels()[1]) > _FEW_LINES
    panel.legend(**({"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "fontsize": 7} if many else {}))


def _panels(groups: dict[str, dict[str, Row]]) -> tuple[Canvas, list[Any]]:
    wide = 6.6 if max(map(len, groups.values())) > _FEW_LINES else 4.6
    canvas = Canvas(figsize=(wide * min(len(groups), 3), 3.6 * -(-len(groups) // 3)), layout="constrained")
    grid = canvas.subplots(-(-len(groups) // 3), min(len(groups), 3), squeeze=False).ravel()
    for unused in grid[len(groups) :]:
        unused.set_axis_off()
    return canvas, list(grid[: len(groups)])


def _jpeg(canvas: Canvas) -> str:
    """Photographs inside an SVG: a tenth of the size of the same pixels as PNG."""
    agg = FigureCanvasAgg(canvas)
    agg.draw()
    pixels = np.asarray(agg.buffer_rgba())[..., 2::-1]
    coded = base64.b64encode(
        cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    ).decode()
    height, width = pixels.shape[:2]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<image width="{width}" height="{height}" href="data:image/jpeg;base64,{coded}"/></svg>'
    )


def _svg(canvas: Canvas) -> str:
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
