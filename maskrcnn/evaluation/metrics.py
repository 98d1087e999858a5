"""Which metrics a data set is scored by, and the closer look at request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from maskrcnn.evaluation import coco, errors, voc

Metric = Literal["coco", "voc"]
Figures = dict[str, dict[str, float | None]]


def evaluate(
    predictions: Sequence[dict[str, Any]],
    annotations: Any,
    metric: Metric = "coco",
    max_dets: int = 100,
    image_ids: Iterable[int] | None = None,
    kinds: Sequence[str] | None = None,
    fast: bool = False,
) -> Figures:
    """What goes into metrics.json: ``{"bbox": .., "segm": .., "keypoints": ..}`` for COCO, ``{"voc": ..}`` for VOC.

    predictions: COCO results. annotations: COCO format (a path, the content, or a loaded object).
    max_dets, kinds and fast are COCO's; kinds None scores boxes, and masks and keypoints when every prediction has
    them.
    """
    if metric == "voc":
        return voc.evaluate(predictions, annotations, image_ids)
    kinds = kinds_of(predictions) if kinds is None else kinds
    return coco.evaluate(predictions, annotations, kinds, max_dets, image_ids, fast)


def kinds_of(predictions: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """What COCO results can be scored for: boxes, and masks and keypoints where all of them have some."""
    kinds = {"segm": "segmentation", "keypoints": "keypoints"}
    return (
        "bbox",
        *(kind for kind, key in kinds.items() if predictions and all(key in p for p in predictions)),
    )


def write_details(
    predictions: Sequence[dict[str, Any]],
    annotations: Any,
    kinds: Sequence[str],
    max_dets: int,
    cell: float,
    folder: Path,
) -> None:
    """``details.json`` (AP of every class, by object size in feature cells, of outlines) and, for the masks or else the
    boxes, ``errors.json``, ``errors.png``, ``confusion.png`` and ``precision_recall.png``, into ``folder``.

    cell: side of a feature cell in pixels of the original image.
    """
    truth = coco.load_ground_truth(annotations)
    content: dict[str, Any] = {}
    for kind in kinds:
        content[kind] = {
            "per_class": coco.per_class(predictions, truth, kind, max_dets),
            "by_size_in_cells": coco.by_cells(predictions, truth, kind, cell, max_dets=max_dets),
        }
    if "segm" in kinds:
        content["boundary"] = coco.evaluate(predictions, truth, ("boundary",), max_dets)["boundary"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "details.json").write_text(json.dumps(content, indent=1))
    kind = "segm" if "segm" in kinds else "bbox"
    errors.write(errors.analyse(predictions, truth, kind, max_dets=max_dets), folder)
