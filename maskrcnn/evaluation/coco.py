"""COCO's metrics with configurable numbers of detections, sizes and classes, without printing."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO

from maskrcnn.data.defects import refuse_fatal
from maskrcnn.data.formats.coco_json import load_annotations, select
from maskrcnn.data.formats.coco_selection import distinct_names
from maskrcnn.data.segmentation import check_rle_strings, compressed
from maskrcnn.errors import UserError
from maskrcnn.evaluation.backends import Accumulated, accumulated, silence
from maskrcnn.evaluation.keypoints import oks_sigmas
from maskrcnn.evaluation.results import check_predictions
from maskrcnn.evaluation.settings import NO_LIMIT, Areas, Ranges, chosen_areas

Metrics = dict[str, float | None]
Truth = str | Path | dict[str, Any] | COCO
_COMPARED = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
# Keys of annotations that scoring reads.
_OF_IMAGES = ("id", "file_name", "height", "width")
_OF_CATEGORIES = ("id", "name", "keypoints", "skeleton", "sigmas")
_OF_ANNOTATIONS = (
    *("id", "image_id", "category_id", "bbox", "area", "iscrowd", "difficult", "segmentation"),
    *("keypoints", "num_keypoints"),
)


def evaluate(
    predictions: Sequence[dict[str, Any]],
    annotations: Truth,
    iou_types: Sequence[str] = ("bbox", "segm"),
    max_dets: int = 100,
    image_ids: Iterable[int] | None = None,
    backend: str | None = None,
    area_ranges: Ranges | None = None,
) -> dict[str, Metrics]:
    """Compute AP, AP50, AP75, APs, APm and APl in percent, unrounded. Undefined metrics are None.

    With max_dets=100, the metrics are those of pycocotools' summary. For "segm", sizes are areas of
    masks, not of boxes.

    Args:
        predictions: COCO results: ``image_id``, ``category_id``, ``score``, and what is compared: ``bbox`` (x, y,
            width, height), ``segmentation`` (RLE) for "segm" and "boundary", ``keypoints`` for "keypoints".
        annotations: path of a COCO-format json, its content, or a loaded COCO object.
        iou_types: of "bbox", "segm", "keypoints" and "boundary".
        max_dets: number of detections per image and class that count, those with the highest scores (at most 20 for
            "keypoints", as in COCO).
        image_ids: score only these images; None is all.
        backend: "hotcoco" or "pycocotools", which give the same metrics; None is hotcoco if it is installed.
        area_ranges: sizes that replace APs, APm and APl, see `chosen_areas`.

    Returns:
        The metrics of each of ``iou_types``.

    Raises:
        UserError: the predictions do not belong to the annotations.
    """
    truth = load_ground_truth(annotations)
    ids = sorted(truth.getImgIds()) if image_ids is None else sorted(set(image_ids))
    check_predictions(predictions, truth)
    metrics = {}
    for kind in iou_types:
        areas = chosen_areas(area_ranges, kind)
        evaluation = accumulate(predictions, truth, kind, max_dets, ids, areas, backend)
        metrics[kind] = figures(evaluation, areas)
    return metrics


def per_class(
    predictions: Sequence[dict[str, Any]],
    annotations: Truth,
    iou_type: str,
    max_dets: int = 100,
    area_ranges: Ranges | None = None,
    backend: str | None = None,
) -> dict[str, Metrics]:
    """Compute the metrics of `evaluate` for each class, by its name. Arguments as there, for one IoU type."""
    truth = load_ground_truth(annotations)
    check_predictions(predictions, truth)
    areas = chosen_areas(area_ranges, iou_type)
    ids = sorted(truth.getImgIds())
    evaluation = accumulate(predictions, truth, iou_type, max_dets, ids, areas, backend)
    return {
        truth.cats[category]["name"]: figures(evaluation, areas, place)
        for place, category in enumerate(evaluation.params.catIds)
    }


def figures(evaluation: Accumulated, areas: Areas, place: int | None = None) -> Metrics:
    """AP, AP50, AP75 and "AP" + name for each of ``areas``.

    Args:
        evaluation: the accumulated evaluation.
        areas: ranges of areas by name.
        place: index of a class; None is the mean over all.
    """
    asked: dict[str, tuple[float | None, str]] = {
        "AP": (None, "all"),
        "AP50": (0.5, "all"),
        "AP75": (0.75, "all"),
        **{f"AP{name}": (None, name) for name in areas},
    }
    return {name: average_precision(evaluation, *of, place) for name, of in asked.items()}


def by_cells(
    predictions: Sequence[dict[str, Any]],
    annotations: Truth,
    iou_type: str,
    stride: float,
    edges: Sequence[float] = (0, 1, 2, 4, 8, 16),
    max_dets: int = 100,
    backend: str | None = None,
) -> Metrics:
    """Compute AP by object size in feature cells, ``sqrt(area) / stride``: ``{"0-1": .., "1-2": .., "16-": ..}``.

    As in COCO's APs, the AP of a size ignores objects of other sizes. The other arguments are those of `evaluate`.

    Args:
        iou_type: "bbox" or "segm".
        stride: pixels of the original image per cell.
        edges: limits of the sizes in cells.
    """
    truth = load_ground_truth(annotations)
    check_predictions(predictions, truth)
    areas = {
        f"{low:g}-{'' if high == math.inf else f'{high:g}'}": (
            (low * stride) ** 2,
            min((high * stride) ** 2, NO_LIMIT),
        )
        for low, high in pairwise([*edges, math.inf])
    }
    evaluation = accumulate(predictions, truth, iou_type, max_dets, sorted(truth.getImgIds()), areas, backend)
    return {name: average_precision(evaluation, None, name) for name in areas}


def load_ground_truth(annotations: Truth) -> COCO:
    """Load a COCO object without printing."""
    if isinstance(annotations, COCO):
        return annotations
    data = annotations if isinstance(annotations, dict) else _sound_annotations(Path(annotations))
    names = distinct_names(data["categories"])
    # pycocotools uses the id 0 for "no match".
    shift = int(any(entry.get("id") == 0 for entry in data["annotations"]))
    with silence():
        coco = COCO()
        # pycocotools needs keys that only the official files have, and changes its input. Keys that scoring does not
        # read are left out, because hotcoco refuses some of their values.
        coco.dataset = {
            "info": {},
            "images": [_chosen(image, _OF_IMAGES) for image in data["images"]],
            "categories": [
                {**_chosen(c, _OF_CATEGORIES), "name": names[c["id"]]} for c in data["categories"]
            ],
            "annotations": [_complete(entry, shift) for entry in data["annotations"]],
        }
        coco.createIndex()
    return coco


def _sound_annotations(path: Path) -> dict[str, Any]:
    """The entries of a file that can be scored against. Raises UserError for what would make the metrics wrong."""
    data = load_annotations(path)
    sound = select(data, None)
    refuse_fatal(path, sound.defects)
    return sound.content(data)


def _complete(entry: dict[str, Any], shift: int) -> dict[str, Any]:
    """An annotation with the optional keys that scoring reads, and ``shift`` added to its id."""
    box = entry.get("bbox", [0, 0, 0, 0])
    labelled = sum(visibility > 0 for visibility in entry.get("keypoints", ())[2::3])
    filled = {"iscrowd": 0, "area": box[2] * box[3], "num_keypoints": labelled, "keypoints": [], **entry}
    return {**_chosen(filled, _OF_ANNOTATIONS), "id": filled["id"] + shift}


def _chosen(entry: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: entry[key] for key in keys if key in entry}


def with_masks(truth: COCO) -> COCO:
    """Mark objects without a mask as crowds: no mask can match them, and a mask there is not an error."""
    if all(entry.get("segmentation") for entry in truth.dataset["annotations"]):
        return truth

    def masked(entry: dict[str, Any]) -> dict[str, Any]:
        if entry.get("segmentation"):
            return entry
        x, y, w, h = entry["bbox"]
        return {**entry, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]], "iscrowd": 1}

    annotations = [masked(entry) for entry in truth.dataset["annotations"]]
    return load_ground_truth({**truth.dataset, "annotations": annotations})


def accumulate(
    predictions: Sequence[dict[str, Any]],
    truth: COCO,
    iou_type: str,
    max_dets: int,
    image_ids: Sequence[int],
    areas: Mapping[str, tuple[float, float]] | None = None,
    backend: str | None = None,
) -> Accumulated:
    """Match predictions with objects. ``params.maxDets`` ends with ``max_dets``, at most 20 for keypoints.

    Args:
        areas: ranges of object areas by name, in addition to "all"; None is COCO's small, medium and large.

    The other arguments are those of `evaluate`.
    """
    kind = "segm" if iou_type == "boundary" else iou_type
    for place, prediction in enumerate(predictions):
        if _COMPARED[kind] not in prediction:
            raise UserError(
                f"prediction {place} has no {_COMPARED[kind]}, which this metric needs of every one"
            )
    if kind == "segm":
        truth = with_masks(truth)
    parameters: dict[str, Any] = {"imgIds": list(image_ids)}
    if kind == "keypoints":
        parameters["kpt_oks_sigmas"] = oks_sigmas(truth.dataset["categories"])
        parameters["catIds"] = [c["id"] for c in truth.dataset["categories"] if c.get("keypoints")]
        parameters["maxDets"] = [min(20, max_dets)]
    else:
        parameters["maxDets"] = sorted({1, min(10, max_dets), max_dets})
    if areas is not None:
        parameters["areaRngLbl"] = ["all", *areas]
        parameters["areaRng"] = [[0, NO_LIMIT], *map(list, areas.values())]
    return accumulated(truth, results_for(predictions, truth, kind), iou_type, parameters, backend)


def results_for(predictions: Sequence[dict[str, Any]], truth: COCO, iou_type: str) -> list[dict[str, Any]]:
    """Reduce results to what ``iou_type`` compares. Masks become compressed RLE.

    Args:
        predictions: COCO results.
        truth: annotations.
        iou_type: "bbox", "segm", "keypoints" or "boundary".
    """
    # For "segm", the size of an object is that of its mask. With a bbox, it would be that of the box.
    kept = [_chosen(p, ("image_id", "category_id", "score", _COMPARED[iou_type])) for p in predictions]
    if iou_type == "segm":
        for prediction, rle in zip(kept, _compressed(predictions, truth), strict=True):
            prediction["segmentation"] = rle
    return kept


def _compressed(predictions: Sequence[dict[str, Any]], truth: COCO) -> list[dict[str, Any]]:
    """Convert the masks to compressed RLE. Raises UserError for a damaged mask, or one of another size than its image.

    pycocotools counts a mask of another size as a false detection, and crashes on invalid compressed RLE.
    """
    rles = []
    for place, prediction in enumerate(predictions):
        image = truth.imgs[prediction["image_id"]]
        try:
            rles.append(compressed(prediction["segmentation"], image["height"], image["width"]))
        except UserError as error:
            raise UserError(f"prediction {place}: {error}") from error
    try:
        check_rle_strings([rle["counts"] for rle in rles])
    except UserError as error:
        raise UserError(f"a prediction's mask: {error}") from error
    return rles


def by_image_id(entries: Iterable[dict[str, Any]]) -> defaultdict[int, list[dict[str, Any]]]:
    """Group results or annotations by ``image_id``; an image without entries has an empty list."""
    groups = defaultdict(list)
    for entry in entries:
        groups[entry["image_id"]].append(entry)
    return groups


def average_precision(
    evaluation: Accumulated, threshold: float | None = None, area: str = "all", place: int | None = None
) -> float | None:
    """Mean precision in percent at the largest number of detections; None without objects (-1 in pycocotools).

    Args:
        evaluation: the accumulated evaluation.
        threshold: IoU threshold; None is the mean over all.
        area: name of the range of areas.
        place: index of a class; None is the mean over all.
    """
    parameters = evaluation.params
    precision: npt.NDArray[np.float64] = evaluation.eval["precision"]  # [T, R, K, A, M]
    if threshold is not None:
        precision = precision[np.flatnonzero(threshold == np.asarray(parameters.iouThrs))]
    if place is not None:
        precision = precision[:, :, place : place + 1]
    precision = precision[..., list(parameters.areaRngLbl).index(area), -1]
    defined = precision[precision > -1]
    return 100 * float(np.mean(defined)) if defined.size else None
