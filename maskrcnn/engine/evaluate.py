"""Detections of a whole data set, as COCO results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from maskrcnn_ops import masks_to_rle
from torch import Tensor

from maskrcnn.data.loader import EvalBatch
from maskrcnn.engine.learner import Precision, autocast
from maskrcnn.models.mask_rcnn import MaskRCNN
from maskrcnn.structures import Detections

Result = dict[str, Any]


@torch.no_grad()
def detect_all(
    model: MaskRCNN,
    batches: Iterable[EvalBatch],
    category_ids: Sequence[int],
    device: torch.device,
    precision: Precision = "fp32",
) -> Iterator[tuple[int, list[Result]]]:
    """For every image its id, and its detections as COCO results in pixels of the original image.

    batches: images, their COCO ids and their original (height, width).
    category_ids: COCO id of each label. precision: of the network's arithmetic.
    """
    model.eval()
    for images, image_ids, original_sizes, proposals in batches:
        given = None if proposals is None else proposals.to(device, non_blocking=True)
        with autocast(precision, device):
            detections = model.detect(images.to(device, non_blocking=True), given, trim=True).to("cpu")
        for row, (image_id, size) in enumerate(zip(image_ids, original_sizes, strict=True)):
            yield image_id, to_results(detections, row, images.sizes[row], image_id, size, category_ids)


def to_results(
    detections: Detections,
    row: int,
    network_size: Tensor,
    image_id: int,
    size: tuple[int, int],
    category_ids: Sequence[int],
) -> list[Result]:
    """One image's detections as COCO results: boxes ``[x, y, width, height]`` and RLE masks at ``size`` (h, w)."""
    found = detections.valid[row]
    boxes = original_boxes(detections.boxes[row][found], network_size, size)
    scores, labels = detections.scores[row][found].tolist(), detections.labels[row][found].tolist()
    results: list[Result] = [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": _xywh(box), "score": score}
        for box, score, label in zip(boxes.double().numpy(), scores, labels, strict=True)
    ]
    if detections.masks is not None:
        for result, rle in zip(
            results, masks_to_rle(detections.masks[row][found].float(), boxes, *size), strict=True
        ):
            result["segmentation"] = rle
    return results


def original_boxes(boxes: Tensor, network_size: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes ``[D, 4]`` of the network's input to pixels of the original image of ``size`` (height, width)."""
    height, width = size
    scale = torch.tensor([width, height], dtype=torch.float32) / network_size.flip(0)
    limit = torch.tensor([width, height, width, height], dtype=torch.float32)
    return torch.minimum((boxes.float() * scale.repeat(2)).clamp(min=0), limit)


def _xywh(box: npt.NDArray[np.float64]) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, x2 - x1, y2 - y1]
