"""Detects objects in batches of images in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from maskrcnn.data.canvas import Canvas, batch_images
from maskrcnn.data.dataset import Example
from maskrcnn.data.images import Pixels
from maskrcnn.data.transforms import Sample, Transform
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.precision import Precision, autocast
from maskrcnn.prediction.detections import ImageDetections, image_detections


@torch.no_grad()
def detect_batch(
    model: MaskRCNN,
    samples: Sequence[Sample],
    device: torch.device,
    precision: Precision = "fp32",
    size_divisor: int = 32,
) -> list[ImageDetections]:
    """Detect objects in a batch of images.

    Args:
        model: in evaluation mode.
        samples: transformed images.
        device: the model's device.
        precision: precision of the arithmetic.
        size_divisor: the sides of the canvas are multiples of this.

    Returns:
        For each image its detections, in pixels of the original image.
    """
    model.eval()
    batch = batch_images([sample.picture for sample in samples], Canvas(size_divisor))
    with autocast(precision, device):
        detections = model.detect(batch.to(device), trim=True).to("cpu")
    return [
        image_detections(detections, row, batch.sizes[row], sample.original_size)
        for row, sample in enumerate(samples)
    ]


def detect_plain(
    model: MaskRCNN,
    images: Sequence[Pixels],
    transform: Transform,
    batch_size: int,
    device: torch.device,
    precision: Precision = "fp32",
    size_divisor: int = 32,
) -> list[ImageDetections]:
    """Detect objects in images of any size. Images of the same padded size form a batch.

    Args:
        model: in evaluation mode.
        images: ``[H, W, C]`` uint8.
        transform: how images are resized.
        batch_size: largest number of images per batch.
        device: the model's device.
        precision: precision of the arithmetic.
        size_divisor: the sides of the canvas are multiples of this.

    Returns:
        For each image its detections, in pixels of the original image.
    """
    found: dict[int, ImageDetections] = {}
    samples = (prepared(image, transform) for image in images)
    for batch in by_padded_shape(samples, batch_size, size_divisor):
        results = detect_batch(model, [sample for _, sample in batch], device, precision, size_divisor)
        found |= dict(zip([place for place, _ in batch], results, strict=True))
    return [found[place] for place in range(len(images))]


def prepared(image: Pixels, transform: Transform) -> Sample:
    """Transform an image ``[H, W, 3]`` without annotations."""
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    return transform(Example(image, 0, *nothing, masks=[]), np.random.default_rng(0))


def by_padded_shape(
    samples: Iterable[Sample], batch_size: int, size_divisor: int
) -> Iterator[list[tuple[int, Sample]]]:
    """Yield batches that fill one canvas without further padding.

    Args:
        samples: transformed images.
        batch_size: largest number of images per batch.
        size_divisor: the sides of the canvas are multiples of this.

    Yields:
        The images of a batch with their indices.
    """
    waiting: dict[tuple[int, int], list[tuple[int, Sample]]] = {}
    for place, sample in enumerate(samples):
        height, width = (-(-side // size_divisor) for side in sample.picture.size)
        group = waiting.setdefault((height, width), [])
        group.append((place, sample))
        if len(group) == batch_size:
            yield waiting.pop((height, width))
    yield from waiting.values()
