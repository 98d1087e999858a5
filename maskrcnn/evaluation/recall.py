"""Average recall of proposals, whatever their class (Hosang et al. 2015; COCO's AR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.cocoeval import COCOeval

from maskrcnn.evaluation.coco import Truth, check_predictions, load_ground_truth, load_results
from maskrcnn.evaluation.silence import silence


def average_recall(
    predictions: Sequence[dict[str, Any]], annotations: Truth, max_dets: int, image_ids: Sequence[int]
) -> dict[str, float | None]:
    """The share of objects that some proposal covers, in percent: the mean over IoU .50:.05:.95, for the best
    ``max_dets`` proposals of an image; at IoU 0.5; and for small, medium and large objects.

    predictions: COCO results with ``bbox`` and ``score``. None where there is no such object.
    """
    truth = load_ground_truth(annotations)
    check_predictions(predictions, truth)
    with silence():
        evaluation = COCOeval(truth, load_results(predictions, truth, "bbox"), "bbox")
        evaluation.params.useCats = 0
        evaluation.params.imgIds = sorted(image_ids)
        evaluation.params.maxDets = [max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
    recall: npt.NDArray[np.float64] = evaluation.eval["recall"]  # [T, 1, A, 1]
    by_area = recall[:, 0, :, 0]
    figures = {f"AR{max_dets}": by_area[:, 0], "AR50": by_area[:1, 0]}
    figures |= {f"AR{size}": by_area[:, place] for place, size in enumerate("sml", start=1)}
    return {
        name: 100 * float(values.mean()) if (values > -1).all() else None for name, values in figures.items()
    }
