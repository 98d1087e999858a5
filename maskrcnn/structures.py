"""The dataclasses that the parts of the detector exchange. Every field is padded and batched.

Conventions:

* Boxes are ``x1, y1, x2, y2`` in float32 pixels of the network's input, continuous: the width is ``x2 - x1``,
  pixel ``i`` covers ``[i, i + 1)`` and is centred at ``i + 0.5``. Sizes are ``(height, width)``.
* Labels are ``0 .. num_classes - 1``; background is ``num_classes``.
* Letters: N images, H W size, C channels, A anchors, K regions per image, P pooled size, G ground-truth objects
  per image (padded), D detections per image (padded), M mask side, J keypoints (joints) of an object.
* ``valid`` marks the entries of a padded tensor that exist. Padding entries are finite and masked out of every loss.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

Record = TypeVar("Record", bound="_Record")
Resampling = Literal["area", "float"]


@dataclass(frozen=True)
class _Record:
    def to(self: Record, device: torch.device | str, non_blocking: bool = False) -> Record:
        """Copy every tensor to ``device``."""
        return type(self)(
            **{
                f.name: value.to(device, non_blocking=non_blocking)
                if isinstance(value := getattr(self, f.name), (Tensor, _Record))
                else value
                for f in fields(self)
            }
        )

    def pin_memory(self: Record) -> Record:
        """Copy every tensor to page-locked host memory. torch's DataLoader calls this method."""
        return type(self)(
            **{
                f.name: value.pin_memory()
                if isinstance(value := getattr(self, f.name), (Tensor, _Record))
                else value
                for f in fields(self)
            }
        )


@dataclass(frozen=True)
class Images(_Record):
    """A batch of images, placed at the top left of a common canvas and padded with zeros.

    Attributes:
        pixels: ``[N, C, H, W]``, RGB for C = 3. The model normalises uint8 pixels (0..255); float32 pixels were
            normalised before resizing. H and W are multiples of the loader's ``size_divisor``.
        sizes: ``[N, 2]`` float32, (height, width) of each image before padding.
    """

    pixels: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class Preprocessing:
    """How images are resized before they enter the network.

    Args:
        short_side: pixels of the shorter side; None does not scale it.
        max_size: largest number of pixels of the longer side; None is no limit.
        resampling: ``area`` averages the pixels that a smaller pixel covers, and rounds to uint8 and to the nearest
            size. ``float`` reproduces torchvision bit for bit: it normalises first, interpolates linearly without
            antialiasing, and rounds the size down.
        size_divisor: the sides of the canvas are multiples of this.
        pixel_mean: mean of each channel in 0..255, for ``float``.
        pixel_std: standard deviation of each channel in 0..255, for ``float``.
    """

    short_side: int | None = 800
    max_size: int | None = 1333
    resampling: Resampling = "area"
    size_divisor: int = 32
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class MaskBitmaps(_Record):
    """Instance masks, each a bitmap of its bounding box in the *original* image, packed end to end.

    Masks are never resized or flipped. ``to_bitmap`` maps a point of the network's input into the bitmap instead.

    Attributes:
        bits: ``[B]`` uint8, 0 or 1: the bitmaps in row-major order, one after the other.
        offset: ``[N, G]`` int64, index in ``bits`` of an object's first pixel.
        size: ``[N, G, 2]`` int64, (height, width) of the bitmap; (0, 0) for an object without a mask.
        to_bitmap: ``[N, G, 4]`` float32 ``(scale_x, scale_y, shift_x, shift_y)``:
            bitmap coordinate ``= point * scale + shift``. Bitmap pixel ``j`` covers ``[j, j + 1)``.
    """

    bits: Tensor
    offset: Tensor
    size: Tensor
    to_bitmap: Tensor


@dataclass(frozen=True)
class Targets(_Record):
    """Ground truth of a batch.

    Attributes:
        boxes: ``[N, G, 4]`` float32.
        labels: ``[N, G]`` int64, 0 for padding.
        valid: ``[N, G]`` bool, objects to detect.
        crowd: ``[N, G]`` bool, regions to ignore (COCO's iscrowd, VOC's difficult). An entry is valid, crowd or
            padding.
        masks: the objects' masks, or None for a data set without masks.
        keys: ``[N]`` int64, a hash of (seed, epoch, image). All random sampling in the model is a function of it.
        keypoints: ``[N, G, J, 3]`` float32 (x, y, visibility), or None for a data set without keypoints. x and y are
            continuous pixels of the network's input. visibility is COCO's: 0 not labelled (x and y are 0 too), 1
            occluded, 2 visible.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    crowd: Tensor
    masks: MaskBitmaps | None
    keys: Tensor
    keypoints: Tensor | None = None


@dataclass(frozen=True)
class Proposals(_Record):
    """Regions that may contain an object.

    Attributes:
        boxes: ``[N, K, 4]``.
        scores: ``[N, K]`` logits.
        valid: ``[N, K]`` bool.
        labels: ``[N, K]`` int64 if the classes are known (ground truth used as proposals), else None.
    """

    boxes: Tensor
    scores: Tensor
    valid: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True)
class Samples(_Record):
    """Regions that the heads are trained on, positives first.

    Attributes:
        boxes: ``[N, K, 4]``.
        labels: ``[N, K]`` int64, the class of the matched object, or ``num_classes`` for background.
        matched: ``[N, K]`` int64, index of the matched object in `Targets`, 0 for background.
        valid: ``[N, K]`` bool.
        positive: ``[N, K]`` bool, valid and matched. Only the first ``max_positives`` entries can be positive.
        max_positives: see ``positive``.
        hardest: the box head is trained on this many samples per image, those with the largest loss; None is all.
    """

    boxes: Tensor
    labels: Tensor
    matched: Tensor
    valid: Tensor
    positive: Tensor
    max_positives: int
    hardest: int | None = None

    def positives(self) -> Samples:
        """The first ``max_positives`` entries ``[N, max_positives]``. ``valid`` marks the positives."""
        first = {
            name: getattr(self, name)[:, : self.max_positives]
            for name in ("boxes", "labels", "matched", "positive")
        }
        return Samples(**first, valid=first["positive"], max_positives=self.max_positives)


def used_rows(valid: Tensor) -> Tensor | None:
    """Flat indices ``[R]`` int64 of the entries of ``valid`` ``[N, K]`` that exist, at least one.

    None means all rows: no entry is padding, or padding stays because shapes must be fixed (on a GPU, in compiled
    code).
    """
    if _stays_padded(valid):
        return None
    rows = valid.flatten().nonzero()[:, 0]
    if len(rows) == valid.numel():
        return None
    return rows if len(rows) else torch.zeros(1, dtype=torch.int64)


def pick(values: Tensor, rows: Tensor | None) -> Tensor:
    """Select rows of a flattened ``[N * K, ...]`` tensor.

    Args:
        values: ``[N * K, ...]``.
        rows: ``[R]`` from `used_rows`; None keeps all rows.

    Returns:
        ``[R, ...]``. Maps ``[R, C, H, W]`` and their gradients are channels-last.
    """
    if rows is None:
        return values
    if values.dim() != 4:
        return values.index_select(0, rows)
    return values.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)


def spread(found: Tensor, rows: Tensor | None, shape: torch.Size) -> Tensor:
    """Invert `pick`: ``[R, ...]`` to ``[N, K, ...]``, zero in rows that were not selected.

    Args:
        found: ``[R, ...]``.
        rows: ``[R]`` from `used_rows`, or None.
        shape: (N, K).
    """
    if rows is not None:
        found = found.new_zeros(shape.numel(), *found.shape[1:]).index_copy(0, rows, found)
    return found.reshape(*shape, *found.shape[1:])


def _stays_padded(slots: Tensor) -> bool:
    """Whether padding stays: a GPU would have to synchronise, and compiled code needs the same shapes in every step."""
    return slots.device.type != "cpu" or torch.compiler.is_compiling()


@dataclass(frozen=True)
class Detections(_Record):
    """Detected objects by descending score.

    Attributes:
        boxes: ``[N, D, 4]`` in pixels of the network's input.
        scores: ``[N, D]`` in 0..1.
        labels: ``[N, D]`` int64.
        valid: ``[N, D]`` bool.
        masks: ``[N, D, M, M]`` probabilities inside the box, or None without a mask head.
        keypoints: ``[N, D, J, 3]`` (x, y, score), in pixels of the network's input, or None without a keypoint head.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    valid: Tensor
    masks: Tensor | None
    keypoints: Tensor | None = None


class Loss(NamedTuple):
    """A sum over samples, and the number to divide it by.

    They stay separate, so that a batch that is split over processes or accumulation steps has the mean of the whole
    batch.
    """

    total: Tensor
    count: Tensor  # type: ignore[assignment]  # hides the method `tuple.count`, which is not used here
