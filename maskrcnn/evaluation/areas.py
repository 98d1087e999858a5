"""Object sizes for average precision: COCO's small, medium and large, or custom ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from maskrcnn.errors import UserError

NO_LIMIT = 1e10  # square pixels; COCO's upper limit for objects of any size
Ranges = Mapping[str, Sequence[float | None]]
Areas = dict[str, tuple[float, float]]
COCO_AREAS: Areas = {"s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, NO_LIMIT)}


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
    if (
        len(numbers) != 2
        or not all(isinstance(v, int | float) and math.isfinite(v) for v in numbers)
        or not 0 <= numbers[0] < numbers[1]
    ):
        raise UserError(
            f"evaluation.area_ranges.{name}={ends}: expected [least, most] in square pixels, for example "
            "[0, 1024], or [9216, null] for no limit"
        )
    return float(numbers[0]), float(numbers[1])
