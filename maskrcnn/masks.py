"""Instance masks: bitmaps, what the mask head learns from them, and the way back to COCO's RLE.

A mask is kept as the bitmap of its own bounding box in the original image and is never resized or flipped.
Whoever needs its value at a point of the network's input maps the point into the bitmap instead, which is
exact after any resize, flip or crop and costs nothing for objects that are not asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import roi_align

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
    masks: MaskBitmaps,
    boxes: Tensor,
    matched: Tensor,
    size: int,
    canvas: tuple[int, int],
    sizes: Tensor | None = None,
) -> Tensor:
    """torchvision's mask targets, for comparing with it: masks resized to the input by nearest neighbour,
    then pooled.

    Arguments and result as for ``mask_targets``, values in 0..1; canvas: (H, W) of the network's input.
    sizes: ``[N, 2]`` (height, width) of each image in it, beyond which its last row and column go on; None is
    the whole canvas. Takes memory for one full-size mask per object, and loses what resizing loses: a
    comparison's setting, not the default.
    """
    num_images, num_objects = masks.offset.shape
    sizes = boxes.new_tensor(canvas).expand(num_images, 2) if sizes is None else sizes
    pixels = [torch.arange(side, device=boxes.device, dtype=torch.float32) for side in canvas]
    y, x = (
        _nearest(
            torch.minimum(pixels[axis], sizes[:, axis, None] - 1).unsqueeze(1),
            masks.to_bitmap[..., 1 - axis],
            masks.to_bitmap[..., 3 - axis],
        )
        for axis in (0, 1)
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
    """The bitmap's row or column that torch's "nearest" resizing takes for pixels ``[N, 1, side]``: ``[N, G, side]``.

    It looks at a pixel's low edge; of a mirrored image that edge is the high one in the bitmap. The product is in
    float32, as torch's: where it is a whole number but for rounding, the pixel depends on it.
    """
    places = (pixels * scale.float().unsqueeze(-1)).double() + shift.double().unsqueeze(-1)
    return torch.where(scale.unsqueeze(-1) < 0, places.ceil() - 1, places.floor()).long()
