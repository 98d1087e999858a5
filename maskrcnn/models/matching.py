"""Matches boxes with ground-truth objects."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn.models import boxes as box_ops
from maskrcnn.structures import Targets

# A region with at least this share inside a crowd is neither positive nor negative (Detectron's crowd filter).
CROWD_COVERAGE = 0.7


class Match(NamedTuple):
    """Matched objects of boxes.

    Attributes:
        iou: ``[N, K]`` with the best object, -1 if the image has no objects.
        object: ``[N, K]`` index of the best object.
        best_of_object: ``[N, K]`` bool, no other box overlaps some object more.
        in_crowd: ``[N, K]`` bool, the box lies in a crowd region.
    """

    iou: Tensor
    object: Tensor
    best_of_object: Tensor
    in_crowd: Tensor


def match(boxes: Tensor, targets: Targets) -> Match:
    """Match boxes with the objects of their image.

    Args:
        boxes: ``[N, K, 4]``, or ``[1, K, 4]`` shared by all images.
        targets: ground truth of the batch.
    """
    shared = box_ops.intersection(boxes, targets.boxes)  # [N, K, G]
    overlap = box_ops.iou(boxes, targets.boxes, shared)
    overlap = overlap.masked_fill_(~targets.valid.unsqueeze(1), -1.0)
    iou, index = overlap.max(dim=2)
    best = overlap.amax(dim=1, keepdim=True)  # [N, 1, G]
    # An object that no box overlaps has no best box, so compare it with a value that no overlap has.
    best_of_object = (overlap == torch.where(best > 0, best, torch.inf)).any(dim=2)
    in_crowd = shared.masked_fill_(~targets.crowd.unsqueeze(1), 0.0).amax(dim=2)
    return Match(iou, index, best_of_object, in_crowd > CROWD_COVERAGE * box_ops.area(boxes))


def take(values: Tensor, index: Tensor) -> Tensor:
    """Select rows by index.

    Args:
        values: ``[N, A, ...]``.
        index: ``[N, K]`` int64.

    Returns:
        ``[N, K, ...]``.
    """
    expanded = index.reshape(*index.shape, *[1] * (values.dim() - 2)).expand(*index.shape, *values.shape[2:])
    return torch.gather(values, 1, expanded)
