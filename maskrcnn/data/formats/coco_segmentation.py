"""The field ``segmentation`` of COCO's json: polygons in every nesting, and both kinds of RLE."""

from __future__ import annotations

import re
from typing import Any

from pycocotools import mask as coco_mask

from maskrcnn.data.defects import Kind
from maskrcnn.data.formats.coco_fields import NUMBERS, Bounds, Note, Refused, number
from maskrcnn.data.segmentation import polygon_bounds

# Numbers in groups of five bits: up to six characters with the flag "more follows", and one without it.
_RLE = re.compile("(?:[P-o]{0,6}[0-O])*")


def segmentation(value: Any, height: int, width: int, note: Note) -> tuple[Any, Bounds | None]:
    """Convert a segmentation, polygons or RLE.

    Args:
        value: the value in the json.
        height: of the image in pixels.
        width: of the image in pixels.
        note: collects what was converted.

    Returns:
        The readable part of it and its bounds; (None, None) if nothing can be read.
    """
    if isinstance(value, list):
        return _polygons(value, height, width, note)
    if isinstance(value, dict):
        return _rle(value, height, width, note)
    if value is not None:
        note(Kind.SEGMENTATION_TYPE, type(value).__name__)
    return None, None


def _polygons(value: list[Any], height: int, width: int, note: Note) -> tuple[Any, Bounds | None]:
    readable, bounds = [], []
    if len(value) == 1 and isinstance(value[0], dict):
        note(Kind.ONE_POLYGON)
        return _rle(value[0], height, width, note)
    polygons = value
    if value and all(isinstance(point, dict) for point in value):
        polygons = _flattened([value], note)  # corners are {x, y}
    elif value and not (isinstance(value[0], list) and value[0] and type(value[0][0]) in NUMBERS):
        polygons = _flattened(value, note)
    elif value and all(isinstance(point, list) and len(point) == 2 for point in value) and len(value) > 2:
        polygons = _flattened([value], note)  # corners are [x, y]
    for polygon in polygons:
        try:
            bounds.append(polygon_bounds(polygon, height, width))
            readable.append(polygon)
        except ValueError as error:
            note(Kind.POLYGON, str(error))
    if not readable:
        return None, None
    if len(readable) == len(value) and polygons is value:
        readable = value
    if len(bounds) == 1:
        return readable, bounds[0]
    left, top, right, bottom = zip(*bounds, strict=True)
    return readable, (min(left), min(top), max(right), max(bottom))


def _flattened(value: list[Any], note: Note) -> list[Any]:
    """Convert other nestings to polygons: one flat list, corners as [x, y], an extra list, numbers as strings."""
    if all(not isinstance(item, list | dict) for item in value):
        found = [_numbers(value)]
    else:
        found = []
        for item in value:
            inner = [_point(point) for point in item] if isinstance(item, list) else item
            while isinstance(inner, list) and len(inner) == 1 and isinstance(inner[0], list):
                inner = inner[0]
            pairs = isinstance(inner, list) and all(isinstance(p, list) and len(p) == 2 for p in inner)
            found.append(_numbers([v for point in inner for v in point] if pairs else inner))
    if found != value:
        note(Kind.ONE_POLYGON)
    return found


def _point(value: Any) -> Any:
    """A corner {x, y} as [x, y]. Other values are returned unchanged."""
    return [value["x"], value["y"]] if isinstance(value, dict) and {"x", "y"} <= set(value) else value


def _numbers(value: Any) -> Any:
    """Convert a list of numbers that may be strings. Other values are returned unchanged."""
    if not isinstance(value, list) or set(map(type, value)) <= NUMBERS:
        return value
    spelled = [number(v) if isinstance(v, str) else None for v in value]
    return value if None in spelled else spelled


def _rle(value: dict[str, Any], height: int, width: int, note: Note) -> tuple[Any, Bounds | None]:
    """Check an RLE, except the sum of compressed runs, which `decode_all` checks."""
    stated = value.get("size")
    if not isinstance(stated, list) or stated != [height, width]:
        raise Refused(Kind.RLE_SIZE, f"{stated}, the image {[height, width]}")
    counts = value.get("counts")
    if isinstance(counts, str) and counts[:2] == "b'" and counts[-1] == "'":  # Python's notation of bytes
        counts = counts[2:-1].replace("\\\\", "\\")
        value = {**value, "counts": counts}
        note(Kind.RLE_BYTES)
    if isinstance(counts, str):
        if not _RLE.fullmatch(counts):
            raise Refused(Kind.RLE_DAMAGED, "its RLE string is damaged")
        rle = value
    elif isinstance(counts, list):
        if set(map(type, counts)) - {int} or any(run < 0 for run in counts):
            raise Refused(
                Kind.RLE_DAMAGED, "its RLE 'counts' is neither a string nor a list of whole numbers"
            )
        if counts and sum(counts) != height * width:
            raise Refused(
                Kind.RLE_DAMAGED,
                f"its RLE describes {sum(counts)} pixels, but the image has {height} x {width} = {height * width}",
            )
        rle = coco_mask.frPyObjects(
            {"size": [height, width], "counts": counts or [height * width]}, height, width
        )
    else:
        raise Refused(Kind.RLE_COUNTS)
    x, y, w, h = coco_mask.toBbox(rle).tolist()
    if w <= 0 or h <= 0:
        note(Kind.EMPTY_MASK)
        return None, None
    return value, (x, y, x + w, y + h)
