"""Draws detections, ground truth and training samples onto images. It does not import torch."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.data.keypoints import to_coco
from maskrcnn.data.masks import Bits, MaskBitmap, encode
from maskrcnn.data.segmentation import decode

if TYPE_CHECKING:
    from maskrcnn.data.transforms import Sample

Picture = npt.NDArray[np.uint8]
Skeletons = dict[int, list[tuple[int, int]]]
_Rectangle = tuple[int, int, int, int]
_Colour = tuple[int, int, int]
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_OPACITY = 0.45  # opacity of masks
_SURE = 0.05  # probability of a keypoint's cell, one of thousands, from which on it is drawn (Detectron2's)


def draw_results(
    image: Picture,
    results: Sequence[dict[str, Any]],
    names: dict[int, str],
    score_threshold: float = 0.5,
    skeletons: Mapping[int, Sequence[tuple[int, int]]] | None = None,
) -> Picture:
    """Draw COCO results or annotations onto an image.

    Crowds are left out. Each object has its own colour: that of its number ``colour`` if it has one.

    Args:
        image: ``[H, W, 3]`` RGB.
        results: COCO results or annotations.
        names: category id to name.
        score_threshold: smallest score to draw. Annotations have no score and are always drawn.
        skeletons: category id to the pairs of keypoints that a line connects.

    Returns:
        A new image.
    """
    canvas = image.copy()
    chosen = [r for r in results if r.get("score", 1.0) >= score_threshold and not r.get("iscrowd")]
    chosen.sort(key=lambda r: r.get("score", 1.0))
    colours = [_colour(result.get("colour", index)) for index, result in enumerate(chosen)]
    for colour, result in zip(colours, chosen, strict=True):
        segmentation = result.get("segmentation")
        if segmentation and (bitmap := decode(segmentation, *canvas.shape[:2])) is not None:
            _draw_mask(canvas, bitmap, colour)
    for colour, result in zip(colours, chosen, strict=True):
        x, y, width, height = result["bbox"]
        corners = (round(x), round(y)), (round(x + width), round(y + height))
        cv2.rectangle(canvas, *corners, colour, _thickness(canvas))
        if result.get("keypoints"):
            lines = (skeletons or {}).get(result["category_id"], ())
            _draw_keypoints(canvas, result["keypoints"], lines, colour)
    taken: list[_Rectangle] = []
    # Draw captions by descending score, so that the best one gets the best position.
    for colour, result in reversed(list(zip(colours, chosen, strict=True))):
        _draw_caption(canvas, result["bbox"], colour, _caption(result, names), taken)
    return canvas


def skeletons(categories: Sequence[dict[str, Any]]) -> Skeletons:
    """The pairs of keypoints to connect, counted from 0, of each category that lists them (COCO counts from 1)."""
    return {
        int(category["id"]): [(a - 1, b - 1) for a, b in category["skeleton"]]
        for category in categories
        if category.get("skeleton")
    }


def draw_outlines(image: Picture, annotations: Iterable[dict[str, Any]], label: str) -> Picture:
    """Draw outlines of objects, or boxes of objects without masks, in white, and a caption at the top.

    Args:
        image: ``[H, W, 3]`` RGB.
        annotations: COCO annotations.
        label: the caption.
    """
    canvas = image.copy()
    thick, white = _thickness(canvas), (255, 255, 255)
    for annotation in annotations:
        segmentation = annotation.get("segmentation")
        if segmentation and (bitmap := decode(segmentation, *canvas.shape[:2])) is not None:
            _outline(canvas, bitmap, white)
        else:
            x, y, width, height = annotation["bbox"]
            cv2.rectangle(canvas, (round(x), round(y)), (round(x + width), round(y + height)), white, thick)
    _draw_caption(canvas, [0, 0, canvas.shape[1], 0], white, label, [])
    return canvas


def side_by_side(left: Picture, right: Picture) -> Picture:
    """Put two pictures of equal height next to each other, with a white gap of 4 pixels."""
    return np.concatenate([left, np.full((left.shape[0], 4, 3), 255, np.uint8), right], axis=1)


def sheet(pictures: Iterable[Picture], columns: int = 2, width: int = 640) -> Picture:
    """Arrange pictures of any size on a white sheet.

    A picture more than twice as tall as wide is resized to that height instead, so that the size of the sheet is
    bounded.

    Args:
        pictures: ``[H, W, 3]`` each.
        columns: pictures per row.
        width: width in pixels to which each picture is resized.
    """
    scaled = []
    for picture in pictures:
        height, now = map(int, picture.shape[:2])
        scaled.append(to_width(picture, max(min(width, 2 * width * now // height), 1)))
    rows = [scaled[begin : begin + columns] for begin in range(0, len(scaled), columns)]
    heights = [max(picture.shape[0] for picture in row) + 6 for row in rows]
    out = np.full((sum(heights), columns * (width + 6), 3), 255, np.uint8)
    for row, top in zip(rows, np.cumsum([0, *heights[:-1]]), strict=True):
        for column, picture in enumerate(row):
            left = column * (width + 6)
            out[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return out


def to_width(picture: Picture, width: int) -> Picture:
    """Resize a picture ``[H, W, 3]`` to ``width`` pixels, keeping its aspect ratio."""
    height = max(round(picture.shape[0] * width / picture.shape[1]), 1)
    how = cv2.INTER_AREA if width < picture.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=how), np.uint8)


def _caption(result: dict[str, Any], names: dict[int, str]) -> str:
    name = names.get(result["category_id"], str(result["category_id"]))
    return f"{name} {result['score']:.2f}" if "score" in result else name


def _colour(index: int) -> _Colour:
    """Colours of equal brightness. Neighbouring indices have very different hues (golden ratio)."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.61803398875 % 1.0, 0.85, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def _thickness(canvas: Picture) -> int:
    """Thickness of lines in pixels: one for a picture of the size of a screen, more for a larger one."""
    shortest: int = min(canvas.shape[:2])
    return max(1, round(shortest / 500))


def _draw_mask(canvas: Picture, mask: MaskBitmap, colour: _Colour) -> None:
    """Blend the mask into the canvas within the mask's bounding box, without a copy of the image."""
    height, width = mask.bits.shape
    part = canvas[mask.y0 : mask.y0 + height, mask.x0 : mask.x0 + width]
    inside = mask.bits.view(np.bool_)
    levels = np.arange(256)[None, :, None]
    table = ((1 - _OPACITY) * levels + _OPACITY * np.array(colour)).astype(np.uint8)  # [1, 256, 3]
    np.copyto(part, np.asarray(cv2.LUT(part, table), np.uint8), where=inside[..., None])
    _outline(canvas, mask, colour)


def _outline(canvas: Picture, mask: MaskBitmap, colour: _Colour) -> None:
    lines, _ = cv2.findContours(
        mask.bits, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(mask.x0, mask.y0)
    )
    cv2.drawContours(canvas, lines, -1, colour, _thickness(canvas))


def _draw_keypoints(
    canvas: Picture, numbers: Sequence[float], lines: Sequence[tuple[int, int]], colour: _Colour
) -> None:
    """Draw the keypoints of sufficient visibility or score as dots, connected by ``lines``.

    ``numbers`` is COCO's flat list.
    """
    points = np.asarray(numbers, np.float64).reshape(-1, 3)
    shown = points[:, 2] > _SURE
    places = [(round(x), round(y)) for x, y in points[:, :2].tolist()]
    thick = _thickness(canvas)
    for first, second in lines:
        if shown[first] and shown[second]:
            cv2.line(canvas, places[first], places[second], colour, thick + 1, cv2.LINE_AA)
    for place, visible in zip(places, shown.tolist(), strict=True):
        if visible:
            cv2.circle(canvas, place, thick + 2, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(canvas, place, thick + 1, colour, -1, cv2.LINE_AA)


def _draw_caption(
    canvas: Picture, box: Sequence[float], colour: _Colour, caption: str, taken: list[_Rectangle]
) -> None:
    """Draw a caption on the box's colour: above, inside or below the box, where no other caption is."""
    scale = max(0.4, min(canvas.shape[:2]) / 1100)
    thick = max(1, round(scale * 1.3))
    (width, height), base = cv2.getTextSize(caption, _FONT, scale, thick)
    if width > 4 * box[2]:
        return  # no caption is better than one that hides the neighbours of a small object
    height += base
    left = max(0, min(round(box[0]), canvas.shape[1] - width))
    tops = [round(box[1]) - height, round(box[1]), round(box[1] + box[3]) - height, round(box[1] + box[3])]
    for top in tops:
        place = left, top, left + width, top + height
        if top >= 0 and place[3] <= canvas.shape[0] and not any(_overlap(place, other) for other in taken):
            break
    else:
        return
    taken.append(place)
    cv2.rectangle(canvas, place[:2], place[2:], colour, -1)
    bright = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 110
    letters = (0, 0, 0) if bright else (255, 255, 255)
    cv2.putText(canvas, caption, (left, place[3] - base // 2 - 1), _FONT, scale, letters, thick, cv2.LINE_AA)


def _overlap(a: _Rectangle, b: _Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def visible(sample: Sample) -> Picture:
    """The network's input ``[H, W, 3]`` uint8, before normalisation."""
    return np.asarray(replace(sample.picture, normalise=None).pixels(), np.uint8)


def as_annotations(sample: Sample, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The objects of a sample in COCO's format, in pixels of the network's input.

    Args:
        sample: from a training loader.
        category_ids: COCO id of each label.
    """
    entries = []
    for g, (x1, y1, x2, y2) in enumerate(sample.boxes.tolist()):
        mask = sample.masks[g]
        entry = {
            "image_id": sample.image_id,
            "category_id": category_ids[int(sample.labels[g])],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "iscrowd": int(sample.crowd[g]),
        }
        if mask is not None:
            entry["segmentation"] = encode(_seen(mask, sample.to_bitmap[g], sample.picture.size))
        if sample.keypoints is not None:
            entry["keypoints"] = to_coco(sample.keypoints[g])
        entries.append(entry)
    return entries


def _seen(mask: MaskBitmap, to_bitmap: npt.NDArray[np.float32], size: tuple[int, int]) -> Bits:
    """The mask at the centre of every pixel of an image of ``size`` (height, width)."""
    height, width = mask.bits.shape
    x = np.floor((np.arange(size[1]) + 0.5) * to_bitmap[0] + to_bitmap[2]).astype(np.int64)
    y = np.floor((np.arange(size[0]) + 0.5) * to_bitmap[1] + to_bitmap[3]).astype(np.int64)
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))
    read = mask.bits[np.ix_(y.clip(0, height - 1), x.clip(0, width - 1))]
    return np.asarray(read * inside, np.uint8)
