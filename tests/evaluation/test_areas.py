"""Area ranges of one's own, and tables of classes, against pycocotools told the same."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn.errors import UserError
from maskrcnn.evaluation import metrics
from maskrcnn.evaluation.coco import evaluate, per_class
from tests.evaluation.test_coco import random_predictions, random_truth

RANGES = {"tiny": [0, 400], "middling": [400, 4000.5], "huge": [4000.5, None]}


def oracle(truth: dict[str, Any], predictions: list[dict[str, Any]], kind: str) -> np.ndarray:
    """Mean precision ``[K, A]`` of pycocotools with these ranges, -1 where there is nothing to find."""
    left_out = "bbox" if kind == "segm" else "segmentation"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"info": {}, **truth}
        coco.createIndex()
        results = coco.loadRes([{k: v for k, v in p.items() if k != left_out} for p in predictions])
        evaluation = COCOeval(coco, results, kind)
        evaluation.params.areaRng = [[0, 1e10], [0, 400], [400, 4000.5], [4000.5, 1e10]]
        evaluation.params.areaRngLbl = ["all", *RANGES]
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"][..., -1].mean(axis=(0, 1)))


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_ranges_of_ones_own_are_pycocotools_area_ranges(kind: str, backend: str) -> None:
    truth = random_truth(1)
    predictions = random_predictions(truth, 8)
    expected = oracle(truth, predictions, kind)
    figures = evaluate(predictions, truth, (kind,), backend=backend, area_ranges=RANGES)[kind]
    assert list(figures) == ["AP", "AP50", "AP75", "APtiny", "APmiddling", "APhuge"]
    found = [figures[name] for name in ("AP", "APtiny", "APmiddling", "APhuge")]
    assert found == pytest.approx([100 * row[row > -1].mean() for row in expected.T], abs=1e-9)
    assert len({round(value, 6) for value in found if value is not None}) == 4
    table = per_class(predictions, truth, kind, area_ranges=RANGES, backend=backend)
    for row, name in zip(expected, ("2", "5", "9", "11"), strict=True):
        values = [table[name][figure] for figure in ("AP", "APtiny", "APmiddling", "APhuge")]
        assert values == [None if v == -1 else pytest.approx(100 * v, abs=1e-9) for v in row]


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ({"tiny": [10, 5]}, r"area_ranges\.tiny=\[10, 5\]: expected \[least, most\]"),
        ({"tiny": 5}, r"area_ranges\.tiny=5: expected"),
        ({"tiny": [0, "x"]}, "expected"),
        ({"tiny": [-1, 4]}, "expected"),
        ({"tiny": [0, float("inf")]}, r"null\] for no limit"),
        ({"50": [0, 9]}, "has the name '50', but AP50 is another figure"),
    ],
)
def test_what_is_no_range_is_refused(ranges: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        evaluate([], random_truth(0), area_ranges=ranges)


def test_vocs_figures_are_the_means_of_its_classes() -> None:
    truth = random_truth(3)
    predictions = random_predictions(truth, 5)
    table = metrics.per_class(predictions, truth, "voc")["voc"]
    figures = metrics.evaluate(predictions, truth, "voc")["voc"]
    assert set(table["11"].values()) == {None}  # no object of that class
    for name in ("AP", "AP07", "APr50", "APr70"):
        assert figures[name] == pytest.approx(np.mean([table[c][name] for c in ("2", "5", "9")]))
        alone = [p for p in predictions if p["category_id"] == 5]
        of_class = {**truth, "annotations": [a for a in truth["annotations"] if a["category_id"] == 5]}
        assert metrics.evaluate(alone, of_class, "voc")["voc"][name] == pytest.approx(table["5"][name])


def test_results_are_scored_for_what_all_of_them_have() -> None:
    truth = random_truth(3)
    both = random_predictions(truth, 5)
    masks = [{k: v for k, v in p.items() if k != "bbox"} for p in both]
    assert set(metrics.evaluate(both, truth)) == {"bbox", "segm"}
    assert metrics.evaluate(masks, truth) == {"segm": metrics.evaluate(both, truth)["segm"]}
    assert set(metrics.evaluate([], truth)) == {"bbox"}
    points = [{k: p[k] for k in ("image_id", "category_id", "score")} for p in both]
    assert metrics.kinds_of([{**p, "keypoints": [1, 2, 2]} for p in points]) == ("keypoints",)
