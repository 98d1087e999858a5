"""Files of results, matched to the annotations by file name or id, with masks in every form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from maskrcnn.errors import UserError
from maskrcnn.evaluation.coco import evaluate, load_ground_truth
from maskrcnn.evaluation.results import read_results

NAMES = {4: "b.png", 7: "sub/a.png"}
RUNS = [2 * 20 + 5, *[6, 14] * 4, 6, 20 * 30 - 45 - 4 * 20 - 6]  # rows 5..10 of columns 2..6


def mask() -> Any:
    bits = np.zeros((20, 30), np.uint8, order="F")
    bits[5:11, 2:7] = 1
    return bits


@pytest.fixture
def truth() -> COCO:
    rle = coco_mask.encode(mask())
    segmentation = {"size": [20, 30], "counts": rle["counts"].decode()}
    return load_ground_truth(
        {
            "images": [{"id": n, "file_name": name, "height": 20, "width": 30} for n, name in NAMES.items()],
            "categories": [{"id": 2, "name": "x"}],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 2, "bbox": [2, 5, 5, 6], "area": 30, "iscrowd": 0}
                | {"segmentation": segmentation}
                for n in NAMES
            ],
        }
    )


def read(tmp_path: Path, truth: COCO, *results: Any) -> list[dict[str, Any]]:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    return read_results(path, truth)


def result(**changes: Any) -> dict[str, Any]:
    return {"image_id": 4, "category_id": 2, "score": 0.9, "bbox": [2, 5, 5, 6], **changes}


@pytest.mark.parametrize(
    ("changes", "image_id"),
    [
        ({"image_id": 7}, 7),
        ({"image_id": "7"}, 7),
        ({"image_id": 7.0}, 7),
        ({"image_id": "a"}, 7),
        ({"image_id": "b.png"}, 4),
        ({"image_id": 1, "file_name": "b.png"}, 4),
        ({"image_id": 4, "file_name": "sub/a.png"}, 7),
        ({"image_id": 4, "file_name": "a.png"}, 7),
        ({"image_id": 4, "file_name": "C:\\photos\\a.png"}, 7),
    ],
)
def test_the_image_is_that_of_the_name_then_that_of_the_id(
    tmp_path: Path, truth: COCO, changes: dict[str, Any], image_id: int
) -> None:
    (found,) = read(tmp_path, truth, result(**changes))
    assert found["image_id"] == image_id


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_id": 9}, "prediction 0 has image_id=9, but the annotations list no such image"),
        ({"image_id": True}, "prediction 0 has image_id=True"),
        ({"file_name": "z.png"}, r"file z\.png, which is none of the annotations', whose image 4 is b\.png"),
        ({"category_id": 5}, "prediction 0 has category_id=5"),
        ({"score": "high"}, "prediction 0 has score='high'; expected a number"),
        ({"score": float("nan")}, "prediction 0 has score=nan"),
        ({"bbox": [1, 2, 3]}, r"prediction 0 has bbox=\[1, 2, 3\]; expected"),
        (
            {"segmentation": {"size": [30, 20], "counts": RUNS}},
            "prediction 0: its RLE is for an image of size",
        ),
        ({"segmentation": {"size": [20, 30], "counts": "~~"}}, "prediction 0: its RLE string is damaged"),
        ({"segmentation": {"size": [20, 30], "counts": [5]}}, "prediction 0: its RLE describes 5 pixels"),
    ],
)
def test_what_cannot_be_matched_or_scored_is_refused(
    tmp_path: Path, truth: COCO, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        read(tmp_path, truth, result(**changes))


def test_what_is_no_list_of_results_is_refused(tmp_path: Path, truth: COCO) -> None:
    with pytest.raises(UserError, match="prediction 0 is a int, not a COCO result"):
        read(tmp_path, truth, 5)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match="a list of COCO results, not a dict"):
        read_results(tmp_path / "a.json", truth)


@pytest.mark.parametrize("form", ["compressed", "uncompressed", "polygons"])
def test_masks_of_every_form_score_the_same(tmp_path: Path, truth: COCO, form: str) -> None:
    segmentation: Any = {
        "compressed": {"size": [20, 30], "counts": coco_mask.encode(mask())["counts"].decode()},
        "uncompressed": {"size": [20, 30], "counts": RUNS},
        "polygons": [[2, 5, 7, 5, 7, 11, 2, 11]],
    }[form]
    found = read(tmp_path, truth, *(result(image_id=n, segmentation=segmentation) for n in NAMES))
    np.testing.assert_array_equal(coco_mask.decode(found[0]["segmentation"]), mask())
    assert evaluate(found, truth, ("segm",))["segm"]["AP"] == pytest.approx(100)
