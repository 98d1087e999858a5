"""Detections of images in memory, many at once."""

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
    """What is found in each of ``samples``, which go through the network together; masks and boxes of their files."""
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
    """What is found in each of ``images`` ``[H, W, C]``; those of one padded shape go through the network together."""
    found: dict[int, ImageDetections] = {}
    samples = (prepared(image, transform) for image in images)
    for batch in by_padded_shape(samples, batch_size, size_divisor):
        results = detect_batch(model, [sample for _, sample in batch], device, precision, size_divisor)
        found |= dict(zip([place for place, _ in batch], results, strict=True))
    return [found[place] for place in range(len(images))]


def prepared(image: Pixels, transform: Transform) -> Sample:
    """An image ``[H, W, 3]``, of which nothing is known, as the network sees it."""
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    return transform(Example(image, 0, *nothing, masks=[]), np.random.default_rng(0))


def by_padded_shape(
    samples: Iterable[Sample], batch_size: int, size_divisor: int
) -> Iterator[list[tuple[int, Sample]]]:
    """Batches of at most ``batch_size`` samples, with their places, that fill one canvas without further padding."""
    waiting: dict[tuple[int, int], list[tuple[int, Sample]]] = {}
    for place, sample in enumerate(samples):
        height, width = (-(-side // size_divisor) for side in sample.picture.size)
        group = waiting.setdefault((height, width), [])
        group.append((place, sample))
        if len(group) == batch_size:
            yield waiting.pop((height, width))
    yield from waiting.values()
