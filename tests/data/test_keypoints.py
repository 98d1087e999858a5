"""COCO's keypoints read and written back, and left and right."""

import numpy as np
import pytest

from maskrcnn.data.keypoints import from_coco, mirror_order, to_coco

COCO_PERSON = (
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist "  # noqa: SIM905
    "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle".split()
)


def test_the_mirror_of_cocos_person() -> None:
    assert mirror_order(COCO_PERSON) == [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


def test_names_without_another_side_stay() -> None:
    assert mirror_order(["left_wing", "beak", "tail_right", "tail_left"]) == [0, 1, 3, 2]


def test_coco_counts_pixels_and_we_measure_from_the_corner() -> None:
    points = from_coco([10, 20, 2, 0, 0, 0, 7.5, 3, 1])
    np.testing.assert_array_equal(points, np.array([[10.5, 20.5, 2], [0, 0, 0], [8, 3.5, 1]], np.float32))
    assert to_coco(points[[0, 2]]) == [10, 20, 2, 7.5, 3, 1]


def test_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="reshape"):
        from_coco([1, 2, 3, 4])
