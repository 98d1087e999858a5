"""Training targets of the mask head: ground-truth masks resampled inside regions."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align

from maskrcnn.structures import MaskBitmaps


def has_mask(masks: MaskBitmaps) -> Tensor:
    """Which objects have a mask to learn from: ``[N, G]`` bool."""
    return masks.size.prod(dim=-1) > 0


def mask_targets(masks: MaskBitmaps, boxes: Tensor, matched: Tensor, size: int) -> Tensor:
    """Sample ground-truth masks at the centres of the M x M cells of each box.

    The centres are mapped into the bitmap of the original image, and its pixel there is read. Masks are never resized,
    so no detail is lost (Mask R-CNN, section 3: "the intersection between an RoI and its ground-truth mask").

    Args:
        masks: masks of the batch.
        boxes: ``[N, K, 4]`` in pixels of the network's input.
        matched: ``[N, K]`` int64, the object of each box.
        size: M.

    Returns:
        ``[N, K, M, M]`` float32, 0 or 1, indexed by row and column; 0 outside the bitmap.
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
    """Compute torchvision's mask targets, for comparison with it.

    Masks are resized to the input by nearest neighbour and then pooled. This takes memory for one full-size mask per
    object and loses detail, so it is not the default.

    Args:
        masks: see `mask_targets`.
        boxes: see `mask_targets`.
        matched: see `mask_targets`.
        size: M.
        canvas: (H, W) of the network's input.
        sizes: ``[N, 2]`` (height, width) of each image in the canvas. Beyond it, the last row and column are repeated.
            None is the whole canvas.

    Returns:
        ``[N, K, M, M]`` float32 in 0..1.
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
    """Indices ``[N, G, side]`` of the rows or columns that torch's "nearest" resizing reads.

    Args:
        pixels: ``[N, 1, side]``.
        scale: of `MaskBitmaps.to_bitmap`.
        shift: of `MaskBitmaps.to_bitmap`.

    It reads the low edge of a pixel. In a mirrored image, this is the high edge in the bitmap. The product is in
    float32 like torch's, because rounding decides the pixel where the product is nearly an integer.
    """
    places = (pixels * scale.float().unsqueeze(-1)).double() + shift.double().unsqueeze(-1)
    return torch.where(scale.unsqueeze(-1) < 0, places.ceil() - 1, places.floor()).long()
