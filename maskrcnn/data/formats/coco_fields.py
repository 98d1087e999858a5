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

from maskrcnn.data.defects import Kind

Note = Callable[..., None]  # (kind, found="")
Bounds = tuple[float, float, float, float]  # x1, y1, x2, y2
# "12.0" is how tables write a number where another row has none.
_WHOLE = re.compile(r"\s*([+-]?[0-9]{1,19})(?:\.0*)?\s*")
_LIMIT = 2**63  # upper limit of ids in numpy's integers
_LONGEST_SIDE, _MOST_PIXELS = 2**20, 2**30  # of an image: OpenCV's limits
NUMBERS = {int, float}  # types of numbers in a json
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
    """Convert an id.

    Args:
        entry: the entry of the json.
        key: the field.
        note: collects what was converted.

    Returns:
        The id, or None if it is invalid.
    """
    value = entry.get(key)
    if type(value) is int and 0 <= value < _LIMIT:
        return value
    found = whole(value)
    if found is not None:
        note(Kind.READ_AS_NUMBER, key)
    return found


def size(entry: Mapping[str, Any], note: Note) -> tuple[int, int]:
    """Convert the size of an image.

    Args:
        entry: an image entry of the json.
        note: collects what was converted.

    Returns:
        (height, width) in pixels.
    """
    height, width = (identity(entry, side, note) for side in ("height", "width"))
    if height is None or width is None or min(height, width) < 1:
        raise Refused(Kind.NO_SIZE)
    if max(height, width) > _LONGEST_SIDE or height * width > _MOST_PIXELS:
        raise Refused(Kind.TOO_LARGE, f"{height} x {width}")
    return height, width


def unpacked(value: Any, key: str, note: Note) -> Any:
    """Parse a list or an object that is written as a string, as spreadsheets do.

    Other values are returned unchanged.
    """
    if not isinstance(value, str) or value[:1] not in ("[", "{"):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    note(Kind.OTHERWISE, key)
    return found


def box(value: Any, height: int, width: int, note: Note) -> list[float]:
    """Convert a box.

    Args:
        value: the value in the json.
        height: of the image in pixels.
        width: of the image in pixels.
        note: collects what was converted.

    Returns:
        x, y, width, height of a box that lies at least partly in the image.
    """
    if isinstance(value, dict) and list(value) in _SIDES:
        value = list(value.values())
        note(Kind.OTHERWISE, "bbox")
    if not isinstance(value, list) or len(value) != 4:
        raise Refused(Kind.BOX_NUMBERS)
    if not set(map(type, value)) <= NUMBERS:
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
    """Convert an area.

    Args:
        value: the value in the json.
        box: x, y, width, height of the object.
        note: collects what was converted.

    Returns:
        A positive area that does not exceed the box by much; None if it must be measured.
    """
    found = number(value)
    if found is not None and 0 < found <= 1.5 * box[2] * box[3] + 16:
        if isinstance(value, str):
            note(Kind.READ_AS_NUMBER, "area")
        return value if isinstance(value, int) else found
    if value is not None:
        note(Kind.AREA)
    return None


def keypoints(value: Any, listed: int, category_id: int, note: Note) -> list[float] | None:
    """Convert keypoints.

    Args:
        value: the value in the json.
        listed: number of keypoints of the category.
        category_id: the category, for the message.
        note: collects what was converted.

    Returns:
        COCO's flat list of x, y, visibility; None if there is none or it cannot be read.
    """
    if value is None or value == []:
        return None
    if not isinstance(value, list) or not set(map(type, value)) <= NUMBERS or len(value) % 3:
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
