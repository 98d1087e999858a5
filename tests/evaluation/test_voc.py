"""VOC's metrics against hand-computed curves and an implementation of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maskrcnn.data.masks import encode
from maskrcnn.evaluation.voc import Curve, area_ap, eleven_point_ap, evaluate

from .test_coco import random_predictions, random_truth


def thing(number: int, image_id: int, box: list[float], category_id: int = 1, **more: Any) -> dict[str, Any]:
    mask = np.zeros((50, 50), np.uint8)
    x, y, w, h = (int(v) for v in box)
    mask[y : y + h, x : x + w] = 1
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "segmentation": encode(mask),
        **more,
    }


def data(*annotations: dict[str, Any], classes: int = 1) -> dict[str, Any]:
    return {
        "images": [{"id": i, "height": 50, "width": 50} for i in (1, 2)],
        "annotations": list(annotations),
        "categories": [{"id": i, "name": str(i)} for i in range(1, classes + 1)],
    }


def test_a_curve_computed_by_hand() -> None:
    """Four objects; found, missed, found, found again (a duplicate), found: hits at ranks 1, 3 and 5."""
    truth = data(*(thing(n, 1, [10 * n, 0, 10, 10]) for n in range(4)))
    truth["annotations"] = [{**a, "id": a["id"] + 1} for a in truth["annotations"]]
    boxes = [[0, 0, 10, 10], [0, 30, 5, 5], [10, 0, 10, 10], [10, 0, 10, 9], [20, 0, 10, 8]]
    predictions = [thing(0, 1, box, score=1 - rank / 10) for rank, box in enumerate(boxes)]
    figures = evaluate(predictions, truth)["voc"]
    # precision 1, 2/3, 3/5 at recall 1/4, 2/4, 3/4
    assert figures["AP"] == pytest.approx(100 * (1 + 2 / 3 + 3 / 5) / 4)
    # recalls 0, .1, .2 | .3, .4, .5 | .6, .7 | none at .8, .9, 1
    assert figures["AP07"] == pytest.approx(100 * (3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11)
    assert figures["APr50"] == pytest.approx(100 * (1 + 2 / 3 + 3 / 5) / 4)
    assert figures["APr70"] == pytest.approx(100 * (1 + 2 / 3 + 3 / 5) / 4)


def test_the_threshold_of_masks_is_that_of_its_name() -> None:
    truth = data(thing(1, 1, [0, 0, 10, 10]))
    figures = evaluate([thing(0, 1, [0, 0, 10, 6], score=1.0)], truth)["voc"]
    assert (figures["APr50"], figures["APr70"]) == (100, 0)
    exactly = evaluate([thing(0, 1, [0, 0, 10, 5], score=1.0)], truth)["voc"]
    assert (exactly["AP"], exactly["APr50"]) == (100, 100)


def test_difficult_objects_count_neither_for_nor_against() -> None:
    truth = data(thing(1, 1, [0, 0, 10, 10]), thing(2, 1, [20, 20, 10, 10], difficult=1))
    found = thing(0, 1, [0, 0, 10, 10], score=0.5)
    on_difficult = thing(0, 1, [20, 20, 10, 10], score=0.9)
    for predictions in ([found], [on_difficult, found], [on_difficult, on_difficult, found]):
        assert evaluate(predictions, truth)["voc"] == {"AP": 100, "AP07": 100, "APr50": 100, "APr70": 100}
    elsewhere = thing(0, 2, [20, 20, 10, 10], score=0.9)
    assert evaluate([elsewhere, found], truth)["voc"]["AP"] == 50
    assert evaluate([elsewhere, found], truth, image_ids=[1])["voc"]["AP"] == 100


def test_the_mean_is_over_classes_with_objects_to_find() -> None:
    truth = data(
        thing(1, 1, [0, 0, 9, 9]), thing(2, 2, [0, 0, 9, 9], 2), thing(3, 2, [9, 9, 9, 9], 3), classes=4
    )
    truth["annotations"][2]["difficult"] = 1
    predictions = [thing(0, 1, [0, 0, 9, 9], score=0.3), thing(0, 1, [0, 0, 9, 9], 4, score=0.9)]
    assert evaluate(predictions, truth)["voc"]["AP"] == 50


def test_nothing_predicted_and_nothing_to_find() -> None:
    assert evaluate([], data(thing(1, 1, [0, 0, 9, 9])))["voc"] == dict.fromkeys(
        ("AP", "AP07", "APr50", "APr70"), 0
    )
    assert evaluate([], data())["voc"] == dict.fromkeys(("AP", "AP07", "APr50", "APr70"), None)


def test_recall_points_are_met_exactly() -> None:
    """Three of ten found: recall 0.3 counts, though 3 / 10 and 0.1 * 3 differ in floating point."""
    curve = Curve(np.ones(3), np.array([1, 2, 3]) / 10, 10)
    assert eleven_point_ap(curve) == pytest.approx(4 / 11)
    assert area_ap(curve) == pytest.approx(0.3)


def slow_ap(predictions: list[dict[str, Any]], truth: dict[str, Any], eleven: bool) -> float:
    """Box AP in plain loops: counts instead of cumulative sums, the area by rectangles."""
    values = []
    for category in sorted({a["category_id"] for a in truth["annotations"] if not a["iscrowd"]}):
        objects = [a for a in truth["annotations"] if a["category_id"] == category]
        total = sum(not a["iscrowd"] for a in objects)
        used, points, hits, alarms = set(), [], 0, 0
        for p in sorted((p for p in predictions if p["category_id"] == category), key=lambda p: -p["score"]):
            best, best_iou = None, -1.0
            for a in objects:
                if a["image_id"] != p["image_id"]:
                    continue
                (ax, ay, aw, ah), (bx, by, bw, bh) = a["bbox"], p["bbox"]
                shared = max(0, min(ax + aw, bx + bw) - max(ax, bx)) * max(
                    0, min(ay + ah, by + bh) - max(ay, by)
                )
                iou = shared / (aw * ah + bw * bh - shared)
                if iou > best_iou:
                    best, best_iou = a, iou
            if best is not None and best_iou >= 0.5:
                if best["iscrowd"]:
                    continue
                new = best["id"] not in used
                used.add(best["id"])
                hits, alarms = hits + new, alarms + (not new)
            else:
                alarms += 1
            points.append((hits / total, hits / (hits + alarms)))
        if eleven:
            best_at = [max([pr for r, pr in points if r >= k / 10 - 1e-12], default=0) for k in range(11)]
            values.append(sum(best_at) / 11)
        else:
            area, last = 0.0, 0.0
            for recall in sorted({r for r, _ in points}):
                area += (recall - last) * max(pr for r, pr in points if r >= recall)
                last = recall
            values.append(area)
    return 100 * sum(values) / len(values)


@pytest.mark.parametrize("seed", range(6))
def test_boxes_against_an_independent_implementation(seed: int) -> None:
    truth = random_truth(seed)
    predictions = random_predictions(truth, seed)
    figures = evaluate(predictions, truth)["voc"]
    assert figures["AP"] == pytest.approx(slow_ap(predictions, truth, eleven=False), abs=1e-9)
    assert figures["AP07"] == pytest.approx(slow_ap(predictions, truth, eleven=True), abs=1e-9)
    assert 1 < figures["AP"] < 99


def test_masks_are_scored_where_somebody_drew_them() -> None:
    """VOC's Main lists images whose objects have boxes alone; what is found there is no false alarm among the masks."""
    bare = thing(2, 2, [5, 5, 10, 10])
    del bare["segmentation"]
    truth = data(thing(1, 1, [0, 0, 10, 10]), bare)
    found = [thing(0, 1, [0, 0, 10, 10], score=0.5), thing(0, 2, [5, 5, 10, 10], score=0.9)]
    assert evaluate(found, truth)["voc"] == {"AP": 100, "AP07": 100, "APr50": 100, "APr70": 100}
