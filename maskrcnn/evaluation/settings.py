"""Settings of evaluations, for `Evaluator`, the trainer and ``maskrcnn eval``, and their ranges of object sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from maskrcnn.errors import Count, Fraction, Positive, PositiveAmount, UserError

NO_LIMIT = 1e10  # square pixels; COCO's upper limit for objects of any size
Ranges = Mapping[str, Sequence[float | None]]
Areas = dict[str, tuple[float, float]]
COCO_AREAS: Areas = {"s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, NO_LIMIT)}


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


def chosen_areas(given: Ranges | None, iou_type: str) -> Areas:
    """Ranges of areas in square pixels by name, both ends included. Their metrics are named "AP" + name.

    Args:
        given: ``{name: [least, most]}``, where None as ``most`` is no limit. None is COCO's s, m and l (m and l for
            keypoints, because COCO has no keypoints on small persons).
        iou_type: "bbox", "segm" or "keypoints".

    Raises:
        UserError: not a range, or a name that is already used.
    """
    if given is None:
        return {name: area for name, area in COCO_AREAS.items() if (iou_type, name) != ("keypoints", "s")}
    return {str(name): _area(str(name), ends) for name, ends in given.items()}


def _area(name: str, ends: object) -> tuple[float, float]:
    if name in ("", "50", "75", "all"):
        raise UserError(f"evaluation.area_ranges has the name {name!r}, but AP{name} is another figure")
    numbers = list(ends) if isinstance(ends, list | tuple) else []
    if numbers[1:] == [None]:
        numbers[1] = NO_LIMIT
    known = len(numbers) == 2 and all(isinstance(v, int | float) and math.isfinite(v) for v in numbers)
    if not known or not 0 <= numbers[0] < numbers[1]:
        raise UserError(
            f"evaluation.area_ranges.{name}={ends}: expected [least, most] in square pixels, for example "
            "[0, 1024], or [9216, null] for no limit"
        )
    return float(numbers[0]), float(numbers[1])
