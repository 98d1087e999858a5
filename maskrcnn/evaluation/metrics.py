"""Which metrics a data set is scored by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from maskrcnn.evaluation import coco, voc

Metric = Literal["coco", "voc"]
Figures = dict[str, dict[str, float | None]]


def evaluate(
    predictions: Sequence[dict[str, Any]],
    annotations: Any,
    metric: Metric = "coco",
    max_dets: int = 100,
    image_ids: Iterable[int] | None = None,
) -> Figures:
    """What goes into metrics.json: ``{"bbox": .., "segm": ..}`` for COCO, ``{"voc": ..}`` for VOC.

    predictions: COCO results; masks are scored when every one of them has a segmentation. annotations:
    COCO format (a path, the content, or a loaded object). max_dets is COCO's.
    """
    if metric == "voc":
        return voc.evaluate(predictions, annotations, image_ids)
    masks = bool(predictions) and all("segmentation" in prediction for prediction in predictions)
    kinds = ("bbox", "segm") if masks else ("bbox",)
    return coco.evaluate(predictions, annotations, kinds, max_dets, image_ids)
