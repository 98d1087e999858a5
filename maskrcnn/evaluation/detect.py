"""Detections of a whole data set, image by image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from maskrcnn.data.loader import EvalBatch
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.precision import Precision, autocast
from maskrcnn.prediction.detections import ImageDetections, Result, image_detections


@torch.no_grad()
def detect_images(
    model: MaskRCNN, batches: Iterable[EvalBatch], device: torch.device, precision: Precision = "fp32"
) -> Iterator[tuple[int, ImageDetections]]:
    """For every image its id, and what is found in it, in pixels of the original image.

    batches: images, their COCO ids and their original (height, width). precision: of the network's arithmetic.
    """
    model.eval()
    for images, image_ids, original_sizes, proposals in batches:
        given = None if proposals is None else proposals.to(device, non_blocking=True)
        with autocast(precision, device):
            detections = model.detect(images.to(device, non_blocking=True), given, trim=True).to("cpu")
        for row, (image_id, size) in enumerate(zip(image_ids, original_sizes, strict=True)):
            yield image_id, image_detections(detections, row, images.sizes[row], size)


def detect_all(
    model: MaskRCNN,
    batches: Iterable[EvalBatch],
    category_ids: Sequence[int],
    device: torch.device,
    precision: Precision = "fp32",
) -> Iterator[tuple[int, list[Result]]]:
    """`detect_images`, as COCO results. category_ids: COCO id of each label."""
    for image_id, found in detect_images(model, batches, device, precision):
        yield image_id, found.to_coco(image_id, category_ids)
