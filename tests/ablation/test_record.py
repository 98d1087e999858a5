"""What is kept of a run, against pycocotools and counting by hand."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn.ablation.record import instance_ious, manifest, network_scale, path_of, read_all, scores, write


def rle(mask: np.ndarray) -> dict[str, Any]:
    found = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": found["size"], "counts": found["counts"].decode()}


def rectangle(x: int, y: int, w: int, h: int) -> dict[str, Any]:
    mask = np.zeros((100, 100), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return rle(mask)


def scene(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Three images of rectangles of two classes, and detections of some of them, jittered."""
    rng = np.random.default_rng(seed)
    annotations, predictions = [], []
    for image_id in (1, 2, 3):
        for _ in range(6):
            x, y, w, h = (int(v) for v in (*rng.integers(0, 55, 2), *rng.integers(8, 45, 2)))
            category = int(rng.integers(1, 3))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": rectangle(x, y, w, h),
                }
            )
            if rng.random() < 0.8:
                dx = int(rng.integers(0, 5))
                box = [x + dx, y, w, h]
                predictions.append(
                    {
                        "image_id": image_id,
                        "category_id": category,
                        "bbox": box,
                        "score": float(rng.random()),
                        "segmentation": rectangle(*box),
                    }
                )
    images = [{"id": i, "height": 100, "width": 100, "file_name": f"{i}.png"} for i in (1, 2, 3)]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    return {"images": images, "annotations": annotations, "categories": categories}, predictions


def alone(truth: dict[str, Any], predictions: list[dict[str, Any]], image_id: int, kind: str) -> float:
    """pycocotools' AP of a data set of one image."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        own = [a for a in truth["annotations"] if a["image_id"] == image_id]
        images = [i for i in truth["images"] if i["id"] == image_id]
        coco.dataset = {**truth, "images": images, "annotations": own, "info": {}}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes([p for p in predictions if p["image_id"] == image_id]), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * float(evaluation.stats[0])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_an_images_score_is_the_ap_of_a_data_set_of_that_image(seed: int, kind: str) -> None:
    truth, predictions = scene(seed)
    record = scores(predictions, truth, ["bbox", "segm"], 100, [0, 20])
    for image_id, score in zip((1, 2, 3), record["per_image"][kind], strict=True):
        assert score == pytest.approx(alone(truth, predictions, image_id, kind), abs=1e-3)


def test_thresholds_and_sizes_belong_together() -> None:
    truth, predictions = scene(0)
    record = scores(predictions, truth, ["segm"], 100, [0, 20, 30])
    by_iou = record["by_iou"]["segm"]["all"]
    assert np.mean(by_iou) == pytest.approx(record["metrics"]["segm"]["AP"], abs=1e-3)
    assert by_iou[0] == pytest.approx(record["metrics"]["segm"]["AP50"], abs=1e-3)
    assert by_iou[5] == pytest.approx(record["metrics"]["segm"]["AP75"], abs=1e-3)
    assert by_iou[0] > by_iou[9]
    assert len(record["by_size"]["segm"]) == 3
    sides = [a["area"] ** 0.5 for a in truth["annotations"] if not a.get("iscrowd", 0)]
    ranges = [(0, 20), (20, 30), (30, np.inf)]
    assert record["by_size"]["objects"] == [sum(low <= s <= high for s in sides) for low, high in ranges]


def test_ious_are_those_of_each_objects_own_mask() -> None:
    truth, _ = scene(0)
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] == 1][:3]
    boxes = [[0, 0, 10, 10], [0, 0, 20, 10], [50, 50, 10, 10]]
    for annotation, box in zip(truth["annotations"], boxes, strict=True):
        annotation |= {"bbox": box, "area": box[2] * box[3], "segmentation": rectangle(*box)}
    given = [[0, 0, 20, 10], [0, 0, 10, 10]]  # in another order than the objects; the third has none
    masks = [[0, 0, 10, 10], [0, 0, 10, 10]]
    predictions = [
        {"image_id": 1, "category_id": 1, "score": 1.0, "bbox": box, "segmentation": rectangle(*mask)}
        for box, mask in zip(given, masks, strict=True)
    ]
    assert instance_ious(predictions, truth) == {
        "id": [a["id"] for a in truth["annotations"]],
        "image": [1, 1, 1],
        "area": [100.0, 200.0, 100.0],
        "iou": [100.0, 50.0, 0.0],
    }


def test_a_record_lists_what_each_session_was_made_with(tmp_path: Path) -> None:
    """In their order; without a list of sessions, the reading process alone is known."""
    config = {"seed": 3, "place": "/home/somebody/data/coco/train"}
    alone = manifest(tmp_path, config, 1.26, {"peak_memory_mib": 9.6})
    assert (alone["commit"], alone["machine"]) == ("unknown", "unknown")
    assert alone["config"] == {"seed": 3, "place": ".../data/coco/train"}
    assert (alone["seconds"], alone["peak_memory_mib"]) == (1.3, 10)
    made = [("bbb", "one"), ("aaa", "one"), ("bbb", "two")]
    lines = [{"step": 0, "commit": c, "machine": m, "versions": {"torch": c}} for c, m in made]
    (tmp_path / "sessions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    several = manifest(tmp_path, config, 1.0, {})
    assert (several["commit"], several["machine"]) == ("bbb, aaa", "one; two")
    assert several["versions"] == {"torch": "bbb"}


def test_records_of_version_0_1_0_are_read_next_to_new_ones(tmp_path: Path) -> None:
    """They lie in the folder cells/, and a new version of one stays there."""
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "b.json").write_text('{"id": "b", "scale": "shapes"}')
    write(tmp_path, {"id": "a", "data": "shapes"})
    assert path_of(tmp_path, "a") == tmp_path / "records" / "a.json"
    assert [r["id"] for r in read_all(tmp_path)] == ["a", "b"]
    write(tmp_path, {"id": "b", "data": "shapes"})
    assert [r.get("data") for r in read_all(tmp_path)] == ["shapes", "shapes"]


def test_the_median_object_is_counted_by_hand(tmp_path: Path) -> None:
    truth, predictions = scene(0)
    sides = sorted(a["area"] for a in truth["annotations"])
    middle = (sides[len(sides) // 2] + sides[(len(sides) - 1) // 2]) / 2
    record = scores(predictions, truth, ["bbox"], 100, [0, 20])
    assert record["by_size"]["median"] == pytest.approx(middle**0.5, abs=0.01)


def test_the_networks_scale_is_the_median_and_respects_the_longer_side() -> None:
    images = [{"height": 100, "width": 200}, {"height": 400, "width": 400}, {"height": 100, "width": 1000}]
    assert network_scale({"images": images}, None, None) == 1.0
    assert network_scale({"images": images}, 200, None) == 2.0
    assert network_scale({"images": images}, 200, 300) == 0.5
