"""Cuts a large image into overlapping windows, and merges their detections."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask

from maskrcnn.data.images import Pixels
from maskrcnn.errors import UserError
from maskrcnn.prediction.detections import ImageDetections

Doubles = npt.NDArray[np.float64]
Rle = dict[str, Any]
Detect = Callable[[Sequence[Pixels]], list[ImageDetections]]
_BORDER = 0.01  # share of a window's side; a box that ends this close to an inner border is cut by it


@dataclass(frozen=True)
class Tiles:
    """How a large image is cut into windows.

    Args:
        size: side of a window in pixels of the image. Each window is then resized like an image.
        overlap: smallest overlap of neighbouring windows, relative to ``size``. An object of up to ``overlap * size``
            pixels is complete in at least one window.
        match: overlap from which two detections belong to one object, see `merge`.

    Raises:
        UserError: a size below 32, an overlap outside [0, 0.9], or a match outside (0, 1].
    """

    size: int = 640
    overlap: float = 0.2
    match: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 32:
            raise UserError(f"tile={self.size}: a window has at least 32 pixels a side")
        if not 0 <= self.overlap <= 0.9:
            raise UserError(f"overlap={self.overlap}: expected a share of a window's side, 0 to 0.9")
        if not 0 < self.match <= 1:
            raise UserError(f"match={self.match}: expected a share, above 0 and at most 1")

    def windows(self, height: int, width: int) -> list[Window]:
        """The windows of an image, row by row. They have equal sizes, and the last ones end at the image's borders.

        Args:
            height: of the image in pixels.
            width: of the image in pixels.
        """
        return [
            Window(top, left, min(self.size, height), min(self.size, width))
            for top in self._starts(height)
            for left in self._starts(width)
        ]

    def _starts(self, side: int) -> list[int]:
        free = max(side - self.size, 0)
        # A rounding error must not add a window.
        steps = math.ceil(free / max(self.size * (1 - self.overlap), 1) - 1e-9)
        return [round(free * step / max(steps, 1)) for step in range(steps + 1)]


class Window(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def box(self) -> Doubles:
        """``[4]``: x1, y1, x2, y2."""
        ends = self.left + self.width, self.top + self.height
        return np.array([self.left, self.top, *ends], np.float64)

    def cuts(self, boxes: Doubles, height: int, width: int) -> npt.NDArray[np.bool_]:
        """Which boxes end at a border of the window inside the image, ``[D]`` bool.

        Args:
            boxes: ``[D, 4]`` in pixels of the image.
            height: of the image in pixels.
            width: of the image in pixels.
        """
        near = np.maximum(np.array([self.width, self.height]) * _BORDER, 2.0)
        low, high = boxes[:, :2] - self.box[:2] <= near, self.box[2:] - boxes[:, 2:] <= near
        inner_low, inner_high = self.box[:2] > 0, self.box[2:] < (width, height)
        return np.asarray((low & inner_low).any(1) | (high & inner_high).any(1))


def detect_tiled(image: Pixels, detect: Detect, tiles: Tiles) -> ImageDetections:
    """Detect the objects of a large image in windows.

    Args:
        image: ``[H, W, C]``.
        detect: detects the objects of several images. It gets views of ``image``, no copies.
        tiles: the windows.
    """
    height, width = image.shape[:2]
    windows = tiles.windows(height, width)
    views = [image[w.top : w.top + w.height, w.left : w.left + w.width] for w in windows]
    found = detect(views)
    if len(found) == 1:
        return found[0]
    moved = [of.moved(w.top, w.left, (height, width)) for w, of in zip(windows, found, strict=True)]
    return merge(moved, windows, tiles.match)


def merge(found: Sequence[ImageDetections], windows: Sequence[Window], match: float = 0.5) -> ImageDetections:
    """Merge the detections of several windows of an image.

    A detection is *cut* if its box ends at a border of its window inside the image, else *complete*. Detections are
    processed one by one, complete ones by descending score and then cut ones by descending area. Each is compared with
    the earlier ones of the same class from other windows:

    1. A complete one is dropped if its box has an IoU of ``match`` with another. The object was detected twice.
    2. A cut one is dropped if a share ``match`` of its mask lies in a complete one. It is a part of that object.
    3. A cut one is merged with all others whose masks agree with its own in the area that both windows show, with an
       IoU of ``match``. They are parts of an object that is larger than the overlap. The merged object has the union of
       the masks and the highest score.
    4. A cut one that agrees with no other is dropped if a share ``match`` of its mask lies in another cut one.

    Without masks, the boxes are compared instead.

    Args:
        found: detections of each window, in pixels of the complete image (`ImageDetections.moved`).
        windows: the windows.
        match: see above.

    Returns:
        Detections by descending score.
    """
    everything = _concatenated(found)
    kept: dict[int, list[_Object]] = {}
    for candidate in _candidates(everything, found, windows):
        others = kept.setdefault(candidate.label, [])
        boxes = np.array([other.box for other in others]).reshape(-1, 4)
        near = [others[i] for i in np.flatnonzero(_shared_area(candidate.box, boxes))]
        if any(candidate.repeats(other, match) for other in near):
            continue
        for other in near:
            if candidate.continues(other, match):
                candidate.join(other)
                others.remove(other)
        others.append(candidate)
    return _chosen(everything, [item for others in kept.values() for item in others])


class _Part(NamedTuple):
    """A detection: its index, its window, and its mask (or its box as a mask)."""

    place: int
    window: Window
    rle: Rle


@dataclass(eq=False)
class _Object:
    """A detection, or several that are parts of one object.

    Attributes:
        label: its class.
        cut: see `merge`.
        box: ``[4]`` in pixels.
        parts: the detections.
    """

    label: int
    cut: bool
    box: Doubles
    parts: list[_Part]

    def repeats(self, other: _Object, match: float) -> bool:
        """Whether this detection shows ``other`` a second time, or only a part of it."""
        (own,) = self.parts
        elsewhere = [part for part in other.parts if part.window != own.window]
        if not self.cut:
            return bool(elsewhere) and _box_iou(self.box, other.box) >= match
        covered = any(_covered(own.rle, part.rle) >= match for part in elsewhere)
        return covered and not (other.cut and self.continues(other, match))

    def continues(self, other: _Object, match: float) -> bool:
        """Whether this is a part of the same object as ``other``."""
        return self.cut and any(
            _agree(own, part, match)
            for own in self.parts
            for part in other.parts
            if own.window != part.window
        )

    def join(self, other: _Object) -> None:
        """Add the parts of ``other``."""
        self.box = np.append(np.minimum(self.box, other.box)[:2], np.maximum(self.box, other.box)[2:])
        self.parts += other.parts


def _candidates(
    everything: ImageDetections, found: Sequence[ImageDetections], windows: Sequence[Window]
) -> Iterator[_Object]:
    """Every detection in the order of comparison."""
    boxes, (height, width) = everything.boxes.double().numpy(), everything.size
    cut = np.concatenate(
        [w.cuts(of.boxes.double().numpy(), height, width) for w, of in zip(windows, found, strict=True)]
    )
    rles = everything.masks
    if rles is None:
        rles = [_rectangle(box, height, width) for box in boxes]
    # One by one, because a list of 256 overflows in pycocotools.
    areas = np.array([float(coco_mask.area(rle)) for rle in rles])
    of_window = np.repeat(np.arange(len(found)), [len(of) for of in found])
    for place in np.lexsort([np.where(cut, -areas, -everything.scores.double().numpy()), cut]).tolist():
        part = _Part(place, windows[of_window[place]], rles[place])
        yield _Object(int(everything.labels[place]), bool(cut[place]), boxes[place], [part])


def _chosen(everything: ImageDetections, objects: Sequence[_Object]) -> ImageDetections:
    """The remaining detections by descending score. Merged ones have new boxes and masks."""
    best = [max(item.parts, key=lambda part: float(everything.scores[part.place])) for item in objects]
    kept = everything.choose([part.place for part in best])
    boxes = torch.tensor(np.array([item.box for item in objects]).reshape(-1, 4), dtype=torch.float32)
    masks = None if kept.masks is None else [_union(item.parts) for item in objects]
    order = kept.scores.argsort(descending=True, stable=True).tolist()
    return replace(kept, boxes=boxes, masks=masks).choose(order)


def _concatenated(found: Sequence[ImageDetections]) -> ImageDetections:
    first = found[0]
    boxes, labels, scores = (
        torch.cat([getattr(of, k) for of in found]) for k in ("boxes", "labels", "scores")
    )
    masks = None if first.masks is None else [rle for of in found for rle in of.masks or []]
    points = [of.keypoints for of in found if of.keypoints is not None]
    return ImageDetections(boxes, labels, scores, masks, first.size, torch.cat(points) if points else None)


def _agree(one: _Part, other: _Part, match: float) -> bool:
    """Whether two masks agree in the area that both windows show."""
    corners = (
        np.maximum(one.window.box, other.window.box)[:2],
        np.minimum(one.window.box, other.window.box)[2:],
    )
    if (corners[0] >= corners[1]).any():
        return False
    seen = _rectangle(np.concatenate(corners), *one.rle["size"])
    first, second = (coco_mask.merge([part.rle, seen], intersect=True) for part in (one, other))
    return float(coco_mask.iou([first], [second], [0])[0, 0]) >= match


def _shared_area(box: Doubles, boxes: Doubles) -> Doubles:
    """The area of each of ``boxes`` ``[D, 4]`` inside ``box`` ``[4]``."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    return np.asarray(sides.clip(0).prod(1))


def _box_iou(one: Doubles, other: Doubles) -> float:
    shared, own, theirs = (_shared_area(a, b[None])[0] for a, b in ((one, other), (one, one), (other, other)))
    return float(shared / max(own + theirs - shared, 1e-9))


def _covered(rle: Rle, other: Rle) -> float:
    """The share of the first mask that lies in the other; 1 for an empty mask."""
    if not coco_mask.area(rle):
        return 1.0
    return float(coco_mask.iou([rle], [other], [1])[0, 0])  # COCO's IoU for crowds


def _rectangle(box: Doubles, height: int, width: int) -> Rle:
    x1, y1, x2, y2 = box.round().tolist()
    (rle,) = coco_mask.frPyObjects(np.array([[x1, y1, x2 - x1, y2 - y1]]), height, width)
    return dict(rle)


def _union(parts: Sequence[_Part]) -> Rle:
    if len(parts) == 1:
        return parts[0].rle
    rle = coco_mask.merge([part.rle for part in parts])
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
