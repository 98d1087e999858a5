"""Scoring, measured: COCO's metrics of generated detections by hotcoco and by pycocotools alone.

``python -m benchmarks.scoring FOLDER`` writes such annotations and detections for tools/eval.py: 1,200 images with 36
detections each.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.timing import Row, compare
from maskrcnn.evaluation.coco import evaluate

SIZE = (480, 640)  # height, width
CLASSES = 80
Doubles = npt.NDArray[np.float64]
Entry = dict[str, Any]


def rows(images: int, detections: int, repeats: int) -> Iterator[tuple[Row, float]]:
    """Boxes and masks: the comparison, and the largest difference of any of the six metrics (in percent).

    Timed from annotations and predictions in memory to the metrics, CPU time of all threads.
    """
    truth, predictions = generate(images, detections)
    for kind, goal in (("bbox", "10x"), ("segm", "10x")):
        metrics: dict[str, list[float]] = {}

        def ours(kind: str = kind, metrics: dict[str, list[float]] = metrics) -> None:
            found = evaluate(predictions, truth, (kind,), backend="hotcoco")[kind]
            metrics["ours"] = [-100.0 if value is None else value for value in found.values()]

        def theirs(kind: str = kind, metrics: dict[str, list[float]] = metrics) -> None:
            metrics["theirs"] = pycocotools_metrics(truth, predictions, kind)

        setting = f"{images} images x {detections} detections, {kind}"
        row = compare("scoring, hotcoco", "pycocotools", setting, ours, theirs, repeats, goal, warm_up=False)
        yield row, float(np.abs(np.subtract(metrics["ours"], metrics["theirs"])).max())


def pycocotools_metrics(truth: dict[str, Any], predictions: list[Entry], kind: str) -> list[float]:
    """The first six metrics of pycocotools' summary, in percent, by its own calls."""
    left_out = "bbox" if kind == "segm" else "segmentation"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        results = coco.loadRes([{k: v for k, v in p.items() if k != left_out} for p in predictions])
        evaluation = COCOeval(coco, results, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * float(value) for value in evaluation.stats[:6]]


def generate(images: int, detections: int, seed: int = 0) -> tuple[dict[str, Any], list[Entry]]:
    """Annotations and detections with COCO's numbers: 7.4 objects an image in 80 classes, a few of which are
    frequent; sides from 8 to 400 pixels, 41 % small, 24 % large; 1 % crowd; outlines of 24 corners as polygons.

    Of an image's detections about a third are near an object, each with a class that is right four times out of
    five; the others are of any class and anywhere. Scores are higher where the detection is better.
    """
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, CLASSES + 1)
    frequency /= frequency.sum()
    annotations: list[Entry] = []
    predictions: list[Entry] = []
    for image_id in range(1, images + 1):
        objects = [_thing(rng) for _ in range(min(rng.geometric(1 / 7.4), detections))]
        classes = rng.choice(CLASSES, len(objects), p=frequency) + 1
        for shape, category in zip(objects, classes, strict=True):
            annotations.append(_annotation(shape, len(annotations) + 1, image_id, int(category), rng))
        for k in range(detections):
            near = k < 1.5 * len(objects)
            of = k % len(objects)
            shape = _moved(objects[of], rng) if near else _thing(rng)
            right = near and rng.random() < 0.8
            category = classes[of] if right else rng.choice(CLASSES, p=frequency) + 1
            score = rng.beta(5, 2) if right and k < len(objects) else rng.beta(1, 6)
            predictions.append(_result(shape, image_id, int(category), float(score)))
    listed = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, images + 1)]
    categories = [{"id": i, "name": str(i)} for i in range(1, CLASSES + 1)]
    return {"info": {}, "images": listed, "annotations": annotations, "categories": categories}, predictions


def _thing(rng: np.random.Generator) -> Doubles:
    """The outline ``[24, 2]`` of something: a circle with dents, stretched."""
    side = float(np.clip(np.exp(rng.normal(3.75, 1.15)), 8, 400))
    turn = np.arange(24) / 24 * 2 * np.pi
    radius = side / 2 * (1 + 0.25 * np.cos(rng.integers(2, 5) * turn + rng.uniform(0, 6)))
    stretch = np.exp(rng.normal(0, 0.35))
    outline = np.stack([np.cos(turn) * radius * stretch, np.sin(turn) * radius / stretch], 1)
    return _inside(outline + rng.uniform(0, SIZE[::-1]))


def _moved(outline: Doubles, rng: np.random.Generator) -> Doubles:
    """Something near: shifted, scaled, and its corners trembling."""
    centre, side = outline.mean(axis=0), np.ptp(outline, axis=0)
    shifted = centre + rng.normal(0, 0.06, 2) * side + (outline - centre) * np.exp(rng.normal(0, 0.08, 2))
    return _inside(shifted + rng.normal(0, 0.02, outline.shape) * side)


def _inside(outline: Doubles) -> Doubles:
    return np.asarray(outline.clip(0, SIZE[::-1]))


def _box(outline: Doubles) -> list[float]:
    low, high = outline.min(axis=0), outline.max(axis=0)
    return [round(float(v), 2) for v in (*low, *np.maximum(high - low, 1))]


def _annotation(
    outline: Doubles, number: int, image_id: int, category: int, rng: np.random.Generator
) -> Entry:
    polygon = outline.round(2).reshape(-1).tolist()
    rle = coco_mask.frPyObjects([polygon], *SIZE)[0]
    crowd = rng.random() < 0.01
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": _box(outline),
        "area": float(coco_mask.area(rle)),
        "iscrowd": int(crowd),
        "segmentation": {"size": list(SIZE), "counts": rle["counts"].decode()} if crowd else [polygon],
    }


def _result(outline: Doubles, image_id: int, category: int, score: float) -> Entry:
    rle = coco_mask.frPyObjects([outline.reshape(-1).tolist()], *SIZE)[0]
    return {
        "image_id": image_id,
        "category_id": category,
        "score": round(score, 3),
        "bbox": _box(outline),
        "segmentation": {"size": list(SIZE), "counts": rle["counts"].decode()},
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(("annotations", "predictions"), generate(1200, 36), strict=True):
        (folder / f"{name}.json").write_text(json.dumps(content))
    print(f"tools/eval.py predictions={folder}/predictions.json annotations={folder}/annotations.json")
