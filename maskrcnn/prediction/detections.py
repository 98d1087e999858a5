"""Detections of one image, in pixels of that image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from maskrcnn_ops import masks_to_rle
from pycocotools import mask as coco_mask
from torch import Tensor

from maskrcnn.data.keypoints import to_coco
from maskrcnn.data.segmentation import decode, embedded
from maskrcnn.errors import UserError
from maskrcnn.structures import Detections

Result = dict[str, Any]


@dataclass(frozen=True)
class ImageDetections:
    """The D objects detected in one image, by descending score.

    Attributes:
        boxes: ``[D, 4]`` float32 x1, y1, x2, y2 in pixels of the image.
        labels: ``[D]`` int64, ``0 .. num_classes - 1``.
        scores: ``[D]`` float32.
        masks: D compressed COCO RLEs of the complete image, or None without a mask head. `mask` decodes one.
        size: (height, width) of the image.
        keypoints: ``[D, J, 3]`` float32 (x, y continuous, score), or None.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: list[dict[str, Any]] | None
    size: tuple[int, int]
    keypoints: Tensor | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def mask(self, index: int) -> npt.NDArray[np.bool_]:
        """The mask of detection ``index`` over the complete image, ``[H, W]``.

        Raises ValueError without a mask head.
        """
        if self.masks is None:
            raise ValueError("these detections have no masks: the model has no mask head")
        return full_mask(self.masks[index], self.size)

    def above(self, threshold: float) -> ImageDetections:
        """The detections with a score of at least ``threshold``."""
        return self.choose((self.scores >= threshold).nonzero().flatten().tolist())

    def choose(self, kept: Sequence[int]) -> ImageDetections:
        """Select detections by index, in this order."""
        rows = torch.tensor(kept, dtype=torch.int64)
        return replace(
            self,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            scores=self.scores[rows],
            masks=None if self.masks is None else [self.masks[i] for i in kept],
            keypoints=None if self.keypoints is None else self.keypoints[rows],
        )

    def moved(self, top: int, left: int, size: tuple[int, int]) -> ImageDetections:
        """Convert the detections of a window to pixels of the complete image.

        Args:
            top: row of the image in which the window begins.
            left: column of the image in which the window begins.
            size: (height, width) of the image.
        """
        shift = torch.tensor([left, top], dtype=torch.float32)
        keypoints = self.keypoints
        if keypoints is not None:
            keypoints = torch.cat([keypoints[..., :2] + shift, keypoints[..., 2:]], -1)
        masks = None if self.masks is None else embedded(self.masks, top, left, size)
        return replace(self, boxes=self.boxes + shift.repeat(2), masks=masks, size=size, keypoints=keypoints)

    def to_supervision(self, names: Sequence[str] | None = None) -> Any:
        """Convert to ``supervision.Detections``. Masks stay run-length encoded (``CompactMask``).

        Args:
            names: names of the labels, for ``data["class_name"]``.

        Raises:
            UserError: supervision is not installed.
        """
        try:
            from supervision import CompactMask
            from supervision import Detections as Theirs
        except ImportError as error:
            raise UserError(
                "to_supervision needs the package supervision: pip install 'maskrcnn[supervision]'"
            ) from error
        mask = None
        if self.masks is not None:
            tight = np.array([coco_mask.toBbox(rle) for rle in self.masks]).reshape(-1, 4)
            tight[:, 2:] += tight[:, :2] - 1  # CompactMask's boxes include their last pixel
            mask = CompactMask.from_coco_rle(self.masks, tight, self.size)
        labels = self.labels.numpy()
        data: dict[str, Any] = {}
        if names is not None:
            data["class_name"] = np.array([names[label] for label in labels.tolist()])
        return Theirs(self.boxes.numpy(), mask, self.scores.numpy(), labels, data=data)

    def to_coco(self, image_id: int, category_ids: Sequence[int]) -> list[Result]:
        """Convert to COCO results. Boxes are ``[x, y, width, height]``.

        Args:
            image_id: id of the image.
            category_ids: COCO id of each label.
        """
        numbers = (values.tolist() for values in (self.boxes.double(), self.scores, self.labels))
        results: list[Result] = [
            {
                "image_id": image_id,
                "category_id": category_ids[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for (x1, y1, x2, y2), score, label in zip(*numbers, strict=True)
        ]
        for result, rle in zip(results, self.masks or [], strict=self.masks is not None):
            result["segmentation"] = rle
        if self.keypoints is not None:
            for result, points in zip(results, self.keypoints.numpy(), strict=True):
                result["keypoints"] = to_coco(points)
        return results


def full_mask(rle: dict[str, Any], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The mask of a compressed RLE over an image of ``size`` (height, width), ``[H, W]``."""
    bitmap = decode(rle, *size)
    return np.zeros(size, np.bool_) if bitmap is None else bitmap.full(*size).view(np.bool_)


def image_detections(
    detections: Detections, row: int, network_size: Tensor, size: tuple[int, int]
) -> ImageDetections:
    """Convert the detections of one image of a batch to pixels of the original image.

    Masks are encoded directly as RLE.

    Args:
        detections: of the batch.
        row: index of the image in the batch.
        network_size: ``[2]`` (height, width) of the image in the network's input.
        size: (height, width) of the original image.
    """
    found = detections.valid[row]
    boxes = original_boxes(detections.boxes[row][found], network_size, size)
    masks = keypoints = None
    if detections.masks is not None:
        rles = masks_to_rle(detections.masks[row][found].float(), boxes, *size)
        masks = [dict(rle) for rle in rles]
    if detections.keypoints is not None:
        keypoints = detections.keypoints[row][found].float()
        keypoints = torch.cat([keypoints[..., :2] * _scale(network_size, size), keypoints[..., 2:]], -1)
    scores = detections.scores[row][found].float()
    return ImageDetections(boxes, detections.labels[row][found], scores, masks, size, keypoints)


def original_boxes(boxes: Tensor, network_size: Tensor, size: tuple[int, int]) -> Tensor:
    """Convert boxes of the network's input to pixels of the original image.

    Args:
        boxes: ``[D, 4]``.
        network_size: ``[2]`` (height, width) of the image in the network's input.
        size: (height, width) of the original image.
    """
    height, width = size
    limit = torch.tensor([width, height, width, height], dtype=torch.float32)
    return torch.minimum((boxes.float() * _scale(network_size, size).repeat(2)).clamp(min=0), limit)


def _scale(network_size: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels of the original image per pixel of the network's input, ``[2]`` (x, y)."""
    height, width = size
    return torch.tensor([width, height], dtype=torch.float32) / network_size.flip(0)
