"""Transforms the objects of an image with its geometry, and combines the objects of several images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.data.dataset import Example, Floats
from maskrcnn.data.images import Pixels
from maskrcnn.data.masks import MaskBitmap, bounds, crop_to_object
from maskrcnn.errors import UserError

Doubles = npt.NDArray[np.float64]
Size = tuple[int, int]
T = TypeVar("T", bound=Any)
_ROWS = ("boxes", "labels", "crowd", "keypoints", "to_bitmap")  # arrays with a row for each object
FILL = (124, 116, 104)  # colour outside the image: ImageNet's mean
OCCLUDED = 1  # COCO's visibility of a keypoint that is labelled but not visible


def chosen(example: T, kept: Sequence[int] | npt.NDArray[np.int64]) -> T:
    """Select objects of an `Example` or a `Sample` by index."""
    kept = np.asarray(kept, np.int64)
    given = {name: getattr(example, name, None) for name in _ROWS}
    arrays = {name: array[kept] for name, array in given.items() if array is not None}
    return replace(example, masks=[example.masks[g] for g in kept], **arrays)


def moved(example: Example, image: Pixels, matrix: Doubles) -> Example:
    """Replace the image, and transform the objects to it.

    Masks are sampled at the centre of each new pixel. After a rotation or shear, the box of an object with a mask is
    computed from the new mask. After other maps, the given box is moved, and cropped with the mask at the edges of the
    image. The box of an object without a mask is the bounding box of its moved corners, which is larger than the
    object after a rotation. Objects that vanish are dropped (without a mask: below one pixel). A flip swaps left and
    right keypoints. Keypoints outside the image become unlabelled.

    Args:
        example: an image with objects.
        image: the new image, ``[H, W, 3]``.
        matrix: ``[2, 3]``, from continuous coordinates (x, y, 1) of the old image to those of the new one.
    """
    size = (image.shape[0], image.shape[1])
    boxes = np.zeros_like(example.boxes)
    masks: list[MaskBitmap | None] = []
    for g, (box, mask) in enumerate(zip(_hulls(example.boxes, matrix), example.masks, strict=True)):
        new = None if mask is None else warped_mask(mask, matrix, size)
        boxes[g] = _inside(box, size) if mask is None or new is None else _box(box, mask, new, matrix, size)
        masks.append(new)
    points, proposals = _keypoints(example, matrix, size), _proposals(example.proposals, matrix, size)
    changed = replace(example, image=image, boxes=boxes, masks=masks, keypoints=points, proposals=proposals)
    return chosen(changed, remaining(example.masks, changed))


def remaining(before: Sequence[MaskBitmap | None], example: Example) -> list[int]:
    """The objects that did not vanish: their masks are not empty, or without a mask, their boxes are visible."""
    pairs = zip(before, example.masks, visible(example.boxes), strict=True)
    return [g for g, (old, new, seen) in enumerate(pairs) if new is not None or (old is None and seen)]


def warped_mask(mask: MaskBitmap, matrix: Doubles, size: Size) -> MaskBitmap | None:
    """Sample a mask at the centre of every pixel of a new image.

    Args:
        mask: in the old image.
        matrix: as in `moved`.
        size: (height, width) of the new image.

    Returns:
        The mask, or None if it is empty.
    """
    x1, y1, x2, y2 = _inside(_hulls(bounds(mask)[None], matrix)[0], size)
    left, top, right, bottom = int(np.floor(x1)), int(np.floor(y1)), int(np.ceil(x2)), int(np.ceil(y2))
    if right <= left or bottom <= top:
        return None
    indices = matrix.copy()  # between indices of pixels, whose centres are at index + 0.5
    indices[:, 2] += matrix[:, :2] @ [mask.x0 + 0.5, mask.y0 + 0.5] - [left + 0.5, top + 0.5]
    bits = cv2.warpAffine(mask.bits, indices, (right - left, bottom - top), flags=cv2.INTER_NEAREST)
    return crop_to_object(bits, left, top)


def mirrored_keypoints(example: Example) -> Floats | None:
    """The keypoints with left and right swapped. Raises UserError for an invalid order."""
    points, order = example.keypoints, example.mirror_keypoints
    if points is None or order is None:
        return points
    if sorted(order) != list(range(points.shape[1])):
        raise UserError(
            f"flip_keypoints={list(order)} must name each of the data set's {points.shape[1]} keypoints once, "
            "counted from 0"
        )
    return points[:, list(order)]


def without(example: Example, hidden: npt.NDArray[np.bool_]) -> Example:
    """Remove hidden pixels from the objects.

    Objects that lose their complete mask are dropped, and the boxes of the others shrink with their masks. Hidden
    keypoints become occluded. Objects without a mask keep their boxes.

    Args:
        example: an image with objects.
        hidden: ``[H, W]`` bool.
    """
    boxes, masks = example.boxes.copy(), list(example.masks)
    kept = []
    for g, mask in enumerate(masks):
        if mask is not None:
            masks[g] = seen = crop_to_object(mask.bits * ~hidden[mask.place], mask.x0, mask.y0)
            if seen is None:
                continue
            boxes[g] += bounds(seen) - bounds(mask)
        kept.append(g)
    changed = replace(example, boxes=boxes, masks=masks, keypoints=_occluded(example.keypoints, hidden))
    return chosen(changed, kept)


def joined(first: Example, second: Example) -> Example:
    """Add the objects of ``second`` to ``first``. Both images have the same size."""

    points = [example.keypoints for example in (first, second)]
    shape = next((given.shape[1:] for given in points if given is not None), None)
    if shape is not None:  # objects without keypoints get zeros
        pairs = zip(points, (first, second), strict=True)
        points = [np.zeros((len(e.labels), *shape), np.float32) if p is None else p for p, e in pairs]
    return replace(
        first,
        boxes=np.concatenate([first.boxes, second.boxes]),
        labels=np.concatenate([first.labels, second.labels]),
        crowd=np.concatenate([first.crowd, second.crowd]),
        masks=[*first.masks, *second.masks],
        keypoints=_both(*points),
        proposals=_both(first.proposals, second.proposals),
    )


def _both(*parts: Floats | None) -> Floats | None:
    """Concatenate those that are given; None if none is."""
    given = [part for part in parts if part is not None]
    return np.concatenate(given) if given else None


# --- parts --------------------------------------------------------------------------------------------------


def _hulls(boxes: npt.NDArray[np.floating], matrix: Doubles) -> Doubles:
    """Bounds of the moved corners of boxes ``[G, 4]``, possibly outside the image."""
    x1, y1, x2, y2 = boxes.astype(np.float64).T
    corners = np.stack([np.stack([x1, x2, x2, x1]), np.stack([y1, y1, y2, y2])])  # [2, 4, G]
    places = np.einsum("ij,jkg->gki", matrix[:, :2], corners) + matrix[:, 2]
    return np.concatenate([places.min(axis=1), places.max(axis=1)], axis=1)


def _inside(box: Doubles, size: Size) -> Doubles:
    return box.clip(0, [size[1], size[0]] * 2)


def _box(box: Doubles, mask: MaskBitmap, new: MaskBitmap, matrix: Doubles, size: Size) -> Doubles:
    """The box of an object with a mask.

    A box may deliberately differ a little from its mask's bounds (sub-pixel polygons, VOC's void border). If the map
    keeps the axes, each side moves by as much as the image's edge cuts off the mask.
    """
    keeps_axes = (np.count_nonzero(np.abs(matrix[:, :2]) > 1e-12, axis=1) == 1).all()
    if not keeps_axes:
        return bounds(new)
    whole = _hulls(bounds(mask)[None], matrix)[0]
    if np.array_equal(cut := _inside(whole, size), whole):
        return _inside(box, size)
    return _inside(_inside(box, size) + bounds(new) - cut, size)


def _keypoints(example: Example, matrix: Doubles, size: Size) -> Floats | None:
    mirrors = np.linalg.det(matrix[:, :2]) < 0
    points = mirrored_keypoints(example) if mirrors else example.keypoints
    if points is None:
        return None
    places = points[..., :2].astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return labelled(places, points[..., 2:], size)


def labelled(places: npt.NDArray[np.floating], visibility: Floats, size: Size) -> Floats:
    """Keypoints with a visibility; zeros outside the image.

    Args:
        places: ``[G, J, 2]``, x and y.
        visibility: of each keypoint.
        size: (height, width) of the image.
    """
    seen = ((places >= 0) & (places <= size[::-1])).all(axis=-1, keepdims=True) & (visibility > 0)
    return np.where(seen, np.concatenate([places, visibility], axis=-1), 0).astype(np.float32)


def visible(boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Which of the boxes ``[G, 4 or more]`` are at least one pixel wide and high."""
    return np.asarray((boxes[:, 2:4] - boxes[:, :2] >= 1).all(axis=1))


def _occluded(points: Floats | None, hidden: npt.NDArray[np.bool_]) -> Floats | None:
    if points is None:
        return None
    limits = np.array(hidden.shape[::-1]) - 1
    x, y = np.moveaxis(np.floor(points[..., :2]).astype(int).clip(0, limits), -1, 0)
    out = points.copy()
    out[..., 2] = np.where(hidden[y, x] & (points[..., 2] > OCCLUDED), OCCLUDED, points[..., 2])
    return out


def _proposals(rows: Floats | None, matrix: Doubles, size: Size) -> Floats | None:
    """Boxes with scores ``[P, 5]``, without those outside the image."""
    if rows is None:
        return None
    boxes = _inside(_hulls(rows[:, :4], matrix), size)
    return np.concatenate([boxes, rows[:, 4:]], axis=1)[visible(boxes)].astype(np.float32)
