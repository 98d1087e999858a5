"""Drawn shapes as COCO segmentations: polygons as they are, everything else as the run lengths of its pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from maskrcnn.data.masks import encode
from maskrcnn.data.segmentation import compressed

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Outline:
    """A shape in an image: COCO's polygons or run lengths. rectangle: whether it was drawn as one."""

    segmentation: Any
    rectangle: bool = False


def polygon(points: Sequence[Sequence[float]]) -> Outline:
    """A polygon by its corners (x, y). Raises ValueError for what are no pairs."""
    return Outline([[float(value) for x, y in points for value in (x, y)]])


def rectangle(x1: float, y1: float, x2: float, y2: float) -> Outline:
    """A rectangle by two opposite corners."""
    (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
    return Outline([[x1, y1, x2, y1, x2, y2, x1, y2]], rectangle=True)


def turned(outline: Outline, degrees: float, x: float, y: float) -> Outline:
    """A rectangle turned clockwise, as seen on the screen, about a point."""
    if degrees % 360 == 0:
        return outline
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    (corners,) = outline.segmentation
    pairs = [(px - x, py - y) for px, py in zip(corners[::2], corners[1::2], strict=True)]
    return Outline(
        [[v for a, b in pairs for v in (x + cos * a - sin * b, y + sin * a + cos * b)]], outline.rectangle
    )


def ellipse(x: float, y: float, rx: float, ry: float, size: Size, degrees: float = 0) -> Outline:
    """The pixels whose centres lie in an ellipse of the half axes rx and ry, turned clockwise on the screen."""
    across, down = np.meshgrid(np.arange(size[1]) + 0.5 - x, np.arange(size[0]) + 0.5 - y)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    u, v = cos * across + sin * down, cos * down - sin * across
    return Outline(encode((u * ry) ** 2 + (v * rx) ** 2 <= (rx * ry) ** 2))


def pixels(mask: npt.NDArray[Any], size: Size, left: int = 0, top: int = 0) -> Outline:
    """The non-zero values of an array whose top left is the image's pixel (left, top); cut at the image's border."""
    whole = np.zeros(size, np.bool_)
    x1, y1 = max(left, 0), max(top, 0)
    inside = mask[y1 - top : size[0] - top, x1 - left : size[1] - left] != 0
    whole[y1 : y1 + inside.shape[0], x1 : x1 + inside.shape[1]] = inside
    return Outline(encode(whole))


def union(outlines: Sequence[Outline], size: Size) -> Outline:
    """One object of several pieces."""
    if len(outlines) == 1:
        return outlines[0]
    if all(isinstance(outline.segmentation, list) for outline in outlines):
        pieces = [piece for outline in outlines for piece in outline.segmentation]
        return Outline(pieces, rectangle=all(outline.rectangle for outline in outlines))
    merged = coco_mask.merge([compressed(outline.segmentation, *size) for outline in outlines])
    return Outline({"size": list(size), "counts": merged["counts"].decode("ascii")})
