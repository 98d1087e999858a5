"""Kinds of errors on a picture where each is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.data.masks import encode
from maskrcnn.evaluation.coco import evaluate
from maskrcnn.evaluation.diagnosis import KINDS, analyse, by_image, mean_iou, write

from .test_coco import random_predictions, random_truth


def thing(number: int, box: tuple[int, int, int, int], category: int, **more: Any) -> dict[str, Any]:
    mask = np.zeros((200, 200), np.uint8)
    x, y, w, h = box
    mask[y : y + h, x : x + w] = 1
    entry = {
        "id": number,
        "image_id": 1,
        "category_id": category,
        "bbox": list(box),
        "area": w * h,
        "iscrowd": 0,
    }
    return {**entry, "segmentation": encode(mask), **more}


OBJECTS = [
    thing(1, (0, 0, 20, 20), 3),  # found, and found again
    thing(2, (50, 0, 20, 20), 3),  # taken for class 8
    thing(3, (100, 0, 20, 20), 8),  # found badly
    thing(4, (150, 0, 20, 20), 8),  # taken for class 3, badly
    thing(5, (0, 100, 20, 20), 8),  # not seen
    thing(6, (100, 100, 60, 60), 3, iscrowd=1),
]
FOUND = [
    thing(0, (0, 0, 20, 19), 3, score=0.9),
    thing(0, (0, 0, 20, 18), 3, score=0.8),
    thing(0, (50, 0, 20, 19), 8, score=0.8),
    thing(0, (100, 0, 20, 7), 8, score=0.8),
    thing(0, (150, 0, 20, 7), 3, score=0.8),
    thing(0, (60, 150, 20, 20), 3, score=0.7),  # nothing is there
    thing(0, (110, 110, 20, 20), 3, score=0.7),  # in the crowd
    thing(0, (0, 100, 20, 20), 8, score=0.1),  # below the least score
]
TRUTH = {
    "images": [{"id": 1, "height": 200, "width": 200}],
    "annotations": OBJECTS,
    "categories": [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}],
}


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_mean_iou_takes_the_best_detection_of_an_objects_class(iou_type: str) -> None:
    """19 and 7 of 20 rows or columns; the other three objects have no detection of their class above 0.5."""
    empty = {"id": 2, "height": 9, "width": 9}
    truth = {**TRUTH, "images": [*TRUTH["images"], empty]}
    assert mean_iou(FOUND, truth, iou_type) == {1: pytest.approx((19 / 20 + 7 / 20) / 5)}


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_every_kind_of_error_is_recognised(iou_type: str) -> None:
    found = analyse(FOUND, TRUTH, iou_type)
    assert found.errors == {**dict.fromkeys(KINDS, 1), "missed": 2}
    # rows: cat, dog, background; columns: what was said
    assert found.confusion.tolist() == [[2, 1, 0], [1, 1, 2], [1, 0, 0]]
    assert found.names == ["cat", "dog"]


def test_an_object_without_a_mask_is_neither_found_nor_missed_by_masks() -> None:
    """The one that nobody saw, and the one found twice: two detections lie in it and count no more than in a crowd."""
    bare = [{k: v for k, v in entry.items() if k != "segmentation"} for entry in OBJECTS]
    truth = {**TRUTH, "annotations": [bare[0], *OBJECTS[1:4], bare[4], OBJECTS[5]]}
    found = analyse(FOUND, truth, "segm").errors
    assert found == {**dict.fromkeys(KINDS, 1), "correct": 0, "duplicate": 0, "missed": 1}
    assert by_image(FOUND, truth, "segm", min_score=0.3) == {1: found}


def test_counts_add_up_on_random_detections() -> None:
    truth = random_truth(0)
    predictions = random_predictions(truth, 1)
    found = analyse(predictions, truth, "segm", min_score=0.0)
    assert sum(found.confusion.ravel()) == sum(found.errors.values())
    assert found.errors["correct"] == np.trace(found.confusion[:-1, :-1]) - sum(
        found.errors[kind] for kind in ("duplicate", "localisation")
    )
    objects = sum(not a["iscrowd"] for a in truth["annotations"])
    assert found.errors["correct"] + found.errors["missed"] <= objects
    # Average precision is the mean of the curve.
    figures = evaluate(predictions, truth, ("segm",))["segm"]
    assert 100 * np.nanmean(found.precision) == pytest.approx(figures["AP50"])


def test_numbers_and_figures_are_written(tmp_path: Path) -> None:
    write(analyse(FOUND, TRUTH), tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "errors.json",
        "errors.png",
        "confusion.png",
        "precision_recall.png",
    }
    content = json.loads((tmp_path / "out" / "errors.json").read_text())
    assert content["errors"]["missed"] == 2
    assert content["classes"] == ["cat", "dog", "background"]
    assert len(content["precision_at_recall"]["cat"]) == 101
