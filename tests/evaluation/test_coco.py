"""COCO's metrics against pycocotools called on its own."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn.data.masks import encode
from maskrcnn.errors import UserError
from maskrcnn.evaluation.backends import outline_band
from maskrcnn.evaluation.coco import by_cells, evaluate, per_class

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


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ({"size": [3, 3], "counts": "09"}, "image of size [3, 3] (height, width), but the image is"),
        (
            {"size": [SIDE, SIDE], "counts": [1, 2, 3]},
            f"describes 6 pixels, but the image has {SIDE} x {SIDE}",
        ),
        ({"size": [SIDE, SIDE], "counts": "12Q"}, "RLE string is damaged"),
        ({"size": [SIDE, SIDE], "counts": "~~~"}, "RLE string is damaged"),
        ({"size": [SIDE, SIDE], "counts": None}, "neither a string nor a list of whole numbers"),
        ([[1, 2, 3]], "a polygon of fewer than six numbers"),
        ("mask.png", "neither a list of polygons nor an RLE with 'counts' and 'size' (found str)"),
        (None, "(found NoneType)"),
    ],
)
def test_predicted_masks_that_cannot_be_scored_are_refused(segmentation: object, words: str) -> None:
    """pycocotools counts some of these as wrong detections, and crashes on others."""
    truth = random_truth(0)
    predictions = random_predictions(truth, 0)
    predictions[3]["segmentation"] = segmentation
    with pytest.raises(UserError, match=rf"prediction.*{re.escape(words)}"):
        evaluate(predictions, truth)


def test_predicted_polygons_and_run_lengths_are_scored_like_compressed_masks() -> None:
    truth = random_truth(1)
    predictions = random_predictions(truth, 2)
    expected = evaluate(predictions, truth, ("segm",))
    for place, prediction in enumerate(predictions):
        mask = coco_mask.decode(prediction["segmentation"])
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if place % 2:
            flat = np.concatenate([[0], mask.reshape(-1, order="F"), [2]])
            changes = np.flatnonzero(np.diff(flat))
            lengths = np.diff(np.concatenate([[0], changes])).tolist()
            prediction["segmentation"] = {"size": [SIDE, SIDE], "counts": lengths}
        else:
            x0, x1, y0, y1 = (int(v) for v in (columns[0], columns[-1] + 1, rows[0], rows[-1] + 1))
            prediction["segmentation"] = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    assert evaluate(predictions, truth, ("segm",)) == expected


def only(truth: dict[str, Any], category: int) -> dict[str, Any]:
    annotations = [a for a in truth["annotations"] if a["category_id"] == category]
    return {**truth, "annotations": annotations, "categories": [{"id": category, "name": str(category)}]}


def test_each_class_is_scored_as_if_it_were_alone() -> None:
    truth = random_truth(3)
    predictions = random_predictions(truth, 4)
    table = per_class(predictions, truth, "segm")
    assert list(table) == ["2", "5", "9", "11"]
    assert set(table["11"].values()) == {None}
    for category in (2, 5, 9):
        expected = oracle(
            only(truth, category), [p for p in predictions if p["category_id"] == category], "segm"
        )
        assert list(table[str(category)].values()) == [None if v == -100 else v for v in expected]


def test_sizes_in_cells_are_area_ranges_of_that_stride() -> None:
    truth = random_truth(2)
    predictions = random_predictions(truth, 5)
    figures = by_cells(predictions, truth, "segm", stride=32, edges=(0, 1, 3))
    assert list(figures) == ["0-1", "1-3", "3-"]
    assert list(figures.values()) == oracle(truth, predictions, "segm")[3:]  # 32 and 96 pixels are COCO's own


def test_the_band_along_an_outline() -> None:
    mask = np.zeros((300, 400), np.uint8)  # 2 % of the diagonal of 500 is 10 pixels
    mask[50:150, 0:200] = 1
    expected = mask.copy()
    expected[60:140, 10:190] = 0
    np.testing.assert_array_equal(coco_mask.decode(outline_band(encode(mask))), expected)


def test_boundary_ap_asks_more_of_outlines_than_mask_ap() -> None:
    truth = random_truth(6)
    predictions = random_predictions(truth, 7)
    perfect = [{**a, "score": 1.0} for a in truth["annotations"] if not a["iscrowd"]]
    assert evaluate(perfect, truth, ("boundary",))["boundary"]["AP"] == pytest.approx(100)
    figures = evaluate(predictions, truth, ("segm", "boundary"))
    assert 0 < figures["boundary"]["AP75"] < figures["segm"]["AP75"]  # type: ignore[operator]


def test_keypoints_are_scored_as_by_pycocotools() -> None:
    rng = np.random.default_rng(0)
    truth = random_truth(5)
    truth["categories"] = [{**c, "keypoints": [str(k) for k in range(17)]} for c in truth["categories"]]
    predictions = []
    for entry in truth["annotations"]:
        x, y, w, h = entry["bbox"]
        points = rng.uniform([x, y], [x + w, y + h], (17, 2))
        seen = rng.integers(0, 3, (17, 1))
        entry["keypoints"] = np.concatenate([points, seen], axis=1).reshape(-1).tolist()
        entry["num_keypoints"] = int((seen > 0).sum())
        moved = np.concatenate([points + rng.normal(0, 3, (17, 2)), np.ones((17, 1))], axis=1)
        result = {k: entry[k] for k in ("image_id", "category_id")}
        predictions.append({**result, "score": float(rng.random()), "keypoints": moved.reshape(-1).tolist()})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"info": {}, **truth}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(predictions), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = evaluate(predictions, truth, ("keypoints",), max_dets=20)["keypoints"]
    assert list(figures) == ["AP", "AP50", "AP75", "APm", "APl"]
    assert list(figures.values()) == [100 * float(v) for v in evaluation.stats[:5]]
    assert 5 < evaluation.stats[0] * 100 < 99


def test_a_result_without_what_the_metric_needs_is_named() -> None:
    truth = random_truth(1)
    predictions = random_predictions(truth, 9)
    del predictions[2]["segmentation"]
    with pytest.raises(UserError, match="prediction 2 has no segmentation"):
        evaluate(predictions, truth)
