"""The fields of COCO's json: which values are valid, and how others are converted.

Each function takes a value from the json. It returns the value in the type that the rest of the project uses, or
raises `Refused` with the kind of the defect. ``note`` collects what was converted or left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pycocotools import mask as coco_mask

from maskrcnn.data.defects import Kind
from maskrcnn.data.segmentation import polygon_bounds

Note = Callable[..., None]  # (kind, found="")
Bounds = tuple[float, float, float, float]  # x1, y1, x2, y2
# "12.0" is how tables write a number where another row has none.
_WHOLE = re.compile(r"\s*([+-]?[0-9]{1,19})(?:\.0*)?\s*")
# Numbers in groups of five bits: up to six characters with the flag "more follows", and one without it.
_RLE = re.compile("(?:[P-o]{0,6}[0-O])*")
_LIMIT = 2**63  # upper limit of ids in numpy's integers
_LONGEST_SIDE, _MOST_PIXELS = 2**20, 2**30  # of an image: OpenCV's limits
_NUMBERS = {int, float}  # types of numbers in a json
_SIDES = ["x", "y", "width", "height"], ["x", "y", "w", "h"]


class Refused(Exception):
    """A value that is invalid in its field.

    Args:
        kind: the kind of the defect.
        found: the value, for the message.
    """

    def __init__(self, kind: Kind, found: str = "") -> None:
        self.kind, self.found = kind, found


def whole(value: Any) -> int | None:
    """An integer from 0 to 2^63 - 1: 12, 12.0 or "12". None for anything else."""
    if type(value) is int:
        number = value
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    elif isinstance(value, str) and (spelled := _WHOLE.fullmatch(value)):
        number = int(spelled[1])
    else:
        return None
    return number if 0 <= number < _LIMIT else None


def number(value: Any) -> float | None:
    """A finite number: 1.5 or "1.5". None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def identity(entry: Mapping[str, Any], key: str, note: Note) -> int | None:
    """The id in the field ``key`` of an entry, or None if it is invalid."""
    found = whole(entry.get(key))
    if found is not None and type(entry[key]) is not int:
        note(Kind.READ_AS_NUMBER, key)
    return found


def size(entry: Mapping[str, Any], note: Note) -> tuple[int, int]:
    """(height, width) in pixels of an image entry."""
    height, width = (identity(entry, side, note) for side in ("height", "width"))
    if height is None or width is None or min(height, width) < 1:
        raise Refused(Kind.NO_SIZE)
    if max(height, width) > _LONGEST_SIDE or height * width > _MOST_PIXELS:
        raise Refused(Kind.TOO_LARGE, f"{height} x {width}")
    return height, width


def unpacked(value: Any, key: str, note: Note) -> Any:
    """Parse a list or an object that is written as a string, as spreadsheets do. Others are returned unchanged."""
    if not isinstance(value, str) or value[:1] not in ("[", "{"):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    note(Kind.OTHERWISE, key)
    return found


def box(value: Any, height: int, width: int, note: Note) -> list[float]:
    """Convert a box to x, y, width, height. It lies at least partly in the image of this height and width."""
    if isinstance(value, dict) and list(value) in _SIDES:
        value = list(value.values())
        note(Kind.OTHERWISE, "bbox")
    if not isinstance(value, list) or len(value) != 4:
        raise Refused(Kind.BOX_NUMBERS)
    if not set(map(type, value)) <= _NUMBERS:
        spelled = [number(v) for v in value]
        if None in spelled:
            raise Refused(Kind.BOX_NUMBERS)
        note(Kind.READ_AS_NUMBER, "bbox")
        value = spelled
    x, y, w, h = value
    if not _finite(value):
        raise Refused(Kind.BOX_NOT_FINITE)
    if w <= 0 or h <= 0:
        raise Refused(Kind.BOX_SIZE)
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise Refused(Kind.BOX_OUTSIDE)
    # Tolerate one pixel, because drawing programs are inexact.
    if min(x, y) < -1 or x + w > width + 1 or y + h > height + 1:
        note(Kind.BOX_BEYOND)
        x1, y1 = max(x, 0), max(y, 0)
        return [x1, y1, min(x + w, width) - x1, min(y + h, height) - y1]
    of_box: list[float] = value
    return of_box


def is_turned(attributes: Any) -> bool:
    """Whether an object's ``attributes`` have a rotation in degrees, as CVAT writes it for boxes."""
    angle = number(attributes.get("rotation")) if isinstance(attributes, dict) else None
    return angle is not None and angle % 180 != 0


def crowd(value: Any, note: Note) -> int:
    """iscrowd as 0 or 1."""
    if isinstance(value, str):
        note(Kind.OTHERWISE, "iscrowd")
    if isinstance(value, bool | str):
        value = {"false": 0, "true": 1}.get(str(value).lower(), value)
    found = 0 if value is None else whole(value)
    if found not in (0, 1):
        raise Refused(Kind.CROWD_VALUE, repr(value)[:40])
    return found


def area(value: Any, box: Sequence[float], note: Note) -> float | None:
    """A positive area that does not exceed the box (x, y, width, height) by much; None if it must be measured."""
    found = number(value)
    if found is not None and 0 < found <= 1.5 * box[2] * box[3] + 16:
        if isinstance(value, str):
            note(Kind.READ_AS_NUMBER, "area")
        return value if isinstance(value, int) else found
    if value is not None:
        note(Kind.AREA)
    return None


def keypoints(value: Any, listed: int, category_id: int, note: Note) -> list[float] | None:
    """COCO's flat list of x, y, visibility; None if there is none or it cannot be read.

    Args:
        value: the value in the json.
        listed: number of keypoints of the category.
        category_id: the category, for the message.
        note: collects what was converted.
    """
    if value is None or value == []:
        return None
    if not isinstance(value, list) or not set(map(type, value)) <= _NUMBERS or len(value) % 3:
        problem = "keypoints that are not a list of x, y, visibility"
    elif not _finite(value) or not set(value[2::3]) <= {0, 1, 2}:
        problem = "keypoints with a coordinate that is not finite, or a visibility other than 0, 1, 2"
    elif not -_LONGEST_SIDE <= min(value) <= max(value) <= _LONGEST_SIDE:
        problem = "keypoints far outside of any image"
    elif len(value) // 3 != listed:
        problem = f"{len(value) // 3} keypoints, but its category {category_id} lists {listed}"
    else:
        return value
    note(Kind.KEYPOINTS, problem)
    return None


def skeleton(value: Any, listed: int) -> bool:
    """Whether ``value`` is a list of pairs of keypoint numbers from 1 to ``listed``."""
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(type(k) is int and 1 <= k <= listed for k in pair)
        for pair in value
    )


def overlap(box: Sequence[float], bounds: Bounds) -> float:
    """IoU of a box x, y, width, height with the bounds of a mask."""
    x, y, w, h = box
    x1, y1, x2, y2 = bounds
    shared = max(min(x + w, x2) - max(x, x1), 0) * max(min(y + h, y2) - max(y, y1), 0)
    union = w * h + (x2 - x1) * (y2 - y1) - shared
    return shared / union if union > 0 else 0.0


def _finite(values: list[Any]) -> bool:
    try:
        return math.isfinite(math.fsum(values))
    except (OverflowError, ValueError):  # integers beyond the range of floats; infinities of both signs
        return False


# --- segmentation ---------------------------------------------------------------------------------------------


def segmentation(value: Any, height: int, width: int, note: Note) -> tuple[Any, Bounds | None]:
    """Convert polygons or RLE of an image of this size. Returns the readable part and its bounds, or (None, None)."""
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
    elif value and not (isinstance(value[0], list) and value[0] and type(value[0][0]) in _NUMBERS):
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
    if not isinstance(value, list) or set(map(type, value)) <= _NUMBERS:
        return value
    spelled = [number(v) if isinstance(v, str) else None for v in value]
    return value if None in spelled else spelled


def _rle(value: dict[str, Any], height: int, width: int, note: Note) -> tuple[Any, Bounds | None]:
    """Check an RLE, except the sum of compressed runs, which `check_whole` checks."""
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
            found = "its RLE 'counts' is neither a string nor a list of whole numbers"
            raise Refused(Kind.RLE_DAMAGED, found)
        if counts and sum(counts) != height * width:
            found = f"its RLE describes {sum(counts)} pixels, but the image has {height} x {width}"
            raise Refused(Kind.RLE_DAMAGED, f"{found} = {height * width}")
        uncompressed = {"size": [height, width], "counts": counts or [height * width]}
        rle = coco_mask.frPyObjects(uncompressed, height, width)
    else:
        raise Refused(Kind.RLE_COUNTS)
    x, y, w, h = coco_mask.toBbox(rle).tolist()
    if w <= 0 or h <= 0:
        note(Kind.EMPTY_MASK)
        return None, None
    return value, (x, y, x + w, y + h)
