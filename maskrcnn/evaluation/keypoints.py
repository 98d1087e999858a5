"""Standard deviations of keypoints for object keypoint similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.errors import UserError

# COCO's values for a person, in its order of keypoints (cocodataset.org, keypoint evaluation).
PERSON = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)


def oks_sigmas(categories: Sequence[dict[str, Any]]) -> npt.NDArray[np.float64]:
    """Standard deviations ``[J]`` of the keypoints for object keypoint similarity, in units of the object's scale.

    Args:
        categories: of a data set. Their ``sigmas`` are used if they have some, else COCO's for 17 keypoints.

    Raises:
        UserError: other keypoints have no sigmas, or categories differ, which COCO's metric does not support.
    """
    found = {_of(category) for category in categories if category.get("keypoints")}
    if len(found) != 1:
        raise UserError(
            f"COCO's keypoint metric takes one set of sigmas, but the categories have {len(found)}; "
            "give all categories the same keypoints and 'sigmas'"
        )
    return np.array(found.pop())


def _of(category: dict[str, Any]) -> tuple[float, ...]:
    count, sigmas = len(category["keypoints"]), category.get("sigmas")
    if sigmas is None and count == len(PERSON):
        return PERSON
    if not isinstance(sigmas, list) or len(sigmas) != count or not all(map(_positive, sigmas)):
        raise UserError(
            f"category {category['id']} has {count} keypoints and sigmas={sigmas!r}; object keypoint similarity needs "
            "one positive number for each in 'sigmas' of the category (COCO's 17 have published ones: 0.025 for an "
            "eye to 0.107 for a hip)"
        )
    return tuple(float(s) for s in sigmas)


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
