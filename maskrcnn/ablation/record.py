"""The record of a finished run: metrics by threshold, size and image, learning curve, and provenance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maskrcnn.evaluation.coco import (
    accumulate,
    average_precision,
    by_image_id,
    evaluate,
    figures,
    load_ground_truth,
)
from maskrcnn.evaluation.results import check_predictions
from maskrcnn.evaluation.settings import COCO_AREAS, chosen_areas
from maskrcnn.training import session

Record = dict[str, Any]
Result = dict[str, Any]
_SIZES = {"all": "all", "small": "s", "medium": "m", "large": "l"}
_MEMORY = {"memory/peak_rss_mib": "peak_memory_mib", "memory/device_peak_mib": "peak_device_memory_mib"}
EXAMPLES = 3  # number of images whose detections are kept for the report


def scores(
    predictions: Sequence[Result],
    annotations: dict[str, Any],
    kinds: Sequence[str],
    max_dets: int,
    edges: Sequence[float],
) -> Record:
    """Compute AP in percent: COCO's summary, and AP by IoU threshold, by object size and by image.

    Args:
        predictions: COCO results.
        annotations: content of a COCO json file.
        kinds: of "bbox", "segm" and "keypoints".
        max_dets: number of detections per image that count, by falling score.
        edges: lower edges of the size ranges: square roots of areas, in pixels of the original image.
    """
    truth = load_ground_truth(annotations)
    ids = sorted(truth.getImgIds())
    bins = {f"{low:g}-{high:g}": (low**2, high**2) for low, high in pairwise([*edges, 1e5])}
    areas = np.array([a["area"] for a in annotations["annotations"] if not a.get("iscrowd", 0)], np.float64)
    counts = [int(np.sum((low <= areas) & (areas <= high))) for low, high in bins.values()]
    median = round(float(np.sqrt(np.median(areas))), 2) if areas.size else None
    check_predictions(predictions, truth)
    record: Record = {
        "metrics": {},
        "by_iou": {},
        "by_size": {"edges": list(edges), "objects": counts, "median": median},
        "per_image": {"ids": ids},
    }
    for kind in kinds:
        evaluation = accumulate(predictions, truth, kind, max_dets, ids, {**COCO_AREAS, **bins})
        record["metrics"][kind] = figures(evaluation, chosen_areas(None, kind))
        record["by_iou"][kind] = {
            size: _rounded(average_precision(evaluation, float(t), area) for t in evaluation.params.iouThrs)
            for size, area in _SIZES.items()
        }
        record["by_size"][kind] = _rounded(average_precision(evaluation, None, name) for name in bins)
        record["per_image"][kind] = _rounded(image_scores(predictions, annotations, kind, max_dets))
    return record


def _rounded(values: Iterable[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 3) for value in values]


def image_scores(
    predictions: Sequence[Result], annotations: dict[str, Any], kind: str, max_dets: int
) -> list[float | None]:
    """AP of each image by itself, for comparisons paired by image.

    The mean over images is not AP, which ranks the detections of all images together.

    Args:
        predictions: COCO results.
        annotations: content of a COCO json file.
        kind: "bbox", "segm" or "keypoints".
        max_dets: number of detections per image that count, by falling score.

    Returns:
        AP in percent, by rising image id; None for an image without objects.
    """
    found, own = by_image_id(predictions), by_image_id(annotations["annotations"])
    scores = []
    for image in sorted(annotations["images"], key=lambda image: int(image["id"])):
        alone = {**annotations, "images": [image], "annotations": own[image["id"]]}
        scores.append(evaluate(found[image["id"]], alone, [kind], max_dets)[kind]["AP"])
    return scores


def instance_ious(predictions: Sequence[Result], annotations: dict[str, Any]) -> Record:
    """Mask IoU of every object with the mask that was predicted in its ground-truth box.

    Crowds and objects without a mask are left out.

    Args:
        predictions: COCO results, with ground-truth boxes as proposals.
        annotations: content of a COCO json file.

    Returns:
        Lists by rising annotation id: ``id``, ``image``, ``area`` in square pixels of the original image, and
        ``iou`` in percent (0 if no mask was predicted in the box).
    """
    truth = load_ground_truth(annotations)
    by_image = by_image_id(predictions)
    rows = []
    for annotation in sorted(truth.anns.values(), key=lambda a: a["id"]):
        if annotation["iscrowd"] or not annotation.get("segmentation"):
            continue
        found = by_image[annotation["image_id"]]
        distances = [np.abs(np.subtract(r["bbox"], annotation["bbox"])).max() for r in found]
        iou = 0.0
        if min(distances, default=1.0) < 1.0:
            own = found[int(np.argmin(distances))]["segmentation"]
            iou = float(coco_mask.iou([own], [truth.annToRLE(annotation)], [0])[0, 0])
        area = round(float(annotation["area"]), 1)
        rows.append((annotation["id"], annotation["image_id"], area, round(100 * iou, 2)))
    columns: Record = pd.DataFrame(rows, columns=["id", "image", "area", "iou"]).to_dict("list")
    return columns


def learning_curve(run_dir: Path) -> tuple[list[list[float]], float, dict[str, float]]:
    """Read a run's TensorBoard events.

    Returns:
        (step, total loss) pairs; seconds of training, without the pauses before a run was resumed; peak memory in
        MiB of the process and, on a GPU, of the device.
    """
    points: dict[int, float] = {}
    seconds = 0.0
    memory = {"peak_memory_mib": 0.0}
    for path in sorted(run_dir.glob("events.out.tfevents.*"), key=lambda p: p.stat().st_mtime):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
        began = events.FirstEventTimestamp()
        seconds += max((e.wall_time for found in scalars.values() for e in found), default=began) - began
        points |= {event.step: event.value for event in scalars.get("loss/total", [])}
        for tag, name in _MEMORY.items():
            for event in scalars.get(tag, []):
                memory[name] = max(memory.get(name, 0.0), event.value)
    return [[step, round(points[step], 4)] for step in sorted(points)], seconds, memory


def manifest(run_dir: Path, config: Mapping[str, Any], seconds: float, memory: Mapping[str, float]) -> Record:
    """Describe how a run was made: config, commit, versions, machine, time and memory.

    Args:
        run_dir: the run's directory.
        config: its config.
        seconds: its training time.
        memory: peak memory in MiB by name, as from `learning_curve`.

    Returns:
        The description. If the run was resumed on another commit or machine, all are listed in order.
    """
    made = session.sessions(run_dir) or [{**session.here(), "commit": "unknown", "machine": "unknown"}]
    return {
        "config": _without_places(config),
        "commit": ", ".join(dict.fromkeys(s["commit"] for s in made)),
        "versions": made[-1]["versions"],
        "machine": "; ".join(dict.fromkeys(s["machine"] for s in made)),
        "seconds": round(seconds, 1),
        **{name: round(mib) for name, mib in memory.items()},
    }


def _without_places(node: Any) -> Any:
    """Shorten absolute paths to their last three parts, so that no record contains a home directory."""
    if isinstance(node, Mapping):
        return {key: _without_places(setting) for key, setting in node.items()}
    if isinstance(node, list):
        return [_without_places(setting) for setting in node]
    if isinstance(node, str) and node.startswith("/"):
        return "/".join(["...", *Path(node).parts[-3:]])
    return node


def examples(predictions: Sequence[Result], annotations: dict[str, Any]) -> list[Record]:
    """The first `EXAMPLES` images, with their detections of score 0.5 or more.

    Args:
        predictions: COCO results.
        annotations: content of a COCO json file.
    """
    found = by_image_id([prediction for prediction in predictions if prediction["score"] >= 0.5])
    images = annotations["images"][:EXAMPLES]
    return [{"image": image, "detections": found[image["id"]]} for image in images]


def network_scale(annotations: dict[str, Any], short_side: int | None, max_size: int | None) -> float:
    """Pixels of the network's input per pixel of the original image, as the median over images.

    Args:
        annotations: content of a COCO json file.
        short_side: length of the input's shorter side in pixels; None keeps the size of the images.
        max_size: limit of the input's longer side in pixels; None is no limit.
    """
    if short_side is None:
        return 1.0
    sides = np.array([[image["height"], image["width"]] for image in annotations["images"]], np.float64)
    scale = short_side / sides.min(1)
    if max_size is not None:
        scale = np.minimum(scale, max_size / sides.max(1))
    return float(np.median(scale))


def path_of(out: Path, run_id: str) -> Path:
    """Path of a run's record. Results of version 0.1.0 have records in ``cells/``, later ones in ``records/``.

    Args:
        out: folder of the results.
        run_id: id of the run.
    """
    earlier = out / "cells" / f"{run_id}.json"
    return earlier if earlier.exists() else out / "records" / f"{run_id}.json"


def read_all(out: Path) -> list[Record]:
    """The records of a table's finished runs, sorted by id."""
    paths = {path.name: path for folder in ("records", "cells") for path in (out / folder).glob("*.json")}
    return [json.loads(paths[name].read_text()) for name in sorted(paths)]


def write(out: Path, record: Record) -> None:
    """Write a record atomically.

    Args:
        out: folder of the results.
        record: the record.
    """
    path = path_of(out, record["id"])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, separators=(",", ":")))
    partial.replace(path)
