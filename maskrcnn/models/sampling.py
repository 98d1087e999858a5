"""Matches boxes with ground-truth objects, and samples boxes at random for training.

Sampling has no random state: the numbers are a hash of the image's key. A generator's state would have to be saved,
shared between processes and kept in step with the split of the batch. With a hash of (seed, epoch, image), an image has
the same sample in any process, batch position and device.
"""

from __future__ import annotations

from functools import lru_cache
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


def keyed_uniform(keys: Tensor, count: int, stream: int) -> Tensor:
    """Generate uniform numbers in [0, 1). The same keys give the same numbers.

    The mixing is that of SplitMix64 (Steele et al., 2014).

    Args:
        keys: ``[N]`` int64.
        count: numbers per key.
        stream: distinguishes independent uses of one key.

    Returns:
        ``[N, count]`` float32.
    """
    x = keys[:, None] * -7046029254386353131 + _positions(count, stream, keys.device)  # wraps modulo 2^64
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    x = x ^ _shift(x, 31)
    return _shift(x, 40).to(torch.float32) * 2.0**-24


@lru_cache(maxsize=64)
def _positions(count: int, stream: int, device: torch.device) -> Tensor:
    position = torch.arange(count, device=device, dtype=torch.int64) + (stream << 32)
    return position * -4417276706812531889


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift (torch's is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def sample(
    positive: Tensor, negative: Tensor, num: int, max_positives: int, keys: Tensor, stream: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample up to ``num`` candidates per image at random, positives first.

    Args:
        positive: ``[N, A]`` bool.
        negative: ``[N, A]`` bool, disjoint from ``positive``.
        num: number of samples per image.
        max_positives: largest number of positives among them.
        keys: ``[N]`` int64, see `keyed_uniform`.
        stream: see `keyed_uniform`.

    Returns:
        Indices, validity and whether the sample is a positive, each ``[N, S]`` with ``S = min(num, A)``.
    """
    slots = min(num, positive.shape[1])
    uniform = keyed_uniform(keys, positive.shape[1], stream)
    pos_key, pos_index = uniform.masked_fill(~positive, -1.0).topk(min(max_positives, slots))
    neg_key, neg_index = uniform.masked_fill(~negative, -1.0).topk(slots)
    pos_valid = pos_key >= 0
    num_positive, slot = pos_valid.sum(1, keepdim=True), torch.arange(slots, device=keys.device)
    neg_valid = (neg_key >= 0) & (slot < slots - num_positive)
    valid = torch.cat([pos_valid, neg_valid], dim=1)
    valid, first = torch.sort(valid.to(torch.uint8), dim=1, descending=True, stable=True)
    indices = torch.cat([pos_index, neg_index], dim=1).gather(1, first[:, :slots])
    return indices, valid[:, :slots].bool(), slot < num_positive
