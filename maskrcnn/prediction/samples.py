"""Converts training samples to annotations that can be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn.data.images import Pixels
from maskrcnn.data.keypoints import to_coco
from maskrcnn.data.masks import Bits, MaskBitmap, encode
from maskrcnn.data.transforms import Sample


def visible(sample: Sample) -> Pixels:
    """The network's input ``[H, W, 3]`` uint8, before normalisation."""
    return np.asarray(replace(sample.picture, normalise=None).pixels(), np.uint8)


def as_annotations(sample: Sample, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The objects of a sample in COCO's format, in pixels of the network's input.

    Args:
        sample: from a training loader.
        category_ids: COCO id of each label.
    """
    entries = []
    for g, (x1, y1, x2, y2) in enumerate(sample.boxes.tolist()):
        mask = sample.masks[g]
        entry = {
            "image_id": sample.image_id,
            "category_id": category_ids[int(sample.labels[g])],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "iscrowd": int(sample.crowd[g]),
        }
        if mask is not None:
            entry["segmentation"] = encode(_seen(mask, sample.to_bitmap[g], sample.picture.size))
        if sample.keypoints is not None:
            entry["keypoints"] = to_coco(sample.keypoints[g])
        entries.append(entry)
    return entries


def _seen(mask: MaskBitmap, to_bitmap: npt.NDArray[np.float32], size: tuple[int, int]) -> Bits:
    """The mask at the centre of every pixel of an image of ``size`` (height, width)."""
    height, width = mask.bits.shape
    x = np.floor((np.arange(size[1]) + 0.5) * to_bitmap[0] + to_bitmap[2]).astype(np.int64)
    y = np.floor((np.arange(size[0]) + 0.5) * to_bitmap[1] + to_bitmap[3]).astype(np.int64)
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))
    read = mask.bits[np.ix_(y.clip(0, height - 1), x.clip(0, width - 1))]
    return np.asarray(read * inside, np.uint8)
