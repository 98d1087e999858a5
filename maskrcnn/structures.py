"""The records that pass between the parts of the detector. Every field is padded and batched.

Conventions, obeyed everywhere:

* Boxes are ``x1, y1, x2, y2`` in float32 pixels of the network's input, continuous: the width is ``x2 - x1``,
  pixel ``i`` covers ``[i, i + 1)`` and is centred at ``i + 0.5``. Sizes are ``(height, width)``.
* Labels are ``0 .. num_classes - 1``; background is ``num_classes``.
* Letters: N images, H W size, C channels, A anchors, K regions per image, P pooled size, G ground-truth objects
  per image (padded), D detections per image (padded), M mask side, J keypoints (joints) of an object.
* Where a record is padded, ``valid`` says which entries exist; the others hold finite numbers that weigh nothing.
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
        """The same record with every tensor on ``device``."""
        return type(self)(
            **{
                f.name: value.to(device, non_blocking=non_blocking)
                if isinstance(value := getattr(self, f.name), (Tensor, _Record))
                else value
                for f in fields(self)
            }
        )

    def pin_memory(self: Record) -> Record:
        """The same record in page-locked host memory (called by torch's DataLoader)."""
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

    pixels: ``[N, 3, H, W]`` RGB, uint8 in 0..255, which the model normalises, or float32, normalised before resizing;
    H and W are multiples of the loader's ``size_divisor``.
    sizes: ``[N, 2]`` float32, (height, width) of each image before padding.
    """

    pixels: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class Preprocessing:
    """How images are resized before the network sees them.

    short_side, max_size: pixels of the shorter side, and at most of the longer one; None for no such rule.
    resampling: ``area`` averages what a shrunk pixel covers, rounds to uint8 and the size to the nearest; ``float`` is
    torchvision's, to the bit: normalised first, bilinear without smoothing, the size rounded down.
    size_divisor: the canvas's sides are multiples of it. pixel_mean, pixel_std: of RGB in 0..255, for ``float``.
    """

    short_side: int | None = 800
    max_size: int | None = 1333
    resampling: Resampling = "area"
    size_divisor: int = 32
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class MaskBitmaps(_Record):
    """Instance masks, each as a bitmap of its own bounding box in the *original* image, packed end to end.

    Nothing is ever resized or flipped: ``to_bitmap`` maps a point of the network's input into the bitmap.

    bits: ``[B]`` uint8, 0 or 1, the bitmaps row by row, one after the other.
    offset: ``[N, G]`` int64, where in ``bits`` an object's bitmap begins.
    size: ``[N, G, 2]`` int64, (height, width) of the bitmap; (0, 0) for an object without a mask.
    to_bitmap: ``[N, G, 4]`` float32 ``(scale_x, scale_y, shift_x, shift_y)``:
    bitmap coordinate ``= point * scale + shift``; bitmap pixel ``j`` covers ``[j, j + 1)``.
    """

    bits: Tensor
    offset: Tensor
    size: Tensor
    to_bitmap: Tensor


@dataclass(frozen=True)
class Targets(_Record):
    """Ground truth of a batch.

    boxes: ``[N, G, 4]`` float32. labels: ``[N, G]`` int64, 0 in padding.
    valid: ``[N, G]`` bool, objects to be found. crowd: ``[N, G]`` bool, regions to be ignored (COCO's iscrowd, VOC's
    difficult); an entry is valid, crowd, or padding, never two of them.
    masks: the objects' masks, or None for a data set of boxes.
    keys: ``[N]`` int64, a hash of (seed, epoch, image): all random sampling in the model is a function of it.
    keypoints: ``[N, G, J, 3]`` float32 (x, y, visibility), or None for a data set without. x and y are continuous
    pixels of the network's input; visibility is COCO's: 0 not labelled (x and y are 0 too), 1 hidden, 2 seen.
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
    """Regions that may hold an object: boxes ``[N, K, 4]``, scores ``[N, K]`` (logits), valid ``[N, K]`` bool.

    labels: ``[N, K]`` int64 where the class is known beforehand (ground truth given as proposals), else None.
    """

    boxes: Tensor
    scores: Tensor
    valid: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True)
class Samples(_Record):
    """Regions the heads learn from, positives first.

    boxes: ``[N, K, 4]``. labels: ``[N, K]`` int64, the class of the matched object, ``num_classes`` for background.
    matched: ``[N, K]`` int64, index of the matched object in Targets (0 where there is none).
    valid: ``[N, K]`` bool. positive: ``[N, K]`` bool, valid and matched; only the first ``max_positives`` can be.
    hardest: the box head learns from so many samples of an image, those of the largest loss; None is all.
    """

    boxes: Tensor
    labels: Tensor
    matched: Tensor
    valid: Tensor
    positive: Tensor
    max_positives: int
    hardest: int | None = None

    def positives(self) -> Samples:
        """The slots that can hold positives, ``[N, max_positives]``; valid where they do."""
        first = {
            name: getattr(self, name)[:, : self.max_positives]
            for name in ("boxes", "labels", "matched", "positive")
        }
        return Samples(**first, valid=first["positive"], max_positives=self.max_positives)


def used_rows(valid: Tensor) -> Tensor | None:
    """Which rows of ``[N * K]`` hold something where ``valid`` is ``[N, K]`` bool: ``[R]`` int64, one at least. None is
    all of them, as where slots stay padded."""
    if _stays_padded(valid):
        return None
    rows = valid.flatten().nonzero()[:, 0]
    if len(rows) == valid.numel():
        return None
    return rows if len(rows) else torch.zeros(1, dtype=torch.int64)


def pick(values: Tensor, rows: Tensor | None) -> Tensor:
    """The ``rows`` of `used_rows` of ``[N * K, ...]``: ``[R, ...]``; maps ``[R, C, H, W]``, and their gradient, in
    channels-last."""
    if rows is None:
        return values
    if values.dim() != 4:
        return values.index_select(0, rows)
    return values.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)


def spread(found: Tensor, rows: Tensor | None, shape: torch.Size) -> Tensor:
    """The way back: ``[R, ...]`` to ``[N, K, ...]``, zero elsewhere. shape: (N, K)."""
    if rows is not None:
        found = found.new_zeros(shape.numel(), *found.shape[1:]).index_copy(0, rows, found)
    return found.reshape(*shape, *found.shape[1:])


def _stays_padded(slots: Tensor) -> bool:
    """Everywhere but on a CPU: a GPU would have to be waited for, and wants the same shapes in every step."""
    return slots.device.type != "cpu" or torch.compiler.is_compiling()


@dataclass(frozen=True)
class Detections(_Record):
    """What the detector found, by falling score.

    boxes: ``[N, D, 4]`` in pixels of the network's input. scores: ``[N, D]`` in 0..1. labels: ``[N, D]`` int64.
    valid: ``[N, D]`` bool. masks: ``[N, D, M, M]`` probabilities inside the box, or None without a mask head.
    keypoints: ``[N, D, J, 3]`` (x, y, score), in pixels of the network's input, or None without a keypoint head.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    valid: Tensor
    masks: Tensor | None
    keypoints: Tensor | None = None


class Loss(NamedTuple):
    """A sum over what was sampled, and the number to divide it by.

    They stay apart so that a batch split over processes or accumulation steps gives the mean of the whole.
    """

    total: Tensor
    count: Tensor  # type: ignore[assignment]  # tuple has a method of this name, which nobody needs here
