"""hotcoco against pycocotools: precision, recall and matches of everything, wherever they might differ."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.scoring import generate, pycocotools_metrics
from maskrcnn.data.masks import encode
from maskrcnn.errors import UserError
from maskrcnn.evaluation.backends import BACKENDS, Accumulated, chosen_backend
from maskrcnn.evaluation.coco import accumulate, by_cells, evaluate, load_ground_truth, per_class
from maskrcnn.evaluation.diagnosis import analyse
from maskrcnn.evaluation.recall import average_recall
from maskrcnn.evaluation.settings import COCO_AREAS
from tests.data.conftest import real_data
from tests.evaluation.test_coco import random_predictions, random_truth

__all__ = ["real_data"]
Content = dict[str, Any]
Results = list[dict[str, Any]]
SIDE = 160


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


def random_set(seed: int) -> tuple[Content, Results]:
    """Objects and detections with sides at COCO's limits (32 and 96 pixels), crowds, ties, empty images, keypoints.

    The second image has no object, the third no detection, the fourth neither, the fifth 130 detections of a class.
    """
    rng = np.random.default_rng(seed)
    annotations: Results = []
    results: Results = []
    for image_id in range(1, 9):
        objects = 0 if image_id in (2, 4) else int(rng.integers(1, 7))
        for _ in range(objects):
            entry = _random_object(rng, image_id)
            annotations.append({**entry, "id": len(annotations) + 1, "iscrowd": int(rng.random() < 0.15)})
            results += [_moved(entry, rng) for _ in range(rng.integers(0, 4)) if image_id != 3]
        others = {2: 5, 3: 0, 4: 0, 5: 130}.get(image_id, 3)
        results += [_moved({**_random_object(rng, image_id), "category_id": 2}, rng) for _ in range(others)]
    images = [{"id": i, "height": SIDE, "width": SIDE} for i in range(1, 9)]
    names = [str(k) for k in range(17)]
    categories = [{"id": i, "name": f"class {i}", "keypoints": names} for i in (2, 5, 9, 11)]
    order = rng.permutation(len(results))
    content = {"images": images, "annotations": annotations, "categories": categories}
    return content, [results[i] for i in order]


def _random_object(rng: np.random.Generator, image_id: int) -> dict[str, Any]:
    w, h = (int(v) for v in rng.choice([1, 8, 31, 32, 33, 95, 96, 97, 128], 2))
    x, y = (int(rng.integers(0, SIDE - side)) for side in (w, h))
    points = rng.uniform([x, y], [x + w, y + h], (17, 2)).round(1)
    seen = rng.integers(0, 3, (17, 1)) * (rng.random() < 0.8)
    return {
        "image_id": image_id,
        "category_id": int(rng.choice([2, 5, 9])),
        "bbox": [x, y, w, h],
        "area": w * h if rng.random() < 0.7 else float(rng.choice([32**2, 96**2, 32**2 + 0.5])),
        "segmentation": encode(_rectangle(x, y, w, h)),
        "keypoints": np.concatenate([points, seen], axis=1).reshape(-1).tolist(),
        "num_keypoints": int((seen > 0).sum()),
    }


def _rectangle(x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def _moved(entry: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A detection near an object, or on it, with a score of a coarse grid."""
    shift = rng.integers(-6, 7, 4) * rng.integers(0, 2, 4)
    x, y, w, h = (int(v) for v in np.add(entry["bbox"], shift))
    x, y, w, h = min(max(x, 0), SIDE - 1), min(max(y, 0), SIDE - 1), max(w, 1), max(h, 1)
    points = np.array(entry["keypoints"]).reshape(17, 3)
    points[:, :2] += rng.normal(0, 2, (17, 2)) * rng.integers(0, 2)
    category = entry["category_id"] if rng.random() < 0.85 else int(rng.choice([2, 5, 9, 11]))
    return {
        "image_id": entry["image_id"],
        "category_id": category,
        "score": float(rng.integers(0, 11)) / 10,
        "bbox": [x, y, w, h],
        "segmentation": encode(_rectangle(x, y, w, h)),
        "keypoints": points.reshape(-1).tolist(),
    }


def largest_difference(one: Accumulated, other: Accumulated) -> float:
    """Of any precision or recall; the matches of each image, class and area range have to be the same."""
    matches = [
        {
            (e["category_id"], tuple(e["aRng"]), e["image_id"]): (
                np.asarray(e["dtMatches"], np.int64).tolist(),
                np.asarray(e["dtIgnore"], bool).tolist(),
                np.asarray(e["gtIgnore"], bool).tolist(),
            )
            for e in filter(None, evaluation.evaluation.evalImgs)
        }
        for evaluation in (one, other)
    ]
    assert matches[0] == matches[1]
    pairs = [(np.asarray(one.eval[what]), np.asarray(other.eval[what])) for what in ("precision", "recall")]
    assert all(a.shape == b.shape and a.size for a, b in pairs)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("case", CASES)
def test_every_precision_recall_and_match_is_pycocotools(case: str, kind: str) -> None:
    of_truth, of_predictions, settings = CASES[case]
    for seed in range(3):
        truth = of_truth(random_truth(seed))
        predictions = of_predictions(random_predictions(random_truth(seed), seed + 50))
        coco = load_ground_truth(truth)
        arguments = {"max_dets": 100, "image_ids": sorted(coco.getImgIds()), **settings}
        found = [accumulate(predictions, coco, kind, backend=backend, **arguments) for backend in BACKENDS]
        assert largest_difference(*found) == 0


@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(s, marks=pytest.mark.slow) for s in range(6, 46))]
)
def test_random_sets_are_scored_the_same(seed: int) -> None:
    truth, predictions = random_set(seed)
    coco = load_ground_truth(truth)
    ids = sorted(coco.getImgIds())
    for kind, most in (("bbox", 100), ("bbox", 200), ("segm", 100), ("keypoints", 20)):
        found = [accumulate(predictions, coco, kind, most, ids, COCO_AREAS, backend) for backend in BACKENDS]
        assert largest_difference(*found) == 0
    for kind in ("bbox", "segm", "keypoints"):
        whole, classes = (
            [function(predictions, truth, of, backend=backend) for backend in BACKENDS]
            for function, of in ((evaluate, (kind,)), (per_class, kind))
        )
        assert whole[0] == whole[1]
        assert classes[0] == classes[1]
    cells, analyses, recalls = (
        [by_cells(predictions, truth, "segm", 16, backend=backend) for backend in BACKENDS],
        [analyse(predictions, truth, "segm", backend=backend) for backend in BACKENDS],
        [average_recall(predictions, truth, 100, ids, backend) for backend in BACKENDS],
    )
    assert cells[0] == cells[1]
    np.testing.assert_array_equal(analyses[0].precision, analyses[1].precision)
    assert recalls[0] == recalls[1]


def test_random_sets_hold_what_they_are_for() -> None:
    truth, predictions = random_set(0)
    images = {p["image_id"] for p in predictions}
    assert images == {1, 2, 5, 6, 7, 8}
    assert {a["iscrowd"] for a in truth["annotations"]} == {0, 1}
    assert sum(p["image_id"] == 5 and p["category_id"] == 2 for p in predictions) > 100
    assert {32**2, 96**2} <= {a["area"] for s in range(5) for a in random_set(s)[0]["annotations"]}
    for kind in ("bbox", "segm", "keypoints"):
        assert 5 < evaluate(predictions, truth, (kind,))[kind]["AP"] < 90  # type: ignore[operator]


def test_generated_detections_are_neither_perfect_nor_hopeless_and_score_the_same() -> None:
    truth, predictions = generate(40, 36)
    assert len(predictions) == 40 * 36
    assert {a["iscrowd"] for a in truth["annotations"]} == {0, 1}
    for kind in ("bbox", "segm"):
        expected = pycocotools_metrics(truth, predictions, kind)
        assert 20 < expected[0] < 80
        assert list(evaluate(predictions, truth, (kind,), backend="hotcoco")[kind].values()) == expected


def noisy(path: Path) -> tuple[Any, Results]:
    """The annotations of a file, and detections near them with random scores."""
    coco = load_ground_truth(path)
    rng = np.random.default_rng(0)
    predictions = []
    for entry in coco.dataset["annotations"]:
        x, y, w, h = entry["bbox"]
        box = [x + rng.normal(0, 0.1 * w), y, w * rng.uniform(0.8, 1.2), h]
        result = {k: entry[k] for k in ("image_id", "category_id")}
        mask = {**(rle := coco.annToRLE(entry)), "counts": rle["counts"].decode()}
        predictions.append({**result, "score": float(rng.random()), "bbox": box, "segmentation": mask})
    return coco, predictions


def test_coco_with_its_crowds_and_polygons_scores_the_same(real_data: Callable[[str], Path]) -> None:
    truth, predictions = noisy(real_data("coco_subset") / "annotations" / "instances_val2017.json")
    for kind in ("bbox", "segm"):
        found = [
            accumulate(predictions, truth, kind, 100, sorted(truth.getImgIds()), None, backend)
            for backend in BACKENDS
        ]
        assert largest_difference(*found) == 0


def test_a_package_that_is_not_installed_or_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_backend(None) == "hotcoco"
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    assert chosen_backend(None) == chosen_backend("pycocotools") == "pycocotools"
    with pytest.raises(
        UserError, match=r"needs the package hotcoco: pip install hotcoco, or give .*pycocotools"
    ):
        chosen_backend("hotcoco")
    with pytest.raises(UserError, match=r"evaluation\.backend=rust: there are hotcoco and pycocotools"):
        chosen_backend("rust")
