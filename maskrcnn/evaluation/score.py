"""Computes metrics of existing predictions. It does not import torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maskrcnn.console import console, metrics_table
from maskrcnn.errors import UserError
from maskrcnn.evaluation.areas import chosen_areas
from maskrcnn.evaluation.backends import chosen_backend
from maskrcnn.evaluation.coco import Truth, load_ground_truth
from maskrcnn.evaluation.metrics import Metric, evaluate, per_class, write_details
from maskrcnn.evaluation.settings import Evaluation

Metrics = dict[str, dict[str, float | None]]


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
    """Raise UserError before training for settings that `score` would refuse."""
    if settings.area_ranges is not None:
        chosen_areas(settings.area_ranges, "bbox")
    chosen_backend(settings.backend)


def score(
    predictions: list[dict[str, Any]],
    truth: Truth,
    metric: Metric,
    kinds: Sequence[str],
    settings: Evaluation,
) -> Metrics:
    """Compute the metrics of predictions.

    Args:
        predictions: COCO results.
        truth: annotations in COCO's format.
        metric: ``coco`` or ``voc``.
        kinds: what COCO scores: ``bbox``, ``segm``, ``keypoints``.
        settings: max_dets, area_ranges and backend are used.
    """
    areas = settings.area_ranges
    return evaluate(predictions, truth, metric, settings.max_dets, None, kinds, settings.backend, areas)


def write_tables(
    predictions: list[dict[str, Any]],
    annotations: Truth,
    metric: Metric,
    kinds: Sequence[str],
    settings: Evaluation,
    folder: Path,
) -> None:
    """Print and write the tables of ``settings.per_class`` and ``settings.details``.

    Args:
        predictions: see `score`.
        annotations: see `score`.
        metric: see `score`.
        kinds: see `score`.
        settings: the settings.
        folder: an existing folder.
    """
    truth, areas = load_ground_truth(annotations), settings.area_ranges
    if settings.per_class:
        tables = per_class(predictions, truth, metric, settings.max_dets, kinds, settings.backend, areas)
        for kind, table in tables.items():
            console.print(metrics_table(table, f"{kind}, every class"))
        (folder / "per_class.json").write_text(json.dumps(tables, indent=1))
    if settings.details:
        write_details(
            predictions, truth, kinds, settings.max_dets, settings.cell, folder, areas, settings.backend
        )


def attempt(what: str, make: Callable[[], None]) -> None:
    """Call ``make``. A failure prints a warning, because metrics and weights are already written."""
    try:
        make()
    except Exception as error:
        console.print(
            f"warning: {what} could not be written ({type(error).__name__}: {error}); metrics.json is complete",
            style="yellow",
        )
