"""Instance masks: bitmaps, what the mask head learns from them, and the way back to COCO's RLE.

A mask is kept as the bitmap of its own bounding box in the original image and is never resized or flipped.
Whoever needs its value at a point of the network's input maps the point into the bitmap instead, which is
exact after any resize, flip or crop and costs nothing for objects that are not asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

if TYPE_CHECKING:
    from maskrcnn.structures import MaskBitmaps

Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MaskBitmap:
    """One mask: ``bits`` ``[h, w]`` uint8 (0 or 1) is the image's rectangle whose top left pixel is ``(x0,
    y0)``.

    Outside the rectangle the mask is 0. Pixel ``(y, x)`` of the image is ``bits[y - y0, x - x0]``.
    """

    x0: int
    y0: int
    bits: Bits

    def full(self, height: int, width: int) -> Bits:
        """The mask over the whole image, ``[height, width]`` uint8."""
        out = np.zeros((height, width), np.uint8)
        h, w = self.bits.shape
        out[self.y0 : self.y0 + h, self.x0 : self.x0 + w] = self.bits
        return out


def crop_to_object(mask: npt.NDArray[Any], x0: int = 0, y0: int = 0) -> MaskBitmap | None:
    """The bitmap of a mask ``[H, W]`` (anything non-zero is object); None when there is no object in it.

    ``x0, y0`` is where the array's top left pixel lies in the image.
    """
    mask = mask != 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    bits = np.ascontiguousarray(mask[top:bottom, left:right]).view(np.uint8)
    return MaskBitmap(x0 + int(left), y0 + int(top), bits)


def encode(mask: npt.NDArray[Any]) -> dict[str, Any]:
    """COCO's compressed RLE, ``{"size": [H, W], "counts": str}``, of a mask ``[H, W]`` (anything non-zero
    is object).
    """
    rle = coco_mask.encode(np.asfortranarray(mask != 0).astype(np.uint8, order="F"))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def outlines(mask: MaskBitmap) -> list[list[float]]:
    """The mask as COCO's polygons ``[x1, y1, x2, y2, ...]``, one for each connected part, without its holes.

    They run through the centres of the outermost pixels. A part less than two pixels wide is its bounding rectangle.
    """
    found, _ = cv2.findContours(
        mask.bits, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(mask.x0, mask.y0)
    )
    polygons = []
    for contour in found:
        x, y, width, height = cv2.boundingRect(contour)
        thin = min(width, height) < 2 or len(contour) < 3
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        points = np.array(corners, np.float64) if thin else contour.reshape(-1, 2) + 0.5
        polygons.append([float(value) for value in points.reshape(-1)])
    return polygons


# --- batches ------------------------------------------------------------------------------------------------


def pack(
    masks: Sequence[Sequence[MaskBitmap | None]],
    to_bitmap: Sequence[npt.NDArray[np.float32]],
    num_objects: int,
) -> MaskBitmaps:
    """The masks of a batch, end to end.

    masks: for each image its objects' bitmaps, None where an object has no mask.
    to_bitmap: for each image ``[objects, 4]``, see ``MaskBitmaps``.
    num_objects: G, to which each image is padded.
    """
    import torch  # here, so that reading and scoring annotations does not wait for it

    from maskrcnn.structures import MaskBitmaps

    offset, size = (
        np.zeros((len(masks), num_objects), np.int64),
        np.zeros((len(masks), num_objects, 2), np.int64),
    )
    maps = np.zeros((len(masks), num_objects, 4), np.float32)
    chunks, end = [], 0
    for n, (of_image, to_bits) in enumerate(zip(masks, to_bitmap, strict=True)):
        maps[n, : len(of_image)] = np.asarray(to_bits, np.float32).reshape(-1, 4)
        for g, mask in enumerate(of_image):
            if mask is not None:
                offset[n, g], size[n, g] = end, mask.bits.shape
                chunks.append(mask.bits.reshape(-1))
                end += mask.bits.size
    # One bit at least, so that gathering from a batch without masks needs no special case.
    bits = np.concatenate([*chunks, np.zeros(1, np.uint8)])
    return MaskBitmaps(*(torch.from_numpy(array) for array in (bits, offset, size, maps)))
