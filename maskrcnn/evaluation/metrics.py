"""Which metrics a data set is scored by, and the closer look at request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from maskrcnn.evaluation import coco, voc
from maskrcnn.evaluation import diagnosis as errors
from maskrcnn.evaluation.areas import Ranges

Metric = Literal["coco", "voc"]
Figures = dict[str, dict[str, float | None]]


def evaluate(
    predictions: Sequence[dict[str, Any]],
    annotations: Any,
    metric: Metric = "coco",
    max_dets: int = 100,
    image_ids: Iterable[int] | None = None,
    kinds: Sequence[str] | None = None,
    backend: str | None = None,
    area_ranges: Ranges | None = None,
) -> Figures:
    """What goes into metrics.json: ``{"bbox": .., "segm": .., "keypoints": ..}`` for COCO, ``{"voc": ..}`` for VOC.

    predictions: COCO results. annotations: COCO format (a path, the content, or a loaded object).
    max_dets, kinds, backend and area_ranges are COCO's (of keypoints no more than its 20 detections count); kinds None
    scores whatever every prediction has.
    """
    if metric == "voc":
        return voc.evaluate(predictions, annotations, image_ids)
    truth = coco.load_ground_truth(annotations)
    figures: Figures = {}
    for kind in kinds_of(predictions) if kinds is None else kinds:
        most = _most(kind, max_dets)
        figures |= coco.evaluate(predictions, truth, (kind,), most, image_ids, backend, area_ranges)
    return figures


def per_class(
    predictions: Sequence[dict[str, Any]],
    annotations: Any,
    metric: Metric = "coco",
    max_dets: int = 100,
    kinds: Sequence[str] | None = None,
    backend: str | None = None,
    area_ranges: Ranges | None = None,
) -> dict[str, Figures]:
    """The figures of ``evaluate`` for each class by itself: ``{kind: {class: figures}}``, arguments as there."""
    if metric == "voc":
        return {"voc": voc.per_class(predictions, annotations)}
    truth = coco.load_ground_truth(annotations)
    return {
        kind: coco.per_class(predictions, truth, kind, _most(kind, max_dets), area_ranges, backend)
        for kind in (kinds_of(predictions) if kinds is None else kinds)
    }


def _most(kind: str, max_dets: int) -> int:
    return min(max_dets, 20) if kind == "keypoints" else max_dets


def kinds_of(predictions: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """What COCO results can be scored for: whatever all of them have of boxes, masks and keypoints."""
    keys = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
    kinds = (kind for kind, key in keys.items() if all(key in prediction for prediction in predictions))
    return (tuple(kinds) or ("bbox",)) if predictions else ("bbox",)


def write_details(
    predictions: Sequence[dict[str, Any]],
    annotations: Any,
    kinds: Sequence[str],
    max_dets: int,
    cell: float,
    folder: Path,
    area_ranges: Ranges | None = None,
    backend: str | None = None,
) -> None:
    """``details.json`` (AP of every class, by object size in feature cells, of outlines) and, for masks, else boxes,
    ``errors.json``, ``errors.png``, ``confusion.png`` and ``precision_recall.png``, into ``folder``.

    cell: side of a feature cell in pixels of the original image.
    """
    truth = coco.load_ground_truth(annotations)
    content: dict[str, Any] = {}
    for kind in kinds:
        content[kind] = {
            "per_class": coco.per_class(
                predictions, truth, kind, _most(kind, max_dets), area_ranges, backend
            ),
            "by_size_in_cells": coco.by_cells(
                predictions, truth, kind, cell, max_dets=_most(kind, max_dets), backend=backend
            ),
        }
    if "segm" in kinds:
        content |= coco.evaluate(predictions, truth, ("boundary",), max_dets, area_ranges=area_ranges)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "details.json").write_text(json.dumps(content, indent=1))
    regions = [kind for kind in kinds if kind != "keypoints"]
    if regions:
        errors.write(
            errors.analyse(predictions, truth, regions[-1], max_dets=max_dets, backend=backend), folder
        )
