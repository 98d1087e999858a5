"""Boxes against ground truth: which object does an anchor or a proposal stand for?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn.models import boxes as box_ops
from maskrcnn.structures import Targets

# A region that lies inside a crowd by this share says nothing about it either way (Detectron's crowd filter).
CROWD_COVERAGE = 0.7


class Match(NamedTuple):
    """iou: ``[N, K]`` with the best object (-1 where the image has none). object: ``[N, K]`` its index.

    best_of_object: ``[N, K]`` bool, no other box overlaps some object more. in_crowd: ``[N, K]`` bool.
    """

    iou: Tensor
    object: Tensor
    best_of_object: Tensor
    in_crowd: Tensor


def match(boxes: Tensor, targets: Targets) -> Match:
    """Match boxes ``[N, K, 4]`` or ``[1, K, 4]`` (shared by all images) with the objects of ``targets``."""
    shared = box_ops.intersection(boxes, targets.boxes)  # [N, K, G]
    overlap = box_ops.iou(boxes, targets.boxes, shared)
    overlap = overlap.masked_fill_(~targets.valid.unsqueeze(1), -1.0)
    iou, index = overlap.max(dim=2)
    best = overlap.amax(dim=1, keepdim=True)  # [N, 1, G]
    # An object that nothing overlaps has no best box: it is compared with a value that no overlap takes.
    best_of_object = (overlap == torch.where(best > 0, best, torch.inf)).any(dim=2)
    in_crowd = shared.masked_fill_(~targets.crowd.unsqueeze(1), 0.0).amax(dim=2)
    return Match(iou, index, best_of_object, in_crowd > CROWD_COVERAGE * box_ops.area(boxes))


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of ``values`` ``[N, A, ...]`` by ``index`` ``[N, K]``: ``[N, K, ...]``."""
    expanded = index.reshape(*index.shape, *[1] * (values.dim() - 2)).expand(*index.shape, *values.shape[2:])
    return torch.gather(values, 1, expanded)
