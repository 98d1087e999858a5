"""A metric: the IoU of each object's mask with the best prediction of its class, averaged over objects."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def mask_iou(truth: dict[str, Any], predictions: list[dict[str, Any]]) -> float:
    """Compute the metric, 0 to 1, from a COCO data set with RLE masks and COCO results."""
    found = defaultdict(list)
    for result in predictions:
        found[result["image_id"], result["category_id"]].append(result["segmentation"])
    best = []
    for entry in truth["annotations"]:
        rivals = found[entry["image_id"], entry["category_id"]]
        ious = coco_mask.iou(rivals, [entry["segmentation"]], [0]) if rivals else np.zeros(1)
        best.append(float(ious.max()))
    return float(np.mean(best))


if __name__ == "__main__":
    files = (json.loads(Path(file).read_text()) for file in sys.argv[1:])
    print(f"mean IoU {mask_iou(*files):.3f}")
