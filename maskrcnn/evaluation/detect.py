"""Detects objects in all images of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from maskrcnn.data.images import Pixels
from maskrcnn.data.loader import EvalBatch, EvalLoader
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.precision import Precision, autocast
from maskrcnn.prediction.batching import detect_plain
from maskrcnn.prediction.detections import ImageDetections, image_detections
from maskrcnn.prediction.tiles import Tiles, detect_tiled


@torch.no_grad()
def detect_images(
    model: MaskRCNN, batches: Iterable[EvalBatch], device: torch.device, precision: Precision = "fp32"
) -> Iterator[tuple[int, ImageDetections]]:
    """Yield the id and the detections of every image, in pixels of the original image.

    Args:
        model: a detector.
        batches: images, their COCO ids and their original (height, width).
        device: the model's device.
        precision: precision of the arithmetic.
    """
    model.eval()
    for images, image_ids, original_sizes, proposals in batches:
        given = None if proposals is None else proposals.to(device, non_blocking=True)
        with autocast(precision, device):
            detections = model.detect(images.to(device, non_blocking=True), given, trim=True).to("cpu")
        for row, (image_id, size) in enumerate(zip(image_ids, original_sizes, strict=True)):
            yield image_id, image_detections(detections, row, images.sizes[row], size)


def detect_in_tiles(
    model: MaskRCNN,
    loader: EvalLoader,
    batch_size: int,
    tiles: Tiles,
    device: torch.device,
    precision: Precision = "fp32",
) -> Iterator[tuple[int, ImageDetections]]:
    """Detect like `detect_images`, but in windows of the images.

    Args:
        model: a detector.
        loader: its images and its transform, which resizes every window, are used.
        batch_size: windows per batch.
        tiles: the windows.
        device: the model's device.
        precision: precision of the arithmetic.
    """

    def detect(windows: Sequence[Pixels]) -> list[ImageDetections]:
        chosen = (loader.transform, batch_size, device, precision, loader.size_divisor)
        return detect_plain(model, windows, *chosen)

    for image_id, image in loader.images():
        yield image_id, detect_tiled(image, detect, tiles)
