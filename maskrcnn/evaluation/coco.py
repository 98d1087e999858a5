"""COCO's metrics by pycocotools, with the number of detections configurable and nothing printed."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn.data.coco_json import load_annotations
from maskrcnn.errors import UserError

# name: (IoU threshold or None for the mean over .50:.05:.95, area range, whether the detections are the
# most allowed)
_FIGURES: dict[str, tuple[float | None, str]] = {
    "AP": (None, "all"),
    "AP50": (0.5, "all"),
    "AP75": (0.75, "all"),
    "APs": (None, "small"),
    "APm": (None, "medium"),
    "APl": (None, "large"),
}

Metrics = dict[str, float | None]


def evaluate(
    predictions: Sequence[dict[str, Any]],
    annotations: str | Path | dict[str, Any] | COCO,
    iou_types: Sequence[str] = ("bbox", "segm"),
    max_dets: int = 100,
    image_ids: Iterable[int] | None = None,
) -> dict[str, Metrics]:
    """AP, AP50, AP75, APs, APm, APl in percent, unrounded, for each of ``iou_types``; None where undefined.

    predictions: COCO results: ``image_id``, ``category_id``, ``score``, ``bbox`` (x, y, width, height) and,
    for "segm", ``segmentation`` (RLE). annotations: path of a COCO-format json, its content, or a loaded
    COCO object. max_dets: detections counted per image and class (the highest scores). image_ids: score
    these images only.

    With max_dets=100 the figures are those of pycocotools' own summary. For "segm" sizes are areas of
    masks, not of boxes. Raises UserError for predictions that do not belong to the annotations.
    """
    truth = load_ground_truth(annotations)
    ids = sorted(truth.getImgIds()) if image_ids is None else sorted(set(image_ids))
    check_predictions(predictions, truth)
    return {
        iou_type: _summary(accumulate(predictions, truth, iou_type, max_dets, ids), max_dets)
        for iou_type in iou_types
    }


def load_ground_truth(annotations: str | Path | dict[str, Any] | COCO) -> COCO:
    """A COCO object, silently."""
    if isinstance(annotations, COCO):
        return annotations
    data = annotations if isinstance(annotations, dict) else load_annotations(Path(annotations))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        # pycocotools asks for keys that only the official files have, and writes into what it is given.
        coco.dataset = {
            "info": {},
            **data,
            "annotations": [_complete(entry) for entry in data["annotations"]],
        }
        coco.createIndex()
    return coco


def _complete(entry: dict[str, Any]) -> dict[str, Any]:
    """An annotation with the optional keys that scoring reads."""
    box = entry.get("bbox", [0, 0, 0, 0])
    return {"iscrowd": 0, "area": box[2] * box[3], **entry}


def check_predictions(predictions: Sequence[dict[str, Any]], truth: COCO) -> None:
    """Raises UserError for what is no result, or one of an image or category the annotations do not list."""
    if not isinstance(predictions, Sequence) or isinstance(predictions, str):
        raise UserError(f"predictions are a list of COCO results, not a {type(predictions).__name__}")
    known = (
        ("image", "image_id", set(truth.getImgIds())),
        ("category", "category_id", set(truth.getCatIds())),
    )
    for place, prediction in enumerate(predictions):
        if not isinstance(prediction, dict):
            raise UserError(f"prediction {place} is a {type(prediction).__name__}, not a COCO result")
        for what, key, ids in known:
            value = prediction.get(key)
            if not isinstance(value, int) or value not in ids:
                raise UserError(
                    f"prediction {place} has {key}={value!r}, but the annotations list no such {what}; "
                    "are they of the same data set?"
                )
        score = prediction.get("score")
        if not isinstance(score, int | float) or not math.isfinite(score):
            raise UserError(f"prediction {place} has score={score!r}; expected a number")
        box = prediction.get("bbox", [0, 0, 0, 0])
        if (
            not isinstance(box, list | tuple)
            or len(box) != 4
            or not all(isinstance(v, int | float) for v in box)
        ):
            raise UserError(f"prediction {place} has bbox={box!r}; expected [x, y, width, height]")


def accumulate(
    predictions: Sequence[dict[str, Any]], truth: COCO, iou_type: str, max_dets: int, image_ids: Sequence[int]
) -> COCOeval:
    """pycocotools' evaluation, run and accumulated; ``params.maxDets`` ends with ``max_dets``."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, _results(predictions, truth, iou_type), iou_type)
        evaluation.params.imgIds = list(image_ids)
        evaluation.params.maxDets = sorted({1, min(10, max_dets), max_dets})
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _results(predictions: Sequence[dict[str, Any]], truth: COCO, iou_type: str) -> COCO:
    """Predictions as a COCO object; pycocotools' own ``loadRes`` cannot take an empty list."""
    if not predictions:
        empty = COCO()
        empty.dataset = {
            "images": truth.dataset["images"],
            "categories": truth.dataset["categories"],
            "annotations": [],
        }
        empty.createIndex()
        return empty
    # With a bbox left in, loadRes would take it for the area that decides small, medium or large.
    left_out = {"segm": {"bbox"}, "bbox": {"segmentation", "keypoints"}}.get(iou_type, set())
    results: COCO = truth.loadRes([{k: v for k, v in p.items() if k not in left_out} for p in predictions])
    return results


def _summary(evaluation: COCOeval, max_dets: int) -> Metrics:
    return {
        name: average_precision(evaluation, threshold, area) for name, (threshold, area) in _FIGURES.items()
    }


def average_precision(
    evaluation: COCOeval, threshold: float | None = None, area: str = "all"
) -> float | None:
    """Mean precision over recalls, classes and thresholds (or at one) in percent at the most detections
    allowed.

    None when there is no object to be found, where pycocotools says -1.
    """
    parameters = evaluation.params
    precision: npt.NDArray[np.float64] = evaluation.eval["precision"]  # [T, R, K, A, M]
    if threshold is not None:
        precision = precision[np.flatnonzero(threshold == parameters.iouThrs)]
    precision = precision[..., parameters.areaRngLbl.index(area), -1]
    defined = precision[precision > -1]
    return 100 * float(np.mean(defined)) if defined.size else None
