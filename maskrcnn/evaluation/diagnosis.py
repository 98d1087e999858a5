"""Analyses errors: confusion matrix, kinds of errors, precision against recall."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from maskrcnn.evaluation.coco import (
    Truth,
    accumulate,
    by_image_id,
    load_ground_truth,
    with_masks,
)
from maskrcnn.evaluation.results import check_predictions

MIN_IOU = 0.5  # IoU of a match
NEAR_IOU = 0.1  # IoU of an inaccurate match
_NAMED_CURVES = 10  # with more classes, the curves are grey and have no names
Entries = list[dict[str, Any]]
KINDS = ("correct", "classification", "localisation", "both", "duplicate", "background", "missed")


@dataclass(frozen=True)
class Analysis:
    """Result of `analyse`.

    Attributes:
        errors: number of correct detections and of each kind of error; "missed" counts objects.
        confusion: ``[K + 1, K + 1]``, rows are the object's class, columns the detection's. The last row and column
            are background.
        names: names of the classes.
        precision: ``[K, 101]`` at recalls 0, 0.01, ..., 1 and IoU 0.5, NaN for a class without objects.
    """

    errors: dict[str, int]
    confusion: npt.NDArray[np.int64]
    names: list[str]
    precision: npt.NDArray[np.float64]


def analyse(
    predictions: Sequence[dict[str, Any]],
    annotations: Truth,
    iou_type: str = "bbox",
    min_score: float = 0.3,
    max_dets: int = 100,
    backend: str | None = None,
) -> Analysis:
    """Classify detections as correct or as a kind of error, after TIDE (Bolya et al. 2020).

    By descending score, each detection is matched with the unmatched object of its class that it overlaps most, if the
    IoU is at least 0.5 (`MIN_IOU`). Such detections are correct. The others are:

    * classification: overlaps an object of another class by `MIN_IOU`;
    * localisation: overlaps an object of its class by 0.1 (`NEAR_IOU`);
    * both: overlaps an object of another class by `NEAR_IOU`;
    * duplicate: overlaps a matched object;
    * background: overlaps no object.

    An object is missed if it has neither a match nor a classification or localisation error. Detections of crowds do
    not count.

    Args:
        predictions: COCO results.
        annotations: path of a COCO-format json, its content, or a loaded COCO object.
        iou_type: "bbox" or "segm".
        min_score: ignore detections with a lower score.
        max_dets: see `maskrcnn.evaluation.coco.evaluate`.
        backend: see `maskrcnn.evaluation.coco.evaluate`.
    """
    truth = _scored(annotations, predictions, iou_type)
    categories = sorted(truth.getCatIds())
    errors: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    confusion = np.zeros((len(categories) + 1, len(categories) + 1), np.int64)
    for _, found, objects, overlaps in _each_image(predictions, truth, iou_type, min_score):
        for kind, actual, guessed in _sorted_out(found, objects, overlaps, categories):
            errors[kind] += 1
            confusion[actual, guessed] += 1
    ids = sorted(truth.getImgIds())
    curve = accumulate(predictions, truth, iou_type, max_dets, ids, backend=backend).eval["precision"]
    precision = np.where(curve[0, :, :, 0, -1] < 0, np.nan, curve[0, :, :, 0, -1]).T
    return Analysis(dict(errors), confusion, [truth.cats[c]["name"] for c in categories], precision)


def by_image(
    predictions: Sequence[dict[str, Any]], annotations: Truth, iou_type: str = "bbox", min_score: float = 0.3
) -> dict[int, dict[str, int]]:
    """Count the ``KINDS`` of each image, by its id. Arguments as in `analyse`."""
    truth = _scored(annotations, predictions, iou_type)
    categories = sorted(truth.getCatIds())
    counts = {}
    for image_id, found, objects, overlaps in _each_image(predictions, truth, iou_type, min_score):
        kinds = Counter(kind for kind, _, _ in _sorted_out(found, objects, overlaps, categories))
        counts[image_id] = dict.fromkeys(KINDS, 0) | kinds
    return counts


def mean_iou(
    predictions: Sequence[dict[str, Any]], annotations: Truth, iou_type: str, min_score: float = 0.5
) -> dict[int, float]:
    """Compute the mean IoU of each image that has objects, by its id.

    The IoU of an object is that of the best detection of its class with at least ``min_score``, 0 if there is none.
    Crowds are left out.

    Args:
        predictions: see `analyse`.
        annotations: see `analyse`.
        iou_type: see `analyse`.
        min_score: ignore detections with a lower score.
    """
    truth = _scored(annotations, predictions, iou_type)
    means = {}
    for image_id, found, objects, overlaps in _each_image(predictions, truth, iou_type, min_score):
        classes = [np.array([entry["category_id"] for entry in entries]) for entries in (found, objects)]
        counts = np.array([not entry["iscrowd"] for entry in objects], bool)
        if counts.any():
            own = np.where(classes[0][:, None] == classes[1], overlaps, 0.0)
            means[image_id] = float(own.max(0, initial=0.0)[counts].mean())
    return means


def _scored(annotations: Truth, predictions: Sequence[dict[str, Any]], iou_type: str) -> COCO:
    """The ground truth for the predictions, after checking them."""
    truth = load_ground_truth(annotations)
    check_predictions(predictions, truth)
    return with_masks(truth) if iou_type == "segm" else truth


def _each_image(
    predictions: Sequence[dict[str, Any]], truth: COCO, iou_type: str, min_score: float
) -> Iterator[tuple[int, Entries, Entries, npt.NDArray[np.float64]]]:
    """Yield every image's id, its detections by falling score from ``min_score``, its objects, and `_overlaps`."""
    sure = [prediction for prediction in predictions if prediction["score"] >= min_score]
    found = by_image_id(sorted(sure, key=lambda p: -p["score"]))
    for image_id in truth.getImgIds():
        detections = found[image_id]
        objects = [truth.anns[number] for number in truth.getAnnIds(imgIds=[image_id])]
        yield image_id, detections, objects, _overlaps(detections, objects, truth, iou_type)


def _overlaps(found: Entries, objects: Entries, truth: COCO, iou_type: str) -> npt.NDArray[np.float64]:
    """``[found, objects]`` IoU of boxes or masks."""
    if not found or not objects:
        return np.zeros((len(found), len(objects)))
    crowd = [int(entry["iscrowd"]) for entry in objects]
    if iou_type == "bbox":
        pairs: list[Any] = [np.array([entry["bbox"] for entry in side], float) for side in (found, objects)]
    else:
        pairs = [[p["segmentation"] for p in found], [truth.annToRLE(entry) for entry in objects]]
    return np.asarray(coco_mask.iou(*pairs, crowd))


def _sorted_out(
    found: Entries, objects: Entries, overlaps: npt.NDArray[np.float64], categories: list[int]
) -> Iterator[tuple[str, int, int]]:
    """Yield (kind, class of the object, class of the detection) for every detection, then for every missed object."""
    background, labels = len(categories), {category: label for label, category in enumerate(categories)}
    actual = np.array([labels[entry["category_id"]] for entry in objects], np.int64)
    crowd = np.array([bool(entry["iscrowd"]) for entry in objects], bool)
    taken, explained = np.zeros(len(objects), bool), np.zeros(len(objects), bool)
    wrong = []
    for row, prediction in enumerate(found):
        label, iou = labels[prediction["category_id"]], overlaps[row]
        free = (actual == label) & ~taken & ~crowd & (iou >= MIN_IOU)
        if free.any():
            best = int(np.argmax(np.where(free, iou, -1)))
            taken[best] = True
            yield "correct", label, label
        elif not (crowd & (actual == label) & (iou >= MIN_IOU)).any():
            wrong.append((label, np.where(crowd, 0, iou)))
    for label, iou in wrong:
        same = actual == label
        kind, about = _kind(iou, same, taken)
        if kind in ("classification", "localisation"):
            explained[about] = True
        yield kind, background if kind == "background" else int(actual[about]), label
    for place in np.flatnonzero(~taken & ~explained & ~crowd):
        yield "missed", int(actual[place]), background


def _kind(
    iou: npt.NDArray[np.float64], same: npt.NDArray[np.bool_], taken: npt.NDArray[np.bool_]
) -> tuple[str, int]:
    """The kind of a wrong detection, and the index of the object it refers to (-1 for background)."""
    for kind, about in (
        ("duplicate", same & taken & (iou >= MIN_IOU)),
        ("classification", ~same & (iou >= MIN_IOU)),
        ("localisation", same & (iou >= NEAR_IOU)),
        ("both", ~same & (iou >= NEAR_IOU)),
    ):
        if about.any():
            return kind, int(np.argmax(np.where(about, iou, -1)))
    return "background", -1


def write(analysis: Analysis, folder: Path) -> None:
    """Write ``errors.json`` with all numbers, and ``errors.png``, ``confusion.png`` and ``precision_recall.png``."""
    from matplotlib.figure import Figure  # takes half a second

    folder.mkdir(parents=True, exist_ok=True)
    precision = [[None if np.isnan(value) else float(value) for value in row] for row in analysis.precision]
    content = {
        "errors": analysis.errors,
        "classes": [*analysis.names, "background"],
        "confusion": analysis.confusion.tolist(),
        "precision_at_recall": dict(zip(analysis.names, precision, strict=True)),
    }
    (folder / "errors.json").write_text(json.dumps(content, indent=1))
    for name, draw in (("errors", _bars), ("confusion", _matrix), ("precision_recall", _curves)):
        side = 1 + 0.11 * len(analysis.names) if name == "confusion" else 0.0  # a line of text for each class
        figure = Figure(figsize=(max(7, side + 1), max(5, side)), layout="constrained")
        draw(figure.subplots(), analysis)
        figure.savefig(folder / f"{name}.png", dpi=120)


def _bars(axes: Any, analysis: Analysis) -> None:
    axes.barh(list(analysis.errors)[::-1], list(analysis.errors.values())[::-1])
    axes.set_xlabel("detections (missed: objects)")


def _matrix(axes: Any, analysis: Analysis) -> None:
    shares = analysis.confusion / np.maximum(analysis.confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    ticks = [*analysis.names, "background"]
    axes.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=6)
    axes.set_yticks(range(len(ticks)), ticks, fontsize=6)
    axes.set(xlabel="detected as", ylabel="object (share of its row)")


def _curves(axes: Any, analysis: Analysis) -> None:
    recall = np.linspace(0, 1, analysis.precision.shape[1])
    with_objects = np.flatnonzero(~np.isnan(analysis.precision).all(axis=1))
    names, precision = [analysis.names[k] for k in with_objects], analysis.precision[with_objects]
    style = {"linewidth": 1} if len(names) <= _NAMED_CURVES else {"linewidth": 0.5, "color": "0.75"}
    for name, row in zip(names, precision, strict=True):
        label = f"{name}: {100 * row.mean():.1f}" if len(names) <= _NAMED_CURVES else None
        axes.plot(recall, row, **style, label=label)
    if len(names) > 1:
        mean = precision.mean(axis=0)
        label = f"mean of {len(names)} classes: {100 * mean.mean():.1f}"
        axes.plot(recall, mean, "k", linewidth=2, label=label)
    axes.set(xlabel="recall", ylabel="precision at IoU 0.5")
    if names:
        axes.legend(fontsize=6, title="AP50", title_fontsize=6)
