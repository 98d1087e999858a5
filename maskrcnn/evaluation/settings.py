"""Settings of evaluations, for `Evaluator`, the trainer and ``maskrcnn eval``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from maskrcnn.errors import Count, Fraction, Positive, PositiveAmount


@dataclass(frozen=True)
class Evaluation:
    """Settings of evaluations.

    Args:
        every: steps between two evaluations; 0 evaluates once, after the last step.
        best_by: the metric that selects best.pt, as ``kind/name`` in metrics.json (``segm/AP``); None is mask AP, or
            box AP of a model without masks.
        patience: end training after this many evaluations without improvement; None trains all steps.
        max_dets: number of detections per image that count.
        area_ranges: object sizes for AP, ``{name: [least, most]}`` in square pixels; None is COCO's small, medium and
            large.
        batch_size: images per batch.
        tile: side in pixels of the overlapping windows that large images are cut into (`prediction.tiles.Tiles`); None
            does not cut.
        overlap: smallest overlap of neighbouring windows, relative to their side.
        num_images: evaluate only the first images; None is all.
        per_class: also print the metrics of every class, and write them to per_class.json.
        backend: package of COCO's metrics, ``hotcoco`` or ``pycocotools``; None is hotcoco if it is installed.
        details: also write AP by class, by object size and of outlines, and an error analysis.
        cell: side of a feature cell in pixels of the image, the unit of object sizes in ``details``.
    """

    every: Count = 0
    best_by: str | None = None
    patience: Positive | None = None
    max_dets: Positive = 100
    area_ranges: dict[str, Sequence[float | None]] | None = None
    batch_size: Positive = 8
    tile: Positive | None = None
    overlap: Fraction = 0.2
    num_images: Positive | None = None
    per_class: bool = False
    backend: str | None = None
    details: bool = False
    cell: PositiveAmount = 16.0
