"""Converts keypoints from and to COCO's format, and swaps left and right in a mirror image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float32]
_HALF_PIXEL = np.array([0.5, 0.5, 0], np.float32)


def from_coco(numbers: Sequence[float]) -> Points:
    """Convert COCO's flat list x, y, visibility, x, y, ... to continuous coordinates ``[J, 3]`` float32.

    COCO's numbers are indices of pixels, so half a pixel is added. Keypoints of visibility 0 become zeros.

    Raises:
        ValueError: not a list of triples.
    """
    points = np.array(numbers, np.float32).reshape(-1, 3)
    return np.where(points[:, 2:] > 0, points + _HALF_PIXEL, np.float32(0))


def to_coco(points: npt.NDArray[np.floating]) -> list[float]:
    """Convert continuous x, y and visibility (or score) ``[J, 3]`` to COCO's flat list, the inverse of `from_coco`."""
    flat: list[float] = (points.astype(np.float64) - _HALF_PIXEL).reshape(-1).tolist()
    return flat


def mirror_order(names: Sequence[str]) -> list[int]:
    """Index of each keypoint's counterpart in a mirror image: for ``left_eye`` that of ``right_eye``."""
    places = {name: place for place, name in enumerate(names)}
    return [places.get(_other_side(name), place) for place, name in enumerate(names)]


def _other_side(name: str) -> str:
    return "right".join(part.replace("right", "left") for part in name.split("left"))
