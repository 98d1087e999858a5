"""Non-maximum suppression over a padded batch of images and groups, without loops or synchronisation."""

from __future__ import annotations

import torch
from torch import Tensor

from .operators import ops


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression in order of decreasing score. Equal scores keep their order.

    A box is removed if its intersection over union with a kept box of a higher score in the same image and group is
    above the threshold.

    Args:
        boxes: [N, K, 4] x1, y1, x2, y2.
        scores: [N, K]. ``-inf`` marks padding, which is never kept and suppresses nothing.
        groups: [N, K] integers, such as classes or pyramid levels.
        iou_threshold: between 0 and 1.

    Returns:
        keep [N, K] bool, equal to the decisions of ``torchvision.ops.nms`` on each image and group.

    Raises:
        TypeError, ValueError: if an argument has a wrong type, shape or device.
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
