"""Instance masks as bitmaps, their batches, and their conversion to COCO's RLE.

A mask is a bitmap of its bounding box in the original image and is never resized or flipped. To read its value at a
point of the network's input, map the point into the bitmap. This is exact after any resize, flip or crop, and costs
nothing for objects whose mask is not read.
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
    """One mask, cropped to its bounding box. Outside it, the mask is 0.

    Attributes:
        x0: column of the image in which the bitmap begins.
        y0: row of the image in which the bitmap begins.
        bits: ``[h, w]`` uint8, 0 or 1. Pixel ``(y, x)`` of the image is ``bits[y - y0, x - x0]``.
    """

    x0: int
    y0: int
    bits: Bits

    @property
    def place(self) -> tuple[slice, slice]:
        """The rows and columns of the image that the bitmap covers."""
        height, width = self.bits.shape
        return slice(self.y0, self.y0 + height), slice(self.x0, self.x0 + width)

    def full(self, height: int, width: int) -> Bits:
        """The mask over the complete image, ``[height, width]`` uint8."""
        out = np.zeros((height, width), np.uint8)
        out[self.place] = self.bits
        return out


def crop_to_object(mask: npt.NDArray[Any], x0: int = 0, y0: int = 0) -> MaskBitmap | None:
    """Crop a mask to its object; None for an empty mask.

    Args:
        mask: ``[H, W]``, non-zero inside the object.
        x0: column of the image in which the array begins.
        y0: row of the image in which the array begins.
    """
    mask = mask != 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    bits = np.ascontiguousarray(mask[top:bottom, left:right]).view(np.uint8)
    return MaskBitmap(x0 + int(left), y0 + int(top), bits)


def bounds(mask: MaskBitmap) -> npt.NDArray[np.float64]:
    """Bounds x1, y1, x2, y2 of a mask."""
    height, width = mask.bits.shape
    return np.array([mask.x0, mask.y0, mask.x0 + width, mask.y0 + height], np.float64)


def encode(mask: npt.NDArray[Any]) -> dict[str, Any]:
    """Encode a mask ``[H, W]`` as COCO's compressed RLE, ``{"size": [H, W], "counts": str}``.

    Pixels of the object are non-zero.
    """
    rle = coco_mask.encode(np.asfortranarray(mask != 0).astype(np.uint8, order="F"))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def outlines(mask: MaskBitmap) -> list[list[float]]:
    """The mask as COCO's polygons ``[x1, y1, x2, y2, ...]``, one for each connected part, without holes.

    They connect the centres of the outermost pixels. A part less than two pixels wide is its bounding rectangle.
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
    """Pack the masks of a batch end to end.

    Args:
        masks: bitmaps of each image's objects; None for an object without a mask.
        to_bitmap: ``[objects, 4]`` of each image, see `MaskBitmaps`.
        num_objects: G, to which each image is padded.
    """
    import torch  # lazily, so that reading and scoring annotations does not import it

    from maskrcnn.structures import MaskBitmaps

    offset = np.zeros((len(masks), num_objects), np.int64)
    size = np.zeros((len(masks), num_objects, 2), np.int64)
    maps = np.zeros((len(masks), num_objects, 4), np.float32)
    chunks, end = [], 0
    for n, (of_image, to_bits) in enumerate(zip(masks, to_bitmap, strict=True)):
        maps[n, : len(of_image)] = np.asarray(to_bits, np.float32).reshape(-1, 4)
        for g, mask in enumerate(of_image):
            if mask is not None:
                offset[n, g], size[n, g] = end, mask.bits.shape
                chunks.append(mask.bits.reshape(-1))
                end += mask.bits.size
    # At least one bit, so that gathering from a batch without masks needs no special case.
    bits = np.concatenate([*chunks, np.zeros(1, np.uint8)])
    return MaskBitmaps(*(torch.from_numpy(array) for array in (bits, offset, size, maps)))
