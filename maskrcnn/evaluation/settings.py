"""How a model is scored: the settings of `Evaluator`, of the trainer's evaluations and of tools/eval.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from maskrcnn.errors import Count, Fraction, Positive, PositiveAmount


@dataclass(frozen=True)
class Evaluation:
    """Settings of the evaluations.

    Args:
        every: steps between two evaluations; 0 evaluates once, after the last step.
        best_by: the metric that chooses best.pt, as ``kind/name`` in metrics.json (``segm/AP``); None is AP of the
            masks, or of what the model has instead.
        patience: evaluations without a better one after which training ends; None trains all steps.
        max_dets: detections per image that count.
        area_ranges: object sizes that AP is reported for, ``{name: [least, most]}`` in square pixels; None is COCO's
            small, medium and large.
        batch_size: images that go through the network at once.
        tile: side in pixels of the overlapping windows that large images are cut into (`prediction.tiles.Tiles`); None
            shows the network whole images.
        overlap: share of its side that a window has in common with the next.
        num_images: evaluate the first images only; None is all.
        per_class: also print the metrics of every class, and write them to per_class.json.
        backend: of COCO's metrics, ``hotcoco`` or ``pycocotools``; None is hotcoco where it is installed.
        details: also write AP by class and by object size, of outlines, and an analysis of the errors.
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
