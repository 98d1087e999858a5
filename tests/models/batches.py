"""A small detector and a random batch, in float64 where numbers are compared."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from maskrcnn.structures import Images, MaskBitmaps, Targets

NUM_CLASSES = 3


def random_images(count: int, side: int, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.full((count, 2), float(side)))


def box_targets(boxes: list[list[list[float]]], labels: list[list[int]], padded: int = 8) -> Targets:
    """Ground truth from nested lists, each object's mask filling its box."""
    n = len(boxes)
    out, classes = torch.zeros(n, padded, 4), torch.zeros(n, padded, dtype=torch.int64)
    valid = torch.zeros(n, padded, dtype=torch.bool)
    for row, (image_boxes, image_labels) in enumerate(zip(boxes, labels, strict=True)):
        for g, (box, label) in enumerate(zip(image_boxes, image_labels, strict=True)):
            out[row, g], classes[row, g], valid[row, g] = torch.tensor(box), label, True
    return Targets(
        out, classes, valid, torch.zeros_like(valid), full_masks(out, valid), torch.arange(n) * 1000 + 17
    )


def with_keypoints(targets: Targets, count: int, seed: int = 0) -> Targets:
    """The same, each object with ``count`` keypoints somewhere in its box, some of them not labelled."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(*targets.labels.shape, count, 2, generator=generator)
    corner, far = targets.boxes[:, :, None, :2], targets.boxes[:, :, None, 2:]
    visibility = torch.randint(0, 3, (*targets.labels.shape, count, 1), generator=generator)
    points = torch.cat([corner + place * (far - corner), visibility], -1)
    return replace(targets, keypoints=points * (visibility > 0) * targets.valid[..., None, None])


def full_masks(boxes: Tensor, valid: Tensor) -> MaskBitmaps:
    """One shared bitmap of a single 1: every mask is its whole box."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1)
    to_bitmap = torch.cat([1 / size, -boxes[..., :2] / size], -1)
    shape = torch.where(valid[..., None], 1, 0).expand(*valid.shape, 2).contiguous()
    return MaskBitmaps(
        torch.ones(1, dtype=torch.uint8), torch.zeros_like(valid, dtype=torch.int64), shape, to_bitmap
    )


def random_targets(count: int, side: int, seed: int = 0, most: int = 4) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = [], []
    for _ in range(count):
        number = int(torch.randint(1, most + 1, (1,), generator=generator))
        corner = torch.rand(number, 2, generator=generator) * side * 0.5
        size = (0.15 + 0.3 * torch.rand(number, 2, generator=generator)) * side
        boxes.append(torch.cat([corner, corner + size], 1).tolist())
        labels.append(torch.randint(0, NUM_CLASSES, (number,), generator=generator).tolist())
    return box_targets(boxes, labels)
