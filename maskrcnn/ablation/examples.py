"""The report's example images, with the detections of every model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pycocotools import mask as coco_mask

from maskrcnn.ablation.plot import FEW_LINES, Plot
from maskrcnn.ablation.record import Record
from maskrcnn.ablation.summary import Row
from maskrcnn.data.images import read_image
from maskrcnn.prediction.draw import draw_results


def example_images(rows: Sequence[Row], images: Path) -> Plot | None:
    """Draw the detections of every model on its example images: first seed, scores above 0.5.

    Args:
        rows: one row of the table per model.
        images: folder of the pictures that the records name.

    Returns:
        The plot; None if a picture is missing or no record names one.
    """
    shown = {(row.records[0]["id"], picture_of(e)) for row in rows for e in row.records[0]["examples"]}
    if not shown or not all((images / name).is_file() for _, name in shown):
        return None
    names = {c["id"]: c["name"] for c in rows[0].records[0]["manifest"]["config"]["categories"]}
    count = max(len(row.records[0]["examples"]) for row in rows)
    few = len(rows) <= FEW_LINES
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
    what = "the same images" if same else "the first images of its data"
    return Plot(
        "examples", f"Detections of each model (first seed) on {what}, scores above 0.5.", _webp(canvas)
    )


def coloured(detections: Sequence[Record], known: list[list[float]]) -> list[Record]:
    """Give each detection a ``colour``, so that an object has one colour in all pictures of an image.

    A detection gets the colour of the known box that it overlaps most, if their IoU is at least 0.5. Otherwise
    its own box is added to ``known``. Detections choose by falling score, and no two share a colour.

    Args:
        detections: COCO results of one image.
        known: boxes (x, y, width, height) so far, which this function extends. The index of a box is its colour.

    Returns:
        Copies of the detections, by falling score.
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
    """File name of an example's picture."""
    return str(example.get("picture") or Path(example["image"]["file_name"]).name)


def _webp(canvas: Figure) -> bytes:
    """Encode a figure as WebP, which for photographs is a tenth of the size of PNG."""
    agg = FigureCanvasAgg(canvas)
    agg.draw()
    pixels = np.asarray(agg.buffer_rgba())[..., 2::-1]
    return cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 75])[1].tobytes()
