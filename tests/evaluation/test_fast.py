"""faster-coco-eval against pycocotools: precision and recall of everything, wherever they might differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.scoring import generate, pycocotools_figures
from maskrcnn.evaluation.coco import accumulate, evaluate, load_ground_truth
from tests.data.conftest import real_data
from tests.evaluation.test_coco import random_predictions, random_truth

__all__ = ["real_data"]
pytest.importorskip("faster_coco_eval", reason="the extra package faster-coco-eval is not installed")
Content = dict[str, Any]
Results = list[dict[str, Any]]


def changed(truth: Content, **changes: Any) -> Content:
    return {**truth, "annotations": [{**entry, **changes} for entry in truth["annotations"]]}


# What the two might take differently: annotations, detections, and the settings of `accumulate`.
CASES: dict[str, tuple[Callable[[Content], Content], Callable[[Results], Results], dict[str, Any]]] = {
    "as it is": (lambda t: t, lambda p: p, {}),
    "one detection": (lambda t: t, lambda p: p, {"max_dets": 1}),
    "five detections": (lambda t: t, lambda p: p, {"max_dets": 5}),
    "more detections than there are": (lambda t: t, lambda p: p, {"max_dets": 500}),
    "areas that touch": (lambda t: t, lambda p: p, {"areas": {"a": (0, 576.0), "b": (576.0, 1e10)}}),
    "some images": (lambda t: t, lambda p: p, {"image_ids": [2, 3, 7]}),
    "all crowd": (lambda t: changed(t, iscrowd=1), lambda p: p, {}),
    "an ignore flag, which COCO overrules": (lambda t: changed(t, ignore=1), lambda p: p, {}),
    "the id 0": (
        lambda t: {**t, "annotations": [{**a, "id": a["id"] - 1} for a in t["annotations"]]},
        lambda p: p,
        {},
    ),
    "everything in reverse": (
        lambda t: {k: v[::-1] for k, v in t.items()},
        lambda p: p[::-1],
        {},
    ),
    "equal scores": (lambda t: t, lambda p: [{**r, "score": 0.5} for r in p], {}),
    "equal scores, three detections": (
        lambda t: t,
        lambda p: [{**r, "score": 0.5} for r in p],
        {"max_dets": 3},
    ),
    "nothing found": (lambda t: t, lambda p: [], {}),
    "nothing to find": (lambda t: {**t, "annotations": []}, lambda p: p, {}),
}


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("case", CASES)
def test_every_precision_and_recall_is_pycocotools(case: str, kind: str) -> None:
    of_truth, of_predictions, settings = CASES[case]
    for seed in range(3):
        truth = of_truth(random_truth(seed))
        predictions = of_predictions(random_predictions(random_truth(seed), seed + 50))
        found = []
        for fast in (False, True):
            coco = load_ground_truth(truth)
            arguments = {"max_dets": 100, "image_ids": sorted(coco.getImgIds()), **settings}
            found.append(accumulate(predictions, coco, kind, fast=fast, **arguments).eval)
        for what in ("precision", "recall"):
            slow, quick = (np.asarray(evaluation[what]) for evaluation in found)
            np.testing.assert_allclose(quick, slow, rtol=0, atol=1e-12)


def test_generated_detections_are_neither_perfect_nor_hopeless_and_score_the_same() -> None:
    truth, predictions = generate(40, 36)
    assert len(predictions) == 40 * 36
    assert {a["iscrowd"] for a in truth["annotations"]} == {0, 1}
    for kind in ("bbox", "segm"):
        expected = pycocotools_figures(truth, predictions, kind)
        assert 20 < expected[0] < 80
        figures = evaluate(predictions, truth, (kind,), fast=True)[kind]
        assert list(figures.values()) == pytest.approx(expected, abs=1e-9)


def test_coco_with_its_crowds_and_polygons_scores_the_same(real_data: Callable[[str], Path]) -> None:
    path = real_data("coco_subset") / "annotations" / "instances_val2017.json"
    coco = load_ground_truth(path)
    rng = np.random.default_rng(0)
    predictions = []
    for entry in coco.dataset["annotations"]:
        x, y, w, h = entry["bbox"]
        box = [x + rng.normal(0, 0.1 * w), y, w * rng.uniform(0.8, 1.2), h]
        result = {k: entry[k] for k in ("image_id", "category_id")}
        rle = coco.annToRLE(entry)
        mask = {**rle, "counts": rle["counts"].decode()}
        predictions.append({**result, "score": float(rng.random()), "bbox": box, "segmentation": mask})
    slow, quick = (evaluate(predictions, path, fast=fast) for fast in (False, True))
    for kind in ("bbox", "segm"):
        assert list(quick[kind].values()) == pytest.approx(list(slow[kind].values()), abs=1e-9)
