"""COCO's metrics by pycocotools, with detections, sizes and classes configurable and nothing printed."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn.data.defects import refuse_fatal
from maskrcnn.data.formats.coco_json import load_annotations, select
from maskrcnn.data.segmentation import check_rle_strings, compressed
from maskrcnn.errors import UserError
from maskrcnn.evaluation.areas import NO_LIMIT, Areas, Ranges, chosen_areas
from maskrcnn.evaluation.keypoints import oks_sigmas, with_keypoints
from maskrcnn.evaluation.silence import silence

Metrics = dict[str, float | None]
Truth = str | Path | dict[str, Any] | COCO


class BoundaryEval(COCOeval):
    """Boundary AP (Cheng et al. 2021).

    The overlap of two masks is the smaller of their IoU and that of the bands along their outlines, 2 % of the
    image's diagonal wide.
    """

    def __init__(self, truth: COCO, results: COCO, iou_type: str = "segm") -> None:
        super().__init__(truth, results, "segm")  # type: ignore[no-untyped-call]

    def computeIoU(self, imgId: int, catId: int) -> Any:
        masks = super().computeIoU(imgId, catId)  # type: ignore[no-untyped-call]
        if len(masks) == 0:
            return masks
        found = sorted(self._dts[imgId, catId], key=lambda d: -d["score"])[: self.params.maxDets[-1]]
        objects = self._gts[imgId, catId]
        bands = [[outline_band(entry["segmentation"]) for entry in entries] for entries in (found, objects)]
        return np.minimum(masks, coco_mask.iou(*bands, [int(o["iscrowd"]) for o in objects]))


def outline_band(rle: dict[str, Any]) -> dict[str, Any]:
    """The part of a mask within 2 % of the image's diagonal of its outline, as RLE."""
    mask = coco_mask.decode(rle)
    width = max(round(0.02 * math.hypot(*mask.shape)), 1)
    inner = cv2.erode(np.pad(mask, 1), np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return dict(coco_mask.encode(np.asfortranarray(mask - inner)))


def evaluate(
    predictions: Sequence[dict[str, Any]],
    annotations: Truth,
    iou_types: Sequence[str] = ("bbox", "segm"),
    max_dets: int = 100,
    image_ids: Iterable[int] | None = None,
    fast: bool = False,
    area_ranges: Ranges | None = None,
) -> dict[str, Metrics]:
    """AP, AP50, AP75, APs, APm, APl in percent, unrounded, for each of ``iou_types``; None where undefined.

    predictions: COCO results: ``image_id``, ``category_id``, ``score``, ``bbox`` (x, y, width, height) and,
    for "segm" and "boundary", ``segmentation`` (RLE), for "keypoints" ``keypoints``. annotations: path of a
    COCO-format json, its content, or a loaded COCO object. max_dets: detections counted per image and class
    (the highest scores). image_ids: score these images only. fast: count with the package faster-coco-eval;
    the figures are the same. area_ranges: sizes in place of APs, APm and APl, see ``chosen_areas``.

    With max_dets=100 (20 for keypoints) the figures are those of pycocotools' own summary. For "segm" sizes
    are areas of masks, not of boxes. Raises UserError for predictions that do not belong to the
    annotations.
    """
    truth = load_ground_truth(annotations)
    ids = sorted(truth.getImgIds()) if image_ids is None else sorted(set(image_ids))
    check_predictions(predictions, truth)
    metrics = {}
    for kind in iou_types:
        areas = chosen_areas(area_ranges, kind)
        evaluation = accumulate(predictions, truth, kind, max_dets, ids, areas, fast)
        metrics[kind] = figures(evaluation, areas)
    return metrics


def per_class(
    predictions: Sequence[dict[str, Any]],
    annotations: Truth,
    iou_type: str,
    max_dets: int = 100,
    area_ranges: Ranges | None = None,
    fast: bool = False,
) -> dict[str, Metrics]:
    """The figures of ``evaluate`` for each class by itself, by the class's name."""
    truth = load_ground_truth(annotations)
    check_predictions(predictions, truth)
    areas = chosen_areas(area_ranges, iou_type)
    ids = sorted(truth.getImgIds())
    evaluation = accumulate(predictions, truth, iou_type, max_dets, ids, areas, fast)
    return {
        truth.cats[category]["name"]: figures(evaluation, areas, place)
        for place, category in enumerate(evaluation.params.catIds)
    }


def figures(evaluation: COCOeval, areas: Areas, place: int | None = None) -> Metrics:
    """AP, AP50, AP75 and "AP" + name for each of ``areas``; of the class at ``place``, or of all."""
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
) -> Metrics:
    """AP of objects by their side in feature cells, ``sqrt(area) / stride``: ``{"0-1": .., "1-2": ..,
    "16-": ..}``.

    stride: pixels of the original image per cell. A size's AP ignores objects of other sizes, as COCO's APs
    does.
    """
    truth = load_ground_truth(annotations)
    check_predictions(predictions, truth)
    ends = [*edges[1:], math.inf]
    names = [
        f"{low:g}-{'' if high == math.inf else f'{high:g}'}" for low, high in zip(edges, ends, strict=True)
    ]
    areas = {
        name: ((low * stride) ** 2, min((high * stride) ** 2, NO_LIMIT))
        for name, low, high in zip(names, edges, ends, strict=True)
    }
    evaluation = accumulate(predictions, truth, iou_type, max_dets, sorted(truth.getImgIds()), areas)
    return {name: average_precision(evaluation, None, name) for name in names}


def load_ground_truth(annotations: Truth) -> COCO:
    """A COCO object, silently."""
    if isinstance(annotations, COCO):
        return annotations
    data = annotations if isinstance(annotations, dict) else _sound_annotations(Path(annotations))
    # pycocotools takes the id 0 for no match.
    shift = int(any(entry.get("id") == 0 for entry in data["annotations"]))
    with silence():
        coco = COCO()
        # pycocotools asks for keys that only the official files have, and writes into what it is given.
        coco.dataset = {
            "info": {},
            **data,
            "annotations": [_complete(entry, shift) for entry in data["annotations"]],
        }
        coco.createIndex()
    return coco


def _sound_annotations(path: Path) -> dict[str, Any]:
    """What of a file can be scored against. Raises UserError for what would make the figures wrong."""
    data = load_annotations(path)
    sound = select(data, None)
    refuse_fatal(path, sound.defects)
    return sound.content(data)


def _complete(entry: dict[str, Any], shift: int) -> dict[str, Any]:
    """An annotation with the optional keys that scoring reads, ``shift`` added to its id."""
    box = entry.get("bbox", [0, 0, 0, 0])
    labelled = sum(visibility > 0 for visibility in entry.get("keypoints", ())[2::3])
    filled = {"iscrowd": 0, "area": box[2] * box[3], "num_keypoints": labelled, "keypoints": [], **entry}
    return {**filled, "id": filled["id"] + shift}


def with_masks(truth: COCO) -> COCO:
    """Objects without a mask cannot be found by one, nor is a mask there a mistake: they count as crowds."""
    if all(entry.get("segmentation") for entry in truth.dataset["annotations"]):
        return truth

    def masked(entry: dict[str, Any]) -> dict[str, Any]:
        if entry.get("segmentation"):
            return entry
        x, y, w, h = entry["bbox"]
        return {**entry, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]], "iscrowd": 1}

    annotations = [masked(entry) for entry in truth.dataset["annotations"]]
    return load_ground_truth({**truth.dataset, "annotations": annotations})


def check_predictions(predictions: Sequence[dict[str, Any]], truth: COCO) -> None:
    """Raises UserError for what is no result, or one of an image or category the annotations do not list."""
    if not isinstance(predictions, Sequence) or isinstance(predictions, str):
        raise UserError(f"predictions are a list of COCO results, not a {type(predictions).__name__}")
    known = (
        ("image", "image_id", set(truth.getImgIds())),
        ("category", "category_id", set(truth.getCatIds())),
    )
    for place, prediction in enumerate(predictions):
        if not isinstance(prediction, dict):
            raise UserError(f"prediction {place} is a {type(prediction).__name__}, not a COCO result")
        for what, key, ids in known:
            value = prediction.get(key)
            if not isinstance(value, int) or value not in ids:
                raise UserError(
                    f"prediction {place} has {key}={value!r}, but the annotations list no such {what}; "
                    "are they of the same data set?"
                )
        score = prediction.get("score")
        if not isinstance(score, int | float) or not math.isfinite(score):
            raise UserError(f"prediction {place} has score={score!r}; expected a number")
        box = prediction.get("bbox", [0, 0, 0, 0])
        if (
            not isinstance(box, list | tuple)
            or len(box) != 4
            or not all(isinstance(v, int | float) for v in box)
        ):
            raise UserError(f"prediction {place} has bbox={box!r}; expected [x, y, width, height]")


def accumulate(
    predictions: Sequence[dict[str, Any]],
    truth: COCO,
    iou_type: str,
    max_dets: int,
    image_ids: Sequence[int],
    areas: Mapping[str, tuple[float, float]] | None = None,
    fast: bool = False,
) -> COCOeval:
    """pycocotools' evaluation, run and accumulated; ``params.maxDets`` ends with ``max_dets``.

    areas: ranges of object areas by name, besides "all"; None for COCO's small, medium and large.
    """
    kind = "segm" if iou_type == "boundary" else iou_type
    _need(predictions, "segmentation" if kind == "segm" else kind)
    if kind == "segm":
        truth = with_masks(truth)
    with silence():
        results = load_results(predictions, truth, kind)
        evaluation: COCOeval = evaluator_of(iou_type, fast)(truth, results, kind)
        parameters = evaluation.params
        parameters.imgIds = list(image_ids)
        if kind == "keypoints":
            parameters.kpt_oks_sigmas = oks_sigmas(truth.dataset["categories"])
            parameters.catIds = with_keypoints(truth.dataset["categories"])
        parameters.maxDets = [max_dets] if kind == "keypoints" else sorted({1, min(10, max_dets), max_dets})
        if areas is not None:
            parameters.areaRngLbl = ["all", *areas]
            parameters.areaRng = [[0, NO_LIMIT], *map(list, areas.values())]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def evaluator_of(iou_type: str, fast: bool) -> Any:
    if iou_type == "boundary":
        return BoundaryEval
    if not fast:
        return COCOeval
    try:
        return importlib.import_module("faster_coco_eval").COCOeval_faster
    except ImportError as error:
        raise UserError(
            "the fast evaluation needs the package faster-coco-eval: pip install faster-coco-eval"
        ) from error


def _need(predictions: Sequence[dict[str, Any]], key: str) -> None:
    for place, prediction in enumerate(predictions):
        if key not in prediction:
            raise UserError(f"prediction {place} has no {key}, which this metric needs of every one")


def load_results(predictions: Sequence[dict[str, Any]], truth: COCO, iou_type: str) -> COCO:
    """Predictions as a COCO object; pycocotools' own ``loadRes`` cannot take an empty list."""
    if not predictions:
        empty = COCO()
        images, categories = truth.dataset["images"], truth.dataset["categories"]
        empty.dataset = {"images": images, "categories": categories, "annotations": []}
        empty.createIndex()
        return empty
    # With a bbox left in, loadRes would take it for the area that decides small, medium or large.
    left_out = {
        "segm": {"bbox"},
        "bbox": {"segmentation", "keypoints"},
        "keypoints": {"bbox", "segmentation"},
    }
    kept = [{k: v for k, v in p.items() if k not in left_out[iou_type]} for p in predictions]
    if iou_type == "segm":
        for prediction, rle in zip(kept, _compressed(predictions, truth), strict=True):
            prediction["segmentation"] = rle
    results: COCO = truth.loadRes(kept)
    return results


def _compressed(predictions: Sequence[dict[str, Any]], truth: COCO) -> list[dict[str, Any]]:
    """The masks as compressed RLE. Raises UserError for one that is damaged or not of its image's size.

    pycocotools counts a mask of another size as a wrong detection, and crashes on what is no compressed RLE.
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


def average_precision(
    evaluation: COCOeval, threshold: float | None = None, area: str = "all", place: int | None = None
) -> float | None:
    """Mean precision over recalls, thresholds (or at one) and classes (or of the one at ``place``), in
    percent, at the most detections allowed. None when there is no object to be found, where pycocotools
    says -1.
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
