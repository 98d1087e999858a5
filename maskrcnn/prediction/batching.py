"""Detects objects in batches of images in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from maskrcnn.data.canvas import Canvas, batch_images
from maskrcnn.data.dataset import Example
from maskrcnn.data.images import Pixels
from maskrcnn.data.transforms import Sample, Transform
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.precision import Precision, autocast
from maskrcnn.prediction.detections import ImageDetections, image_detections
from maskrcnn.structures import Images, Proposals


@torch.no_grad()
def detect_batch(
    model: MaskRCNN,
    images: Images,
    sizes: Iterable[tuple[int, int]],
    device: torch.device,
    precision: Precision = "fp32",
    proposals: Proposals | None = None,
) -> list[ImageDetections]:
    """Detect objects in a batch of images.

    Args:
        model: a detector; it is switched to evaluation mode.
        images: the batch.
        sizes: original (height, width) of each image.
        device: the model's device.
        precision: precision of the arithmetic.
        proposals: given proposals; None takes those of the model's RPN.

    Returns:
        For each image its detections, in pixels of the original image.
    """
    model.eval()
    given = None if proposals is None else proposals.to(device, non_blocking=True)
    with autocast(precision, device):
        detections = model.detect(images.to(device, non_blocking=True), given, trim=True).to("cpu")
    return [image_detections(detections, row, images.sizes[row], size) for row, size in enumerate(sizes)]


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
        model: a detector.
        images: ``[H, W, C]`` uint8.
        transform: how images are resized.
        batch_size: largest number of images per batch.
        device: the model's device.
        precision: precision of the arithmetic.
        size_divisor: the sides of the canvas are multiples of this.

    Returns:
        For each image its detections, in pixels of the original image.
    """

    def detect(_: list[int], samples: list[Sample]) -> list[ImageDetections]:
        batch = batch_images([sample.picture for sample in samples], Canvas(size_divisor))
        return detect_batch(model, batch, (s.original_size for s in samples), device, precision)

    return in_batches(images, transform, batch_size, size_divisor, detect)


def in_batches(
    images: Sequence[Pixels],
    transform: Transform,
    batch_size: int,
    size_divisor: int,
    detect: Callable[[list[int], list[Sample]], list[ImageDetections]],
) -> list[ImageDetections]:
    """Transform images, and detect objects in batches that fill one canvas without further padding.

    Args:
        images: ``[H, W, C]`` uint8.
        transform: how images are resized.
        batch_size: largest number of images per batch.
        size_divisor: the sides of the canvas are multiples of this.
        detect: detects in a batch, from the indices of its images and the transformed images.

    Returns:
        The detections of each image.
    """
    found: dict[int, ImageDetections] = {}
    for batch in _by_padded_shape((prepared(image, transform) for image in images), batch_size, size_divisor):
        found |= dict(zip(batch, detect(list(batch), list(batch.values())), strict=True))
    return [found[index] for index in range(len(images))]


def prepared(image: Pixels, transform: Transform) -> Sample:
    """Transform an image ``[H, W, 3]`` without annotations."""
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    return transform(Example(image, 0, *nothing, masks=[]), np.random.default_rng(0))


def _by_padded_shape(
    samples: Iterable[Sample], batch_size: int, size_divisor: int
) -> Iterator[dict[int, Sample]]:
    """Yield the samples of each batch by their indices."""
    waiting: dict[tuple[int, ...], dict[int, Sample]] = {}
    for index, sample in enumerate(samples):
        shape = tuple(-(-side // size_divisor) for side in sample.picture.size)
        group = waiting.setdefault(shape, {})
        group[index] = sample
        if len(group) == batch_size:
            yield waiting.pop(shape)
    yield from waiting.values()
