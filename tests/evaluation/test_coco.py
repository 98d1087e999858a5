"""COCO's metrics against pycocotools called on its own."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn.errors import UserError
from maskrcnn.evaluation.coco import evaluate
from maskrcnn.masks import encode

SIDE = 200
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def random_truth(seed: int, num_images: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    annotations = []
    for image_id in range(1, num_images + 1):
        for _ in range(rng.integers(0, 9)):
            x, y = (int(v) for v in rng.integers(0, SIDE - 20, 2))
            w, h = (int(min(v, SIDE - c)) for v, c in zip(rng.integers(4, 130, 2), (x, y), strict=True))
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[y : y + h, x : x + w] = 1
            mask[y : y + h // 3, x : x + w // 3] = 0
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice([2, 5, 9])),
                    "bbox": [x, y, w, h],
                    "area": int(mask.sum()),
                    "iscrowd": int(rng.random() < 0.1),
                    "segmentation": encode(mask),
                }
            )
    images = [{"id": i, "height": SIDE, "width": SIDE} for i in range(1, num_images + 1)]
    categories = [{"id": i, "name": str(i)} for i in (2, 5, 9, 11)]
    return {"images": images, "annotations": annotations, "categories": categories}


def random_predictions(truth: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    predictions = []
    for entry in truth["annotations"] * 2:
        x, y, w, h = (max(1, int(v + rng.normal(0, 4))) for v in entry["bbox"])
        x, y = min(x, SIDE - 2), min(y, SIDE - 2)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[y : y + h, x : x + w] = 1
        category = entry["category_id"] if rng.random() < 0.8 else int(rng.choice([2, 5, 9, 11]))
        predictions.append(
            {
                "image_id": entry["image_id"],
                "category_id": category,
                "score": round(float(rng.random()), 2),
                "bbox": [x, y, w, h],
                "segmentation": encode(mask),
            }
        )
    return predictions


def oracle(truth: dict[str, Any], predictions: list[dict[str, Any]], kind: str) -> list[float]:
    """The six figures that pycocotools prints."""
    without = "bbox" if kind == "segm" else "segmentation"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"info": {}, **truth}
        coco.createIndex()
        results = coco.loadRes([{k: v for k, v in p.items() if k != without} for p in predictions])
        evaluation = COCOeval(coco, results, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * float(value) for value in evaluation.stats[:6]]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_figures_are_pycocotools_own_to_the_last_digit(seed: int, kind: str) -> None:
    truth = random_truth(seed)
    predictions = random_predictions(truth, seed + 100)
    figures = evaluate(predictions, truth, (kind,))[kind]
    assert tuple(figures) == NAMES
    expected = oracle(truth, predictions, kind)
    assert 0 < expected[0] < 99
    assert [figures[name] for name in NAMES] == expected


def test_what_is_undefined_is_none_and_missing_everything_is_zero() -> None:
    truth = random_truth(0)
    truth["annotations"] = [a for a in truth["annotations"] if a["area"] < 32**2]
    figures = evaluate([], truth)
    for kind in ("bbox", "segm"):
        assert figures[kind] == {"AP": 0, "AP50": 0, "AP75": 0, "APs": 0, "APm": None, "APl": None}


def test_ground_truth_scored_as_predictions_is_perfect() -> None:
    truth = random_truth(1)
    for entry in truth["annotations"]:
        entry["iscrowd"] = 0
    predictions = [{**entry, "score": 1.0} for entry in truth["annotations"]]
    for figures in evaluate(predictions, truth).values():
        assert list(figures.values()) == pytest.approx([100] * 6)


def test_more_than_a_hundred_detections_count_when_asked_for() -> None:
    truth = random_truth(0, num_images=1)
    truth["annotations"] = [
        {"id": n + 1, "image_id": 1, "category_id": 2, "bbox": [x, y, 8, 8], "area": 64, "iscrowd": 0}
        for n, (x, y) in enumerate((x, y) for x in range(0, 150, 10) for y in range(0, 100, 10))
    ]
    predictions = [{**a, "score": 1 - a["id"] / 1000} for a in truth["annotations"]]
    few = evaluate(predictions, truth, ("bbox",))["bbox"]["AP"]
    many = evaluate(predictions, truth, ("bbox",), max_dets=500)["bbox"]["AP"]
    # 100 of 150 objects: precision 1 up to recall 2/3, so 67 of COCO's 101 recalls.
    assert few == pytest.approx(100 * 67 / 101)
    assert many == 100


def test_a_subset_of_images_is_scored_as_if_it_were_all() -> None:
    truth = random_truth(2)
    predictions = random_predictions(truth, 3)
    chosen = [1, 4, 5, 9]
    alone = {**truth, "images": [i for i in truth["images"] if i["id"] in chosen]}
    alone["annotations"] = [a for a in truth["annotations"] if a["image_id"] in chosen]
    expected = oracle(alone, [p for p in predictions if p["image_id"] in chosen], "bbox")
    figures = evaluate(predictions, truth, ("bbox",), image_ids=chosen)["bbox"]
    assert list(figures.values()) == [None if value == -100 else value for value in expected]


@pytest.mark.parametrize(("key", "value"), [("image_id", 99), ("category_id", 1), ("image_id", None)])
def test_predictions_of_another_data_set_are_refused(key: str, value: object) -> None:
    truth = random_truth(0)
    predictions = random_predictions(truth, 0)
    predictions[3][key] = value
    with pytest.raises(UserError, match=f"prediction 3 has {key}={value}"):
        evaluate(predictions, truth)
