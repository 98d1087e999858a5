"""Shapes as COCO segmentations: polygons unchanged, all others as the run lengths of their pixels."""

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
    """A shape in an image.

    Args:
        segmentation: COCO's polygons or run lengths.
        rectangle: whether it was drawn as a rectangle.
    """

    segmentation: Any
    rectangle: bool = False


def polygon(points: Sequence[Sequence[float]]) -> Outline:
    """A polygon from its corners (x, y). Raises ValueError if they are not pairs."""
    return Outline([[float(value) for x, y in points for value in (x, y)]])


def rectangle(x1: float, y1: float, x2: float, y2: float) -> Outline:
    """A rectangle from two opposite corners, in pixels."""
    (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
    return Outline([[x1, y1, x2, y1, x2, y2, x1, y2]], rectangle=True)


def turned(outline: Outline, degrees: float, x: float, y: float) -> Outline:
    """A rectangle rotated clockwise, as seen on the screen.

    Args:
        outline: the rectangle.
        degrees: the angle.
        x: centre of the rotation in pixels.
        y: centre of the rotation in pixels.
    """
    if degrees % 360 == 0:
        return outline
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    (corners,) = outline.segmentation
    pairs = [(px - x, py - y) for px, py in zip(corners[::2], corners[1::2], strict=True)]
    return Outline(
        [[v for a, b in pairs for v in (x + cos * a - sin * b, y + sin * a + cos * b)]], outline.rectangle
    )


def ellipse(x: float, y: float, rx: float, ry: float, size: Size, degrees: float = 0) -> Outline:
    """The pixels whose centres lie inside an ellipse.

    Args:
        x: centre in pixels.
        y: centre in pixels.
        rx: half axis in pixels.
        ry: half axis in pixels.
        size: (height, width) of the image.
        degrees: rotation, clockwise as seen on the screen.
    """
    across, down = np.meshgrid(np.arange(size[1]) + 0.5 - x, np.arange(size[0]) + 0.5 - y)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    u, v = cos * across + sin * down, cos * down - sin * across
    return Outline(encode((u * ry) ** 2 + (v * rx) ** 2 <= (rx * ry) ** 2))


def pixels(mask: npt.NDArray[Any], size: Size, left: int = 0, top: int = 0) -> Outline:
    """The non-zero pixels of an array, cropped at the border of the image.

    Args:
        mask: ``[h, w]``.
        size: (height, width) of the image.
        left: column of the image in which the array begins.
        top: row of the image in which the array begins.
    """
    whole = np.zeros(size, np.bool_)
    x1, y1 = max(left, 0), max(top, 0)
    inside = mask[y1 - top : size[0] - top, x1 - left : size[1] - left] != 0
    whole[y1 : y1 + inside.shape[0], x1 : x1 + inside.shape[1]] = inside
    return Outline(encode(whole))


def union(outlines: Sequence[Outline], size: Size) -> Outline:
    """One object from several pieces in an image of ``size`` (height, width)."""
    if len(outlines) == 1:
        return outlines[0]
    if all(isinstance(outline.segmentation, list) for outline in outlines):
        pieces = [piece for outline in outlines for piece in outline.segmentation]
        return Outline(pieces, rectangle=all(outline.rectangle for outline in outlines))
    merged = coco_mask.merge([compressed(outline.segmentation, *size) for outline in outlines])
    return Outline({"size": list(size), "counts": merged["counts"].decode("ascii")})
