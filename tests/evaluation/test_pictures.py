"""The picture of an evaluation shows the first images, and next to them those whose objects are found worst."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from maskrcnn.data.dataset import Dataset, Example
from maskrcnn.evaluation.evaluator import results_picture

GREYS = (40, 80, 120)  # of the three images
# Widths of the detections of an object 20 pixels wide: IoU 1, 0.25 and 0.5.
WIDTHS = (20, 5, 10)
IDS = (7, 5, 9)


class Greys:
    categories = ({"id": 1, "name": "x"},)

    def __len__(self) -> int:
        return len(GREYS)

    def image_id(self, index: int) -> int:
        return IDS[index]

    def read(self, index: int) -> Example:
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
        return Example(np.full((60, 60, 3), GREYS[index], np.uint8), IDS[index], *nothing, masks=[])


def entry(image_id: int, width: int, **more: Any) -> dict[str, Any]:
    box = [20.0, 40.0, float(width), 10.0]
    return {"image_id": image_id, "category_id": 1, "bbox": box, "area": 10.0 * width, "iscrowd": 0, **more}


TRUTH = {
    "images": [{"id": image_id, "height": 60, "width": 60} for image_id in IDS],
    "annotations": [entry(image_id, 20, id=n + 1) for n, image_id in enumerate(IDS)],
    "categories": Greys.categories,
}
FOUND = {i: [entry(i, width, score=0.9)] for i, width in zip(IDS, WIDTHS, strict=True)}


@pytest.mark.parametrize(("kind", "worst"), [("bbox", [80, 120]), (None, [255, 255])])
def test_the_third_column_begins_with_the_lowest_iou(kind: str | None, worst: list[int]) -> None:
    picture = results_picture(cast(Dataset, Greys()), FOUND, TRUTH, kind, most=2)
    assert picture is not None
    assert picture.shape == (30 + 2 * 426, 3 * 426, 3)
    picture = picture[30:]  # without the columns' names
    corner = picture[414::426, 414::426, 0]  # of every panel, bottom right, where nothing is drawn
    assert corner.tolist() == [[40, 40, worst[0]], [80, 80, worst[1]]]
    white = (picture[:420, 852:1272] == 255).all(-1)
    if kind is not None:  # the object's right edge, which the detection does not reach
        assert white[300:340, 270:290].any()
        assert not white[370:, 300:].any()


def test_no_picture_without_an_image() -> None:
    assert results_picture(cast(Dataset, Greys()), {}, TRUTH, "bbox", most=0) is None
