"""Detections and ground truth drawn onto images."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.segmentation import decode

Picture = npt.NDArray[np.uint8]


def draw_results(
    image: Picture, results: Sequence[dict[str, Any]], names: dict[int, str], score_threshold: float = 0.5
) -> Picture:
    """``image`` ``[H, W, 3]`` RGB with COCO results or annotations of at least ``score_threshold`` drawn onto it.

    names: category id to name. Annotations, which have no score, are always drawn; crowds are left out.
    """
    canvas = image.copy()
    chosen = [r for r in results if r.get("score", 1.0) >= score_threshold and not r.get("iscrowd")]
    for index, result in enumerate(sorted(chosen, key=lambda r: r.get("score", 1.0))):
        colour = _colour(index)
        segmentation = result.get("segmentation")
        if segmentation and (bitmap := decode(segmentation, *canvas.shape[:2])) is not None:
            _draw_mask(canvas, bitmap.full(*canvas.shape[:2]).astype(bool), colour)
        _draw_box(canvas, result["bbox"], colour, _caption(result, names))
    return canvas


def side_by_side(left: Picture, right: Picture, gap: int = 4) -> Picture:
    """Two pictures of one height, with a white gap between them."""
    return np.concatenate([left, np.full((left.shape[0], gap, 3), 255, np.uint8), right], axis=1)


def sheet(pictures: Sequence[Picture], columns: int = 2, width: int = 640) -> Picture:
    """Pictures of any size on a white sheet, ``columns`` to a row, each brought to ``width`` pixels."""
    scaled = [_to_width(picture, width) for picture in pictures]
    rows = [scaled[begin : begin + columns] for begin in range(0, len(scaled), columns)]
    heights = [max(picture.shape[0] for picture in row) + 6 for row in rows]
    out = np.full((sum(heights), columns * (width + 6), 3), 255, np.uint8)
    for row, top in zip(rows, np.cumsum([0, *heights[:-1]]), strict=True):
        for column, picture in enumerate(row):
            left = column * (width + 6)
            out[top : top + picture.shape[0], left : left + width] = picture
    return out


def _to_width(picture: Picture, width: int) -> Picture:
    height = max(round(picture.shape[0] * width / picture.shape[1]), 1)
    how = cv2.INTER_AREA if width < picture.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=how), np.uint8)


def _caption(result: dict[str, Any], names: dict[int, str]) -> str:
    name = names.get(result["category_id"], str(result["category_id"]))
    return f"{name} {result['score']:.2f}" if "score" in result else name


def _colour(index: int) -> tuple[int, int, int]:
    """Colours of equal brightness, far apart for neighbouring indices (golden-ratio hue)."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.61803398875 % 1.0, 0.85, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def _draw_mask(canvas: Picture, mask: npt.NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    canvas[mask] = (0.55 * canvas[mask] + 0.45 * np.array(colour)).astype(np.uint8)
    outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outline, -1, colour, 1)


def _draw_box(canvas: Picture, box: Sequence[float], colour: tuple[int, int, int], caption: str) -> None:
    """The box, and its caption on a dark ground above it (inside where there is no room), if it is not too small."""
    scale = max(0.35, min(canvas.shape[:2]) / 1200)
    x, y = round(box[0]), round(box[1])
    cv2.rectangle(canvas, (x, y), (round(box[0] + box[2]), round(box[1] + box[3])), colour, 1)
    (width, height), base = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    if width > 3 * box[2]:
        return  # a caption that hides a small object's neighbours says less than none
    top = y - height - base if y - height - base >= 0 else y
    left = max(0, min(x, canvas.shape[1] - width))
    cv2.rectangle(canvas, (left, top), (left + width, top + height + base), (30, 30, 30), -1)
    place = (left, top + height + base // 2)
    cv2.putText(canvas, caption, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
