"""The metrics of a data set, and detailed metrics on request. It does not import torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from maskrcnn.console import console, metrics_table
from maskrcnn.errors import UserError
from maskrcnn.evaluation import coco, diagnosis, voc
from maskrcnn.evaluation.backends import chosen_backend
from maskrcnn.evaluation.settings import Evaluation, Ranges, chosen_areas

Metric = Literal["coco", "voc"]
Metrics = dict[str, dict[str, float | None]]


def evaluate(
    predictions: Sequence[dict[str, Any]],
    annotations: Any,
    metric: Metric = "coco",
    max_dets: int = 100,
    image_ids: Iterable[int] | None = None,
    kinds: Sequence[str] | None = None,
    backend: str | None = None,
    area_ranges: Ranges | None = None,
) -> Metrics:
    """Compute the content of metrics.json.

    It is ``{"bbox": .., "segm": .., "keypoints": ..}`` for COCO and ``{"voc": ..}`` for VOC.

    Args:
        predictions: COCO results.
        annotations: COCO format: a path, the content, or a loaded object.
        metric: ``coco`` or ``voc``.
        max_dets: number of detections per image and class that count, for COCO (at most 20 for keypoints).
        image_ids: score only these images; None is all.
        kinds: what COCO scores; None is what every prediction has.
        backend: of COCO, see `chosen_backend`.
        area_ranges: of COCO, see `chosen_areas`.
    """
    if metric == "voc":
        return voc.evaluate(predictions, annotations, image_ids)
    kinds = kinds_of(predictions) if kinds is None else kinds
    return coco.evaluate(predictions, annotations, kinds, max_dets, image_ids, backend, area_ranges)


def per_class(
    predictions: Sequence[dict[str, Any]],
    annotations: Any,
    metric: Metric = "coco",
    max_dets: int = 100,
    kinds: Sequence[str] | None = None,
    backend: str | None = None,
    area_ranges: Ranges | None = None,
) -> dict[str, Metrics]:
    """Compute the metrics of `evaluate` for each class: ``{kind: {class: metrics}}``. Arguments as there."""
    if metric == "voc":
        return {"voc": voc.per_class(predictions, annotations)}
    truth = coco.load_ground_truth(annotations)
    return {
        kind: coco.per_class(predictions, truth, kind, max_dets, area_ranges, backend)
        for kind in (kinds_of(predictions) if kinds is None else kinds)
    }


def kinds_of(predictions: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The kinds of metrics for COCO results: those of boxes, masks and keypoints that all results have."""
    keys = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
    kinds = (kind for kind, key in keys.items() if all(key in prediction for prediction in predictions))
    return (tuple(kinds) or ("bbox",)) if predictions else ("bbox",)


def write_details(
    predictions: Sequence[dict[str, Any]],
    annotations: Any,
    kinds: Sequence[str],
    max_dets: int,
    cell: float,
    folder: Path,
    area_ranges: Ranges | None = None,
    backend: str | None = None,
) -> None:
    """Write ``details.json`` and the plots of an error analysis.

    ``details.json`` has AP by class, by object size in feature cells, and of outlines. The analysis of masks (or else
    boxes) writes ``errors.json``, ``errors.png``, ``confusion.png`` and ``precision_recall.png``.

    Args:
        predictions: COCO results.
        annotations: COCO format: a path, the content, or a loaded object.
        kinds: "bbox", "segm", "keypoints".
        max_dets: number of detections per image and class that count.
        cell: side of a feature cell in pixels of the original image.
        folder: an existing folder.
        area_ranges: see `chosen_areas`.
        backend: see `chosen_backend`.
    """
    truth = coco.load_ground_truth(annotations)
    content: dict[str, Any] = {}
    for kind in kinds:
        classes = coco.per_class(predictions, truth, kind, max_dets, area_ranges, backend)
        sizes = coco.by_cells(predictions, truth, kind, cell, max_dets=max_dets, backend=backend)
        content[kind] = {"per_class": classes, "by_size_in_cells": sizes}
    if "segm" in kinds:
        content |= coco.evaluate(predictions, truth, ("boundary",), max_dets, area_ranges=area_ranges)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "details.json").write_text(json.dumps(content, indent=1))
    if regions := [kind for kind in kinds if kind != "keypoints"]:
        found = diagnosis.analyse(predictions, truth, regions[-1], max_dets=max_dets, backend=backend)
        diagnosis.write(found, folder)


def chosen_metric(wanted: str | None, default: str) -> Metric:
    """The requested metric, else the data set's own. Raises UserError for an unknown metric.

    Args:
        wanted: the requested metric, or None.
        default: the data set's own.
    """
    name = default if wanted is None else wanted
    if name == "coco":
        return "coco"
    if name == "voc":
        return "voc"
    raise UserError(f"metric={name}: there are coco and voc")


def check_settings(settings: Evaluation) -> None:
    """Raise UserError before training for settings that `evaluate` would refuse."""
    if settings.area_ranges is not None:
        chosen_areas(settings.area_ranges, "bbox")
    chosen_backend(settings.backend)


def write_tables(
    predictions: Sequence[dict[str, Any]],
    annotations: coco.Truth,
    metric: Metric,
    kinds: Sequence[str],
    settings: Evaluation,
    folder: Path,
) -> None:
    """Print and write the tables of ``settings.per_class`` and ``settings.details``.

    The other arguments are those of `evaluate`.

    Args:
        settings: the settings.
        folder: an existing folder.
    """
    truth, areas = coco.load_ground_truth(annotations), settings.area_ranges
    if settings.per_class:
        tables = per_class(predictions, truth, metric, settings.max_dets, kinds, settings.backend, areas)
        for kind, table in tables.items():
            console.print(metrics_table(table, f"{kind}, every class"))
        (folder / "per_class.json").write_text(json.dumps(tables, indent=1))
    if settings.details:
        write_details(
            predictions, truth, kinds, settings.max_dets, settings.cell, folder, areas, settings.backend
        )
