"""Draws the picture of an evaluation: ground truth, predictions, and the images with the worst detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import cv2
import numpy as np

from maskrcnn.data.dataset import Dataset
from maskrcnn.evaluation.diagnosis import mean_iou
from maskrcnn.prediction.draw import Picture, draw_outlines, draw_results, sheet, skeletons

COLUMNS = ("ground truth", "predictions", "worst by IoU")
TAG = "-".join(COLUMNS).replace(" ", "_")  # TensorBoard does not allow spaces
_WIDTH = 420  # width of a panel in pixels
_BLANK = np.full((1, 1, 3), 255, np.uint8)


def results_picture(
    dataset: Dataset,
    found: Mapping[int, list[dict[str, Any]]],
    truth: dict[str, Any],
    kind: str | None,
    most: int,
) -> Picture | None:
    """Draw a row for each of the first ``most`` images: ground truth, predictions, and another image of low IoU.

    Row k ends with the image of the k-th lowest mean IoU: its predictions with white outlines of the objects.

    Args:
        dataset: the images.
        found: COCO results by image id, of all evaluated images.
        truth: annotations of these images in COCO's format.
        kind: kind of IoU, ``bbox`` or ``segm``; None leaves out the images of low IoU.
        most: number of rows.

    Returns:
        RGB, or None without an image.
    """
    objects: dict[int, list[dict[str, Any]]] = {}
    for annotation in truth["annotations"]:
        if not annotation.get("iscrowd"):
            objects.setdefault(annotation["image_id"], []).append(annotation)
    place = {dataset.image_id(index): index for index in range(len(dataset))}
    everything = [result for results in found.values() for result in results]
    overlaps = {} if kind is None else mean_iou(everything, truth, kind)
    names = {int(c["id"]): str(c["name"]) for c in dataset.categories}
    lines = skeletons(dataset.categories)

    def drawn(image_id: int, results: Sequence[dict[str, Any]]) -> Picture:
        return draw_results(dataset.read(place[image_id]).image, results, names, skeletons=lines)

    def poor(image_id: int) -> Picture:
        caption = f"IoU {overlaps[image_id]:.2f}"
        return draw_outlines(drawn(image_id, found[image_id]), objects[image_id], caption)

    panels = [_heading(name) for name in COLUMNS]
    for image_id, worst in zip_longest(list(found)[:most], sorted(overlaps, key=overlaps.__getitem__)[:most]):
        panels += [drawn(image_id, objects.get(image_id, [])), drawn(image_id, found[image_id])]
        panels.append(_BLANK if worst is None else poor(worst))
    return sheet(panels, columns=3, width=_WIDTH) if found and most else None


def _heading(name: str) -> Picture:
    strip = np.full((24, _WIDTH, 3), 255, np.uint8)
    cv2.putText(strip, name, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
    return strip
