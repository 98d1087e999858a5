"""What is drawn where: masks, boxes, thresholds, sheets."""

import numpy as np
from pycocotools import mask as coco_mask

from maskrcnn.prediction.draw import draw_results, sheet, side_by_side


def result(**changes: object) -> dict[str, object]:
    mask = np.zeros((60, 80), np.uint8, order="F")
    mask[20:40, 30:50] = 1
    return {
        "category_id": 3,
        "bbox": [30.0, 20.0, 20.0, 20.0],
        "segmentation": coco_mask.encode(mask),
        **changes,
    }


def test_the_mask_is_coloured_and_the_rest_is_not() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    drawn = draw_results(image, [result(score=0.9)], {3: "x"})
    assert drawn[25:35, 35:45].max() > 60
    assert drawn[45:, :].max() == 0
    assert image.max() == 0


def test_low_scores_and_crowds_are_left_out_and_annotations_are_drawn() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    assert draw_results(image, [result(score=0.4)], {3: "x"}, score_threshold=0.5).max() == 0
    assert draw_results(image, [result(iscrowd=1)], {3: "x"}).max() == 0
    assert draw_results(image, [result()], {3: "x"}).max() > 0


def test_a_sheet_holds_pictures_of_any_size() -> None:
    pictures = [
        np.full((h, w, 3), 9 * n, np.uint8) for n, (h, w) in enumerate(((30, 60), (90, 60), (50, 200)))
    ]
    out = sheet(pictures, columns=2, width=120)
    assert out.shape == (180 + 6 + 30 + 6, 252, 3)
    assert [int(out[y, x, 0]) for y, x in ((5, 5), (5, 130), (200, 5))] == [0, 9, 18]
    assert side_by_side(pictures[0], pictures[0]).shape == (30, 124, 3)


def test_a_sheet_is_bounded_whatever_the_pictures_are() -> None:
    strips = [
        np.zeros((5000, 1, 3), np.uint8),
        np.zeros((1, 5000, 3), np.uint8),
        np.zeros((2000, 10, 3), np.uint8),
    ]
    out = sheet(strips, columns=2, width=64)
    assert out.shape[1] == 2 * 70
    assert out.shape[0] <= 2 * (5000 + 6)
    assert out.shape[0] * out.shape[1] < 2_000_000
