"""Non-maximum suppression over a padded batch of images and groups, and its reference in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

PAIRS = 1 << 22  # bound on the pairs of boxes compared at once


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
    keep: Tensor = torch.ops.maskrcnn_ops.nms(
        boxes.detach().to(wide).contiguous(),
        order.contiguous(),
        groups.to(torch.int64).contiguous(),
        valid.contiguous(),
        float(iou_threshold),
    )
    return keep


def nms(boxes: Tensor, order: Tensor, groups: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Greedy suppression within images and groups. The kernels must equal it; without kernels it is used itself.

    Boxes are processed in blocks. The kept boxes of a block are found first; then all later boxes are compared with
    them.

    Args:
        boxes: [N, K, 4] x1, y1, x2, y2.
        order: [N, K] indices of the boxes by descending score.
        groups: [N, K] integers.
        valid: [N, K] bool.
        threshold: largest allowed intersection over union.

    Returns:
        keep [N, K] bool.
    """
    ranked = boxes.gather(1, order[..., None].expand_as(boxes))
    group = groups.gather(1, order)
    keep = valid.gather(1, order)
    step = max(1, PAIRS // max(1, keep.numel()))
    for begin in range(0, order.shape[1], step):
        block = slice(begin, begin + step)
        suppresses = _above(_overlaps(ranked[:, block], ranked[:, begin:]), threshold)  # [N, B, K - begin]
        suppresses &= group[:, block, None] == group[:, None, begin:]
        suppresses.triu_(1)
        stay = _settled(keep[:, block], suppresses)
        keep[:, begin:] &= ~(suppresses & stay[..., None]).any(1)
    return torch.zeros_like(keep).scatter(1, order, keep)


def _settled(candidates: Tensor, suppresses: Tensor) -> Tensor:
    """Return which candidates [N, B] are kept: those that no kept, earlier candidate suppresses.

    The first k entries are final after k iterations. A few iterations are usually enough for all.
    """
    suppresses = suppresses[..., : candidates.shape[1]]
    before, stay = ~candidates, candidates
    while not torch.equal(before, stay):
        before, stay = stay, candidates & ~(suppresses & stay[..., None]).any(1)
    return stay


def _above(overlaps: Tensor, threshold: float) -> Tensor:
    """Compute ``overlaps > threshold`` exactly; the threshold may round up in the type of the overlaps."""
    rounded = float(torch.tensor(threshold, dtype=overlaps.dtype))
    return overlaps >= rounded if rounded > threshold else overlaps > rounded


def _overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union [N, A, B] of boxes [N, A, 4] and [N, B, 4], as in ``csrc/nms.h``."""
    width, height = (
        (
            torch.minimum(a[:, :, None, side + 2], b[:, None, :, side + 2])
            - torch.maximum(a[:, :, None, side], b[:, None, :, side])
        ).clamp_(min=0)
        for side in (0, 1)
    )
    shared = width.mul_(height)
    area_a, area_b = ((x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b))
    return shared / (area_a[:, :, None] + area_b[:, None]).sub_(shared)
