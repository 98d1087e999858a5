"""Detections of images in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from maskrcnn.data.canvas import Canvas, batch_images
from maskrcnn.data.dataset import Example
from maskrcnn.data.images import Pixels
from maskrcnn.data.transforms import Transform
from maskrcnn.engine.evaluate import Result, to_results
from maskrcnn.models.mask_rcnn import MaskRCNN


@torch.no_grad()
def detect_images(
    model: MaskRCNN,
    images: Sequence[Pixels],
    transform: Transform,
    category_ids: Sequence[int],
    device: torch.device,
) -> list[list[Result]]:
    """COCO results for each RGB uint8 image ``[H, W, 3]``, in its own pixels, all images as one batch.

    transform: the one the model was tested with. category_ids: COCO id of each label.
    """
    model.eval()
    samples = [transform(_bare(image), np.random.default_rng(0)) for image in images]
    batch = batch_images([sample.picture for sample in samples], Canvas())
    detections = model.detect(batch.to(device), trim=True).to("cpu")
    return [
        to_results(detections, row, batch.sizes[row], row, sample.original_size, category_ids)
        for row, sample in enumerate(samples)
    ]


def _bare(image: Pixels) -> Example:
    """An image of which nothing is known."""
    return Example(
        image, 0, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_), masks=[]
    )
