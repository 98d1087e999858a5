"""Average recall of class-agnostic proposals (Hosang et al. 2015; COCO's AR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from maskrcnn.evaluation.backends import accumulated
from maskrcnn.evaluation.coco import Truth, load_ground_truth, results_for
from maskrcnn.evaluation.results import check_predictions

_IOUS = np.linspace(0.5, 0.95, 10)
# COCO's ranges in square pixels, both ends included. The first one is all sizes.
_AREAS = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])


def average_recall(
    predictions: Sequence[dict[str, Any]],
    annotations: Truth,
    max_dets: int,
    image_ids: Sequence[int],
    backend: str | None = None,
) -> dict[str, float | None]:
    """Compute the share of objects that a proposal covers, in percent. Undefined metrics are None.

    The metrics are the mean over IoU .50:.05:.95, recall at IoU 0.5, and recall of small, medium and large objects.

    Args:
        predictions: COCO results with ``bbox`` and ``score``.
        annotations: path of a COCO-format json, its content, or a loaded COCO object.
        max_dets: number of proposals per image that count, those with the highest scores.
        image_ids: the images.
        backend: see `chosen_backend`.
    """
    truth = load_ground_truth(annotations)
    check_predictions(predictions, truth)
    parameters = {"useCats": 0, "imgIds": sorted(image_ids), "maxDets": [max_dets]}
    evaluation = accumulated(truth, results_for(predictions, truth, "bbox"), "bbox", parameters, backend)
    recall: npt.NDArray[np.float64] = evaluation.eval["recall"]  # [T, 1, A, 1]
    by_area = recall[:, 0, :, 0]
    return _figures(max_dets, by_area, np.all(by_area > -1, axis=0))


def _figures(
    most: int, recall: npt.NDArray[np.float64], defined: npt.NDArray[np.bool_]
) -> dict[str, float | None]:
    """The metrics in percent from recall ``[T, areas]``; None for areas that are not ``defined``, ``[areas]``."""
    figures = {f"AR{most}": recall[:, 0], "AR50": recall[:1, 0]}
    figures |= {f"AR{size}": recall[:, place] for place, size in enumerate("sml", start=1)}
    known = [defined[0], *defined]
    return {
        name: 100 * float(values.mean()) if some else None
        for (name, values), some in zip(figures.items(), known, strict=True)
    }


class Recall:
    """Computes `average_recall` image by image, for more proposals than fit into memory as COCO results.

    Args:
        most: number of proposals per image that count, those with the highest scores.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._found = np.zeros((len(_IOUS), len(_AREAS)), np.int64)
        self._objects = np.zeros(len(_AREAS), np.int64)

    def add(self, boxes: npt.NDArray[np.float32], objects: Sequence[dict[str, Any]]) -> None:
        """Add an image.

        Args:
            boxes: proposals ``[P, 4]`` (x1, y1, x2, y2) by descending score.
            objects: all annotations of the image.
        """
        kept = [entry for entry in objects if not entry.get("iscrowd")]
        if not kept:
            return
        areas = np.array([entry["area"] for entry in kept])[:, None]
        within = (areas >= _AREAS[:, 0]) & (areas <= _AREAS[:, 1])  # [G, areas]
        self._objects += within.sum(0)
        truth = np.array([entry["bbox"] for entry in kept], np.float64)
        found = boxes[: self.most].astype(np.float64)
        found[:, 2:] -= found[:, :2]
        if not len(found):
            return
        iou = coco_mask.iou(found, truth, [0] * len(truth))
        for place in range(len(_AREAS)):
            self._found[:, place] += _matched(iou[:, within[:, place]])

    def figures(self) -> dict[str, float | None]:
        """The metrics in percent; None without objects."""
        return _figures(self.most, self._found / np.maximum(self._objects, 1), self._objects > 0)


def _matched(iou: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Number of G objects that are detected at each IoU, ``[T]``.

    ``iou`` is ``[P, G]``, proposals by descending score. Each proposal is matched with the unmatched object that it
    overlaps most; among equal ones, the last.
    """
    taken, rows = np.zeros((len(_IOUS), iou.shape[1]), np.bool_), np.arange(len(_IOUS))
    for overlaps in iou[(iou >= _IOUS[0]).any(1), ::-1]:
        free = np.where(taken, 0.0, overlaps)  # [T, G]
        best = free.argmax(1)
        taken[rows, best] |= free[rows, best] >= _IOUS
    matched: npt.NDArray[np.int64] = taken.sum(1)
    return matched
