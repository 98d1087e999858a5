"""Real ground truth scored as predictions is perfect, and category ids survive the round trip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.masks import encode
from maskrcnn.evaluation.coco import evaluate
from tests.data.conftest import real_data

__all__ = ["real_data"]


def test_the_coco_subset_read_and_scored_is_perfect(real_data: Callable[[str], Path]) -> None:
    root = real_data("coco_subset")
    dataset = CocoDataset(root / "annotations" / "instances_val2017.json", root / "val2017")
    predictions = []
    for index in range(len(dataset)):
        record = dataset.record(index)
        for g, mask in enumerate(dataset.masks(record)):
            if mask is None or record.crowd[g]:
                continue
            x1, y1, x2, y2 = record.boxes[g].astype(float).tolist()
            predictions.append(
                {
                    "image_id": record.image_id,
                    "category_id": dataset.category_ids[record.labels[g]],
                    "score": 1.0,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "segmentation": encode(mask.full(record.height, record.width)),
                }
            )
    figures = evaluate(predictions, dataset.ground_truth())
    assert len(predictions) == 1786 - 21
    for kind in ("bbox", "segm"):
        assert list(figures[kind].values()) == pytest.approx([100] * 6)
