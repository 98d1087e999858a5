"""`maskrcnn.Predictor`: detects objects in images with a model or a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import maskrcnn
from maskrcnn.data.images import Pixels
from maskrcnn.data.keypoints import mirror_order
from maskrcnn.data.transforms import Sample, Transform
from maskrcnn.errors import UserError
from maskrcnn.models.convolution import use_fast_convolutions
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.precision import Precision
from maskrcnn.prediction.batching import detect_plain, in_batches
from maskrcnn.prediction.detections import ImageDetections
from maskrcnn.prediction.tiles import Tiles, detect_tiled
from maskrcnn.prediction.tta import Augmentation, detect_augmented

# Images that `stream` keeps in memory, in pixels: 200 MB of RGB, one of 8000 x 6000 or 64 of a megapixel.
_READ_AHEAD = 1 << 26
PAPER = Transform(short_side=800, max_size=1333)


class Predictor:
    """Detects objects in images. Images of the same padded size form a batch.

    Args:
        model: a detector, or the path of a checkpoint of ``maskrcnn train`` or `maskrcnn.Trainer`. The checkpoint has
            its own transform, categories and precision.
        transform: how images are resized. None is the checkpoint's; for a model in memory, its ``preprocessing`` or
            the paper's sizes.
        device: ``auto`` is a GPU if there is one.
        batch_size: largest number of images per batch.
        precision: precision of the arithmetic.
        max_size: largest side of the network's input in pixels, which limits the memory; None is no limit.
        augmentation: test-time augmentation.
        categories: dictionaries with ``id`` and ``name``, by label.
        size_divisor: the sides of the canvas are multiples of this.
        overrides: changes of a checkpoint's config, for example ``model.box_head.score_threshold=0.3``.
        trust_checkpoint: also call constructors outside this project that the checkpoint names.
        tiles: cut large images into overlapping windows, for example ``Tiles(640, overlap=0.2)``; None does not cut.

    Raises:
        UserError: the checkpoint cannot be read, or settings contradict each other.
    """

    def __init__(
        self,
        model: MaskRCNN | str | Path,
        transform: Transform | None = None,
        device: str | torch.device = "auto",
        batch_size: int = 8,
        precision: Precision = "fp32",
        max_size: int | None = 2048,
        augmentation: Augmentation | None = None,
        categories: Sequence[dict[str, Any]] | None = None,
        size_divisor: int = 32,
        overrides: Sequence[str] = (),
        trust_checkpoint: bool = False,
        tiles: Tiles | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: a batch has at least one image")
        if isinstance(model, MaskRCNN):
            use_fast_convolutions(model)
        if isinstance(model, str | Path):
            loaded = maskrcnn.load_for_prediction(str(model), overrides, trust_checkpoint)
            model, precision, size_divisor = loaded.model, loaded.precision, loaded.size_divisor
            transform, categories = transform or loaded.transform, categories or loaded.categories
        elif overrides:
            raise UserError("overrides change a checkpoint's config; a model in memory has none")
        elif model.preprocessing is not None and transform is None:
            transform, size_divisor = Transform.of(model.preprocessing), model.preprocessing.size_divisor
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.transform = _limited(transform or PAPER, max_size)
        self.batch_size, self.precision, self.size_divisor = batch_size, precision, size_divisor
        self.tiles = tiles
        self.augmentation = augmentation and replace(augmentation, max_size=max_size)
        self.categories = [dict(category) for category in categories or ()]

    @property
    def category_ids(self) -> list[int]:
        """COCO id of each label. Without categories, labels are counted from 1."""
        if self.categories:
            return [int(category["id"]) for category in self.categories]
        head = self.model.box_head or self.model.mask_head
        return list(range(1, 2 if head is None else head.num_classes + 1))

    @property
    def mirror_keypoints(self) -> list[int] | None:
        """For each keypoint, the index of its counterpart in a mirror image, by the names in the categories."""
        names = next((c["keypoints"] for c in self.categories if c.get("keypoints")), None)
        return None if names is None else mirror_order(names)

    def predict(self, images: Sequence[Pixels]) -> list[ImageDetections]:
        """Detect the objects in images.

        Args:
            images: RGB images ``[H, W, 3]`` uint8 of any sizes.

        Returns:
            For each image its detections, in pixels of the image.

        Raises:
            UserError: an image has another type or shape.
        """
        for place, image in enumerate(images):
            _check(image, place)
        if self.tiles is None:
            return self._detect(images)
        return [detect_tiled(image, self._detect, self.tiles) for image in images]

    def _detect(self, images: Sequence[Pixels]) -> list[ImageDetections]:
        rest = (self.device, self.precision, self.size_divisor)
        if self.augmentation is None:
            return detect_plain(self.model, images, self.transform, self.batch_size, *rest)
        augmentation, mirrored = self.augmentation, self.mirror_keypoints

        def detect(indices: list[int], _: list[Sample]) -> list[ImageDetections]:
            own = [images[index] for index in indices]
            return detect_augmented(self.model, own, self.transform, augmentation, *rest, mirrored)

        return in_batches(images, self.transform, self.batch_size, self.size_divisor, detect)

    def stream(self, images: Iterable[Pixels]) -> Iterator[tuple[Pixels, ImageDetections]]:
        """Yield each image with its detections, in order, for more images than fit into memory."""
        part: list[Pixels] = []
        pixels = 0
        for image in images:
            size = int(np.prod(image.shape[:2]))
            if part and (len(part) == 4 * self.batch_size or pixels + size > _READ_AHEAD):
                yield from zip(part, self.predict(part), strict=True)
                part, pixels = [], 0
            part.append(image)
            pixels += size
        yield from zip(part, self.predict(part), strict=True)


def _limited(transform: Transform, max_size: int | None) -> Transform:
    limits = [limit for limit in (transform.max_size, max_size) if limit is not None]
    return replace(transform, max_size=min(limits, default=None))


def _check(image: object, place: int) -> None:
    if not isinstance(image, np.ndarray):
        found = type(image).__name__
    elif image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return
    else:
        found = f"{image.dtype} {list(image.shape)}"
    raise UserError(f"picture {place} is {found}; expected an RGB array [height, width, 3] of uint8")
