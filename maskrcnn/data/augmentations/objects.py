"""The objects of an image under a change of its geometry, and how images with objects are combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.data.dataset import Example, Floats
from maskrcnn.data.images import Pixels
from maskrcnn.data.masks import MaskBitmap, crop_to_object
from maskrcnn.errors import UserError

Doubles = npt.NDArray[np.float64]
Size = tuple[int, int]
FILL = (124, 116, 104)  # where there is no image: ImageNet's mean colour
OCCLUDED = 1  # COCO's visibility of a keypoint that is labelled but not visible


def chosen(example: Example, kept: Sequence[int] | npt.NDArray[np.int64]) -> Example:
    """The example with these of its objects alone."""
    kept = np.asarray(kept, np.int64)
    return replace(
        example,
        boxes=example.boxes[kept],
        labels=example.labels[kept],
        crowd=example.crowd[kept],
        masks=[example.masks[g] for g in kept],
        keypoints=None if example.keypoints is None else example.keypoints[kept],
    )


def moved(example: Example, image: Pixels, matrix: Doubles) -> Example:
    """The example with another image, its objects moved to where they are in it.

    A mask is read at the centre of each new pixel. The box of an object with a mask is the tight one of the new mask
    after a rotation or shear; after other maps it is the given box moved, and cut with the mask at the image's edges.
    The box of an object without a mask is the hull of its moved corners, which is larger than the object after a
    rotation. Objects of which nothing is left are dropped (without a mask: less than a pixel). A mirror exchanges left
    and right keypoints; keypoints outside of the image become unlabelled.

    Args:
        example: an image with objects.
        image: the new image, ``[H, W, 3]``.
        matrix: ``[2, 3]``, from continuous coordinates (x, y, 1) of the old image to those of the new one.
    """
    size = (image.shape[0], image.shape[1])
    boxes = np.zeros_like(example.boxes)
    masks: list[MaskBitmap | None] = []
    kept = []
    for g, (box, mask) in enumerate(zip(_hulls(example.boxes, matrix), example.masks, strict=True)):
        new = None if mask is None else warped_mask(mask, matrix, size)
        boxes[g] = _inside(box, size) if mask is None or new is None else _box(box, mask, new, matrix, size)
        masks.append(new)
        if new is not None or (mask is None and (boxes[g, 2:] - boxes[g, :2] >= 1).all()):
            kept.append(g)
    changed = replace(
        example,
        image=image,
        boxes=boxes,
        masks=masks,
        keypoints=_keypoints(example, matrix, size),
        proposals=_proposals(example.proposals, matrix, size),
    )
    return chosen(changed, kept)


def warped_mask(mask: MaskBitmap, matrix: Doubles, size: Size) -> MaskBitmap | None:
    """The mask at the centre of every pixel of an image of ``size`` (height, width); None where none is left."""
    x1, y1, x2, y2 = _inside(_hulls(bounds(mask)[None], matrix)[0], size)
    left, top, right, bottom = int(np.floor(x1)), int(np.floor(y1)), int(np.ceil(x2)), int(np.ceil(y2))
    if right <= left or bottom <= top:
        return None
    indices = matrix.copy()  # between indices of pixels: their centres lie half a pixel further
    indices[:, 2] += matrix[:, :2] @ [mask.x0 + 0.5, mask.y0 + 0.5] - [left + 0.5, top + 0.5]
    bits = cv2.warpAffine(mask.bits, indices, (right - left, bottom - top), flags=cv2.INTER_NEAREST)
    return crop_to_object(bits, left, top)


def bounds(mask: MaskBitmap) -> Doubles:
    """x1, y1, x2, y2 of a mask."""
    height, width = mask.bits.shape
    return np.array([mask.x0, mask.y0, mask.x0 + width, mask.y0 + height], np.float64)


def mirrored_keypoints(example: Example) -> Floats | None:
    """The keypoints with left and right exchanged. Raises UserError for an order that is none of these keypoints."""
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
    """The example whose objects lose the pixels that are ``hidden`` ``[H, W]``.

    Objects that lose their whole mask are dropped, and the others' boxes shrink with their masks. Keypoints there are
    no longer visible. Objects without a mask keep their boxes.
    """
    boxes, masks = example.boxes.copy(), list(example.masks)
    kept = []
    for g, mask in enumerate(masks):
        if mask is not None:
            height, width = mask.bits.shape
            part = hidden[mask.y0 : mask.y0 + height, mask.x0 : mask.x0 + width]
            masks[g] = seen = crop_to_object(mask.bits * ~part, mask.x0, mask.y0)
            if seen is None:
                continue
            boxes[g] += bounds(seen) - bounds(mask)
        kept.append(g)
    changed = replace(example, boxes=boxes, masks=masks, keypoints=_occluded(example.keypoints, hidden))
    return chosen(changed, kept)


def joined(first: Example, second: Example) -> Example:
    """``first`` with the objects of ``second``, which has an image of the same size, in addition."""

    def both(one: Floats | None, other: Floats | None) -> Floats | None:
        """Without the rows of a part that has none; keypoints of objects without any are all zeros."""
        given = [part for part in (one, other) if part is not None]
        return np.concatenate(given) if given else None

    points = [_points(example, (first, second)) for example in (first, second)]
    return replace(
        first,
        boxes=np.concatenate([first.boxes, second.boxes]),
        labels=np.concatenate([first.labels, second.labels]),
        crowd=np.concatenate([first.crowd, second.crowd]),
        masks=[*first.masks, *second.masks],
        keypoints=both(*points),
        proposals=both(first.proposals, second.proposals),
    )


# --- parts --------------------------------------------------------------------------------------------------


def _points(example: Example, examples: Sequence[Example]) -> Floats | None:
    """The keypoints of ``example``; zeros where it alone of ``examples`` has none."""
    shapes = [other.keypoints.shape[1:] for other in examples if other.keypoints is not None]
    if example.keypoints is not None or not shapes:
        return example.keypoints
    return np.zeros((len(example.labels), *shapes[0]), np.float32)


def _hulls(boxes: npt.NDArray[np.floating], matrix: Doubles) -> Doubles:
    """The bounds of the moved corners of boxes ``[G, 4]``, which may lie outside of the image."""
    x1, y1, x2, y2 = boxes.astype(np.float64).T
    corners = np.stack([np.stack([x1, x2, x2, x1]), np.stack([y1, y1, y2, y2])])  # [2, 4, G]
    places = np.einsum("ij,jkg->gki", matrix[:, :2], corners) + matrix[:, 2]
    return np.concatenate([places.min(axis=1), places.max(axis=1)], axis=1)


def _inside(box: Doubles, size: Size) -> Doubles:
    return box.clip(0, [size[1], size[0]] * 2)


def _box(box: Doubles, mask: MaskBitmap, new: MaskBitmap, matrix: Doubles, size: Size) -> Doubles:
    """The box of an object with a mask.

    A box may differ a little from its mask's bounds on purpose (sub-pixel polygons, VOC's void border). Where the map
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
    """Keypoints at ``places`` ``[G, J, 2]``, all zeros outside of an image of ``size`` (height, width)."""
    seen = ((places >= 0) & (places <= size[::-1])).all(axis=-1, keepdims=True) & (visibility > 0)
    return np.where(seen, np.concatenate([places, visibility], axis=-1), 0).astype(np.float32)


def _occluded(points: Floats | None, hidden: npt.NDArray[np.bool_]) -> Floats | None:
    if points is None:
        return None
    limits = np.array(hidden.shape[::-1]) - 1
    x, y = np.moveaxis(np.floor(points[..., :2]).astype(int).clip(0, limits), -1, 0)
    out = points.copy()
    out[..., 2] = np.where(hidden[y, x] & (points[..., 2] > OCCLUDED), OCCLUDED, points[..., 2])
    return out


def _proposals(rows: Floats | None, matrix: Doubles, size: Size) -> Floats | None:
    """Boxes with scores ``[P, 5]``, without those that are not in the image."""
    if rows is None:
        return None
    boxes = _inside(_hulls(rows[:, :4], matrix), size)
    seen = (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1)
    return np.concatenate([boxes, rows[:, 4:]], axis=1)[seen].astype(np.float32)
