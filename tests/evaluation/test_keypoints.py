"""COCO's keypoint metric with keypoints of any number."""

from __future__ import annotations

import math
from typing import Any

import pytest

from maskrcnn.errors import UserError
from maskrcnn.evaluation.coco import evaluate
from maskrcnn.evaluation.keypoints import PERSON, oks_sigmas
from maskrcnn.evaluation.metrics import kinds_of

AREA, SIGMA = 2500.0, 0.05


def category(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "name": "x", "keypoints": ["a", "b"], "sigmas": [SIGMA, SIGMA], **changes}


def data(*categories: dict[str, Any], points: list[float]) -> dict[str, Any]:
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50], "area": AREA}
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": 90, "width": 90}],
        "annotations": [{**annotation, "keypoints": points}],
        "categories": list(categories),
    }


def found(shift: float) -> list[dict[str, Any]]:
    points = [20 + shift, 20, 0.9, 40, 40, 0.9]
    return [{"image_id": 1, "category_id": 1, "score": 0.9, "bbox": [0, 0, 1, 1], "keypoints": points}]


@pytest.mark.parametrize("shift", [0.0, 1.5, 3.0, 5.0, 9.0])
def test_ap_follows_the_formula_of_object_keypoint_similarity(shift: float) -> None:
    """OKS is the mean over labelled keypoints of exp(-d^2 / (2 s^2 k^2)) with k = 2 sigma, s^2 the area."""
    similarity = (math.exp(-(shift**2) / (2 * AREA * (2 * SIGMA) ** 2)) + 1) / 2
    truth = data(category(), points=[20, 20, 2, 40, 40, 1])
    metrics = evaluate(found(shift), truth, ("keypoints",), max_dets=20)["keypoints"]
    thresholds = [0.5 + 0.05 * n for n in range(10)]
    passed = sum(similarity >= t for t in thresholds)
    assert metrics["AP"] == pytest.approx(100 * passed / 10)
    assert set(metrics) == {"AP", "AP50", "AP75", "APm", "APl"}


def test_only_labelled_keypoints_count_and_other_categories_have_no_part() -> None:
    truth = data(category(), {"id": 2, "name": "no keypoints"}, points=[70, 70, 0, 40, 40, 2])
    assert evaluate(found(0.0), truth, ("keypoints",), max_dets=20)["keypoints"]["AP"] == pytest.approx(100)
    unlabelled = data(category(), points=[0, 0, 0, 0, 0, 0])
    assert evaluate(found(0.0), unlabelled, ("keypoints",), max_dets=20)["keypoints"]["AP"] is None


@pytest.mark.parametrize(("better", "ap"), [(19, 5), (20, 0)])
def test_twenty_detections_of_an_image_count(better: int, ap: float) -> None:
    """The only correct detection comes after ``better`` wrong ones: precision is 1 / 20, or it does not count."""
    wrong = [{**found(500.0)[0], "score": 0.95} for _ in range(better)]
    metrics = evaluate([*wrong, *found(0.0)], data(category(), points=[20, 20, 2, 60, 60, 0]), ("keypoints",))
    assert metrics["keypoints"]["AP50"] == pytest.approx(ap)


def test_sigmas() -> None:
    assert oks_sigmas([category(keypoints=list("abcdefghijklmnopq"), sigmas=None)]).tolist() == list(PERSON)
    assert oks_sigmas([category(), {"id": 2, "name": "y"}]).tolist() == [SIGMA, SIGMA]
    for wrong in (None, [0.1], [0.1, -1], [0.1, "a"], 0.1):
        with pytest.raises(UserError, match="category 1 has 2 keypoints and sigmas="):
            oks_sigmas([category(sigmas=wrong)])
    with pytest.raises(UserError, match="one set of sigmas, but the categories have 2"):
        oks_sigmas([category(), category(id=2, sigmas=[0.1, 0.2])])


def test_kinds_of() -> None:
    assert kinds_of(found(0)) == ("bbox", "keypoints")
    assert kinds_of([]) == ("bbox",)
