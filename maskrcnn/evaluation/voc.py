"""PASCAL VOC's average precision for boxes, and AP^r for masks (Hariharan et al. 2014)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from maskrcnn.evaluation.coco import by_image_id, load_ground_truth
from maskrcnn.evaluation.results import check_predictions

Doubles = npt.NDArray[np.float64]
Overlap = Callable[[dict[str, Any], Sequence[dict[str, Any]]], Doubles]
FIGURES = ("AP", "AP07", "APr50", "APr70")


class Curve(NamedTuple):
    """Precision and recall of a class.

    Attributes:
        precision: ``[D]``, after each detection by descending score.
        recall: ``[D]``, after each detection by descending score.
        num_objects: number of objects.
    """

    precision: Doubles
    recall: Doubles
    num_objects: int


def evaluate(
    predictions: Sequence[dict[str, Any]], annotations: Any, image_ids: Iterable[int] | None = None
) -> dict[str, dict[str, float | None]]:
    """Compute ``{"voc": {"AP", "AP07", "APr50", "APr70"}}`` in percent, as means over classes with objects.

    AP is the area under the interpolated curve (from VOC 2010), and AP07 the mean of 11 points (VOC 2007), both for
    boxes at IoU 0.5. APr50 and APr70 are areas for masks at IoU 0.5 and 0.7. They are None if no object has a mask, or
    a prediction has none.

    Args:
        predictions: COCO results.
        annotations: COCO format: a path, the content, or a loaded object. Objects with ``difficult`` or ``iscrowd``
            are ignored.
        image_ids: score only these images; None is all.
    """
    table = per_class(predictions, annotations, image_ids).values()
    return {"voc": {name: _mean([figures[name] for figures in table]) for name in FIGURES}}


def per_class(
    predictions: Sequence[dict[str, Any]], annotations: Any, image_ids: Iterable[int] | None = None
) -> dict[str, dict[str, float | None]]:
    """Compute the metrics of `evaluate` for each class, by its name; None for a class without objects.

    Arguments as there.
    """
    truth = load_ground_truth(annotations)
    check_predictions(predictions, truth)
    chosen = set(truth.getImgIds() if image_ids is None else image_ids)
    predictions = [p for p in predictions if p["image_id"] in chosen]
    objects = [entry for entry in truth.dataset["annotations"] if entry["image_id"] in chosen]
    masks = [entry for entry in objects if entry.get("segmentation")]
    with_masks = bool(masks) and all("segmentation" in p for p in predictions)
    boxes = curves(predictions, objects, _box_overlap, 0.5)
    overlap = _mask_overlap(truth)
    # In an image without mask annotations, a predicted mask is neither correct nor wrong.
    bare = {entry["image_id"] for entry in objects} - {entry["image_id"] for entry in masks}
    drawn = [p for p in predictions if p["image_id"] not in bare]
    at50, at70 = (curves(drawn, masks, overlap, t) if with_masks else {} for t in (0.5, 0.7))
    found = {"AP": (boxes, area_ap), "AP07": (boxes, eleven_point_ap)}
    found |= {"APr50": (at50, area_ap), "APr70": (at70, area_ap)}
    return {
        truth.cats[category]["name"]: {
            name: _percent(of.get(category), ap) for name, (of, ap) in found.items()
        }
        for category in sorted(truth.getCatIds())
    }


def _percent(curve: Curve | None, ap: Callable[[Curve], float]) -> float | None:
    return 100 * ap(curve) if curve is not None and curve.num_objects else None


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean over classes with objects; None if there are none."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def area_ap(curve: Curve) -> float:
    """Area under the curve after making its precision monotonic (VOC 2010's devkit)."""
    recall = np.concatenate(([0.0], curve.recall, [1.0]))
    precision = np.concatenate(([0.0], curve.precision, [0.0]))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope[1:]))


def eleven_point_ap(curve: Curve) -> float:
    """Mean over recalls 0, 0.1, ..., 1 of the best precision at that recall or higher (VOC 2007's devkit)."""
    # np.arange(0, 1.1, 0.1), as in other ports of the devkit, would make 0.3 slightly larger than 3 / 10.
    points = np.arange(11) / 10
    return float(np.mean([curve.precision[curve.recall >= t].max(initial=0) for t in points]))


def curves(
    predictions: Sequence[dict[str, Any]],
    objects: Sequence[dict[str, Any]],
    overlap: Overlap,
    threshold: float,
) -> dict[int, Curve]:
    """Compute precision and recall of each class with objects.

    By descending score, each detection is matched with the object of its class and image that it overlaps most, if the
    overlap is at least the threshold. The first match of an object is correct, and later ones are false positives.
    Matches with a difficult object do not count.

    Args:
        predictions: COCO results.
        objects: COCO annotations.
        overlap: overlap of a prediction with candidate objects.
        threshold: smallest overlap of a match.
    """
    classes = sorted({entry["category_id"] for entry in objects})
    return {c: _curve(_of_class(predictions, c), _of_class(objects, c), overlap, threshold) for c in classes}


def _of_class(entries: Sequence[dict[str, Any]], category_id: int) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["category_id"] == category_id]


def _ignored(entry: dict[str, Any]) -> bool:
    return bool(entry.get("difficult") or entry.get("iscrowd"))


def _curve(
    predictions: list[dict[str, Any]], objects: list[dict[str, Any]], overlap: Overlap, threshold: float
) -> Curve:
    by_image = by_image_id(objects)
    taken: set[int] = set()
    right = []
    for prediction in sorted(predictions, key=lambda p: -p["score"]):
        candidates = by_image[prediction["image_id"]]
        overlaps = overlap(prediction, candidates) if candidates else np.zeros(1)
        best = int(np.argmax(overlaps))
        if overlaps[best] < threshold:
            right.append(False)
        elif not _ignored(candidates[best]):
            right.append(candidates[best]["id"] not in taken)
            taken.add(candidates[best]["id"])
    hits = np.cumsum(np.array(right, float))
    num_objects = sum(not _ignored(entry) for entry in objects)
    return Curve(hits / np.arange(1, len(hits) + 1), hits / max(num_objects, 1), num_objects)


def _box_overlap(prediction: dict[str, Any], candidates: Sequence[dict[str, Any]]) -> Doubles:
    """IoU of a box with others, ``[len(candidates)]``."""
    own, others = (np.array([e["bbox"] for e in entries], float) for entries in ([prediction], candidates))
    return np.asarray(coco_mask.iou(own, others, [0] * len(others))[0])


def _mask_overlap(truth: Any) -> Overlap:
    """IoU of masks. Annotations are converted to RLE once."""
    encoded: dict[int, Any] = {}

    def overlap(prediction: dict[str, Any], candidates: Sequence[dict[str, Any]]) -> Doubles:
        for entry in candidates:
            if entry["id"] not in encoded:
                encoded[entry["id"]] = truth.annToRLE(entry)
        rles = [encoded[entry["id"]] for entry in candidates]
        return np.asarray(coco_mask.iou([prediction["segmentation"]], rles, [0] * len(rles))[0])

    return overlap
