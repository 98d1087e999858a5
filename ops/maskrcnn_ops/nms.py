"""Non-maximum suppression over a padded batch of images and groups, without a loop or a stall."""

from __future__ import annotations

import torch
from torch import Tensor

from .operators import ops


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression by falling score (equal scores: the lower index first).

    A box goes when its intersection over union with a kept box of the same image and group, of higher score,
    is above the threshold.

    Args:
        boxes: [N, K, 4] x1, y1, x2, y2.
        scores: [N, K]; ``-inf`` marks an entry that does not count: never kept, suppresses none.
        groups: [N, K] integers: class or pyramid level.
        iou_threshold: between 0 and 1.

    Returns:
        keep [N, K] bool, decision by decision that of ``torchvision.ops.nms`` on every image and group.

    Raises:
        TypeError, ValueError: for arguments of a wrong type or shape, or on several devices.
    """
    if boxes.dim() != 3 or boxes.shape[2] != 4 or not boxes.is_floating_point():
        raise ValueError(f"boxes: expected floating [N, K, 4], found {boxes.dtype} {list(boxes.shape)}")
    for name, tensor in (("scores", scores), ("groups", groups)):
        if tensor.shape != boxes.shape[:2]:
            raise ValueError(f"{name}: expected {list(boxes.shape[:2])}, found {list(tensor.shape)}")
        if tensor.device != boxes.device:
            raise ValueError(f"{name}: expected on {boxes.device} like the boxes, found on {tensor.device}")
    if groups.is_floating_point() or groups.dtype == torch.bool:
        raise TypeError(f"groups: expected integers, found {groups.dtype}")
    wide = torch.float64 if boxes.dtype == torch.float64 else torch.float32
    order = scores.detach().argsort(dim=1, descending=True, stable=True)
    valid = scores != -torch.inf
    keep: Tensor = ops.nms(
        boxes.detach().to(wide).contiguous(),
        order.contiguous(),
        groups.to(torch.int64).contiguous(),
        valid.contiguous(),
        float(iou_threshold),
    )
    return keep
