"""Keypoints: COCO's numbers and ours, and what a mirror makes of left and right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float32]
_HALF_PIXEL = np.array([0.5, 0.5, 0], np.float32)


def from_coco(numbers: Sequence[float]) -> Points:
    """COCO's flat list x, y, visibility, x, y, ... as ``[J, 3]`` float32, continuous: what COCO gives are indices of
    pixels, whose centres lie half a pixel further. Keypoints of visibility 0 are all zeros.

    Raises ValueError for what is no list of triples.
    """
    points = np.array(numbers, np.float32).reshape(-1, 3)
    return np.where(points[:, 2:] > 0, points + _HALF_PIXEL, np.float32(0))


def to_coco(points: npt.NDArray[np.floating]) -> list[float]:
    """``[J, 3]`` continuous x, y and visibility (or score) as COCO's flat list; the reverse of ``from_coco``."""
    flat: list[float] = (points.astype(np.float64) - _HALF_PIXEL).reshape(-1).tolist()
    return flat


def mirror_order(names: Sequence[str]) -> list[int]:
    """For each keypoint the one that it becomes in a mirror: for ``left_eye`` the place of ``right_eye``."""
    places = {name: place for place, name in enumerate(names)}
    return [places.get(_other_side(name), place) for place, name in enumerate(names)]


def _other_side(name: str) -> str:
    return "right".join(part.replace("right", "left") for part in name.split("left"))
