"""Non-maximum suppression in PyTorch. The kernels must equal it; it is used if there are no kernels."""

from __future__ import annotations

import torch
from torch import Tensor

PAIRS = 1 << 22  # bound on the pairs of boxes compared at once


def nms(boxes: Tensor, order: Tensor, groups: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Greedy suppression within images and groups.

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
