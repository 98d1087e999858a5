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
