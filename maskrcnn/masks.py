"""Instance masks: from annotations to bitmaps, from bitmaps to what the mask head learns, and back to
COCO's RLE.

A mask is kept as the bitmap of its own bounding box in the original image and is never resized or flipped.
Whoever needs its value at a point of the network's input maps the point into the bitmap instead, which is
exact after any resize, flip or crop and costs nothing for objects that are not asked about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import roi_align

from maskrcnn.errors import UserError
from maskrcnn.structures import MaskBitmaps

Bits = npt.NDArray[np.uint8]
Runs = npt.NDArray[np.int64]


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


# --- reading annotations ------------------------------------------------------------------------------------


def decode(segmentation: Any, height: int, width: int) -> MaskBitmap | None:
    """The mask of a COCO ``segmentation``: polygons, compressed RLE or uncompressed RLE.

    The bitmap equals pycocotools' ``annToMask`` bit for bit; None when the mask is empty. Raises UserError
    in words when the segmentation is none of the three, or does not fit an image of this size.
    """
    if isinstance(segmentation, list):
        return decode_runs(_polygon_runs(segmentation, height, width), height)
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise UserError(
            "its segmentation is neither a list of polygons nor an RLE with 'counts' and 'size' "
            f"(found {type(segmentation).__name__})"
        )
    if list(segmentation.get("size", ())) != [height, width]:
        raise UserError(
            f"its RLE is for an image of size {segmentation.get('size')} (height, width), "
            f"but the image is {[height, width]}"
        )
    runs = _rle_runs(segmentation["counts"])
    if runs.size and (runs.min() < 0 or runs.sum() != height * width):
        raise UserError(
            f"its RLE describes {int(runs.sum())} pixels, but the image has {height} x {width} = "
            f"{height * width}"
        )
    return decode_runs(runs, height)


def polygon_defect(polygon: Any, height: int, width: int) -> str | None:
    """What is wrong with one polygon ``[x1, y1, x2, y2, ...]`` of an image of this size, or None.

    pycocotools would read four numbers as a box, ignore an odd one, and crash the process on far-away
    corners.
    """
    if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
        return "a polygon that is not a list of numbers"
    if len(polygon) < 6 or len(polygon) % 2:
        return "a polygon of fewer than six numbers, or of an odd number of them"
    if not math.isfinite(sum(polygon)):
        return "a polygon with a number that is not finite"
    reach = height + width
    if min(polygon) < -reach or max(polygon) > 2 * reach:
        return "a polygon far outside of its image"
    return None


def _polygon_runs(polygons: list[Any], height: int, width: int) -> Runs:
    """Runs of the union of polygons; pycocotools rasterises, so that the pixels are those everybody scores
    with.
    """
    for polygon in polygons:
        if defect := polygon_defect(polygon, height, width):
            raise UserError(f"its segmentation holds {defect}")
    if not polygons:
        return np.zeros(0, np.int64)
    pieces = coco_mask.frPyObjects(polygons, height, width)
    return _rle_runs((pieces[0] if len(pieces) == 1 else coco_mask.merge(pieces))["counts"])


def _rle_runs(counts: Any) -> Runs:
    """Lengths of the runs of 0 and 1 in turn, column by column, from either kind of RLE."""
    if isinstance(counts, (str, bytes)):
        return parse_rle_string(counts.encode("ascii") if isinstance(counts, str) else counts)
    try:
        return np.asarray(counts, dtype=np.int64).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError("its RLE 'counts' is neither a string nor a list of whole numbers") from error


def parse_rle_string(counts: bytes) -> Runs:
    """COCO's compressed RLE string as run lengths.

    Each number is written in groups of five bits, lowest first, six-bit characters from '0' on, bit 5
    meaning "more follows" and bit 4 of the last group being the sign; from the fourth number on, it is the
    difference to the number two before it.
    """
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if digits.size == 0:
        return digits
    if digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise UserError("its RLE string is damaged (it holds characters that COCO's encoding never writes)")
    last = (digits & 32) == 0
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    place = 5 * (np.arange(digits.size) - np.repeat(starts, ends - starts + 1))
    if place.max() > 30:
        raise UserError("its RLE string is damaged (a run longer than any image)")
    numbers = np.add.reduceat((digits & 31) << place, starts)
    numbers -= np.where(digits[ends] & 16, np.int64(1) << (place[ends] + 5), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def decode_runs(runs: Runs, height: int) -> MaskBitmap | None:
    """The bitmap of column-major run lengths, touching only the columns that hold the object; None if it is
    empty.
    """
    ends = np.cumsum(runs)[1::2]
    starts = ends - runs[1::2]
    kept = ends > starts
    starts, ends = starts[kept], ends[kept]
    if starts.size == 0:
        return None
    left, right = int(starts[0] // height), int((ends[-1] - 1) // height) + 1
    lengths = np.empty(2 * starts.size + 1, np.int64)
    lengths[1:-1:2] = ends - starts
    lengths[2:-1:2] = starts[1:] - ends[:-1]
    lengths[0], lengths[-1] = starts[0] - left * height, right * height - ends[-1]
    values = np.zeros(lengths.size, np.uint8)
    values[1::2] = 1
    columns = np.repeat(values, lengths).reshape(right - left, height)
    rows = np.flatnonzero(columns.any(axis=0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return MaskBitmap(left, top, np.ascontiguousarray(columns[:, top:bottom].T))


def encode(mask: npt.NDArray[Any]) -> dict[str, Any]:
    """COCO's compressed RLE, ``{"size": [H, W], "counts": str}``, of a mask ``[H, W]`` (anything non-zero
    is object).
    """
    rle = coco_mask.encode(np.asfortranarray(mask != 0).astype(np.uint8, order="F"))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


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
    bitmaps = MaskBitmaps(
        bits=torch.zeros(0, dtype=torch.uint8),
        offset=torch.zeros(len(masks), num_objects, dtype=torch.int64),
        size=torch.zeros(len(masks), num_objects, 2, dtype=torch.int64),
        to_bitmap=torch.zeros(len(masks), num_objects, 4),
    )
    chunks, end = [], 0
    for n, (of_image, maps) in enumerate(zip(masks, to_bitmap, strict=True)):
        bitmaps.to_bitmap[n, : len(of_image)] = torch.from_numpy(np.asarray(maps, np.float32).reshape(-1, 4))
        for g, mask in enumerate(of_image):
            if mask is not None:
                bitmaps.offset[n, g] = end
                bitmaps.size[n, g] = torch.tensor(mask.bits.shape)
                chunks.append(mask.bits.reshape(-1))
                end += mask.bits.size
    # One bit at least, so that gathering from a batch without masks needs no special case.
    bits = np.concatenate([*chunks, np.zeros(1, np.uint8)])
    return MaskBitmaps(torch.from_numpy(bits), bitmaps.offset, bitmaps.size, bitmaps.to_bitmap)


def has_mask(masks: MaskBitmaps) -> Tensor:
    """Which objects have a mask to learn from: ``[N, G]`` bool."""
    return masks.size.prod(dim=-1) > 0


def mask_targets(masks: MaskBitmaps, boxes: Tensor, matched: Tensor, size: int) -> Tensor:
    """What the mask head should say inside each box: the ground-truth mask at the centres of M x M cells.

    masks: of the batch. boxes: ``[N, K, 4]`` in pixels of the network's input. matched: ``[N, K]`` int64,
    the object of each box. size: M. Returns ``[N, K, M, M]`` float32, 0 or 1, rows before columns; 0
    outside the bitmap.

    The centres are mapped into the bitmap of the original image and its pixel there is read, so nothing is
    lost to resizing a mask first (Mask R-CNN, section 3: "the intersection between an RoI and its
    ground-truth mask").
    """
    own = torch.arange(len(matched), device=matched.device).unsqueeze(1), matched
    scale, shift = masks.to_bitmap[own].unsqueeze(-1).split(2, 2)  # [N, K, 2, 1]
    height, width = masks.size[own].unsqueeze(-1).unbind(dim=2)  # [N, K, 1]
    centres = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5) / size
    corner, far = boxes.unsqueeze(-1).split(2, 2)  # [N, K, 2, 1]
    places = ((corner + centres * (far - corner)) * scale + shift).floor().long()  # [N, K, 2, M]
    x, y = places.unbind(dim=2)  # [N, K, M]
    inside = ((y >= 0) & (y < height)).unsqueeze(-1) & ((x >= 0) & (x < width)).unsqueeze(-2)  # [N, K, M, M]
    row = masks.offset[own].unsqueeze(-1) + y * width
    index = (row.unsqueeze(-1) + x.unsqueeze(-2)).mul_(inside)
    return masks.bits[index].float().mul_(inside)


def aligned_mask_targets(
    masks: MaskBitmaps, boxes: Tensor, matched: Tensor, size: int, canvas: tuple[int, int]
) -> Tensor:
    """torchvision's mask targets, for comparing with it: masks resized to the input by nearest neighbour,
    then pooled.

    Arguments and result as for ``mask_targets``, values in 0..1; canvas: (H, W) of the network's input.
    Takes memory for one full-size mask per object, and loses what resizing loses: a comparison's setting,
    not the default.
    """
    num_images, num_objects = masks.offset.shape
    pixels = [torch.arange(side, device=boxes.device, dtype=torch.float64) for side in (canvas[1], canvas[0])]
    x, y = (
        _nearest(pixels[axis], masks.to_bitmap[..., axis], masks.to_bitmap[..., axis + 2]) for axis in (0, 1)
    )
    height, width = (side.unsqueeze(-1) for side in masks.size.unbind(-1))
    inside = ((y >= 0) & (y < height)).unsqueeze(-1) & ((x >= 0) & (x < width)).unsqueeze(-2)  # [N, G, H, W]
    index = masks.offset[..., None, None] + y.unsqueeze(-1) * width.unsqueeze(-1) + x.unsqueeze(-2)
    full = (masks.bits[torch.where(inside, index, 0)] * inside).flatten(0, 1).unsqueeze(1)  # [N * G, 1, H, W]
    which = matched + num_objects * torch.arange(num_images, device=boxes.device).unsqueeze(1)
    regions = torch.cat([which.reshape(-1, 1).to(boxes.dtype), boxes.reshape(-1, 4)], dim=1)
    pooled: Tensor = roi_align(full.to(boxes.dtype), regions, (size, size), 1.0)
    return pooled.reshape(*matched.shape, size, size).float()


def _nearest(pixels: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The bitmap's row or column that torch's "nearest" resizing takes for each pixel, ``[N, G, side]``.

    It looks at a pixel's low edge; of a mirrored image that edge is the high one in the bitmap.
    """
    places = pixels * scale.double().unsqueeze(-1) + shift.double().unsqueeze(-1)
    return torch.where(scale.unsqueeze(-1) < 0, places.ceil() - 1, places.floor()).long()
