"""Test-time augmentation: detects in several views of an image and merges the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from maskrcnn_ops import batched_nms
from torch import Tensor

from maskrcnn.data.canvas import Canvas, batch_images
from maskrcnn.data.images import Pixels
from maskrcnn.data.transforms import Sample, Transform
from maskrcnn.errors import UserError
from maskrcnn.models import boxes as box_ops
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.heads.keypoint import points_of
from maskrcnn.models.precision import Precision, autocast, exactly
from maskrcnn.models.sampling import take
from maskrcnn.prediction.batching import prepared
from maskrcnn.prediction.detections import ImageDetections, image_detections
from maskrcnn.structures import Detections, Images


@dataclass(frozen=True)
class Augmentation:
    """The views of an image, and how their detections are merged.

    Args:
        scales: factors of the size that the transform gives.
        flip: also use the horizontal flip of every scale.
        vote_iou: a merged box is the mean of the boxes of its class that overlap it by this IoU, weighted by score
            (Gidaris & Komodakis 2015).
        max_size: largest side of a view in pixels at any scale; None is no limit.

    Raises:
        UserError: there is no scale, or one is not positive.
    """

    scales: Sequence[float] = (1.0,)
    flip: bool = True
    vote_iou: float = 0.65
    max_size: int | None = 2048

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise UserError(f"augmentation needs positive scales, not {list(self.scales)}")


@dataclass(frozen=True)
class _View:
    """One view of a batch.

    Attributes:
        images: the batch of this view.
        to_view: ``[N, 1, 4]`` factors from pixels of the files to pixels of the view.
        width: ``[N, 1]`` width of the images in the view.
        mirrored: flipped horizontally.
    """

    images: Images
    to_view: Tensor
    width: Tensor
    mirrored: bool

    def from_files(self, boxes: Tensor) -> Tensor:
        """Convert boxes ``[N, D, 4]`` of the files to this view."""
        return self._mirror(boxes * self.to_view)

    def to_files(self, boxes: Tensor) -> Tensor:
        """Convert boxes ``[N, D, 4]`` of this view to the files."""
        return self._mirror(boxes) / self.to_view

    def _mirror(self, boxes: Tensor) -> Tensor:
        if not self.mirrored:
            return boxes
        x1, y1, x2, y2 = boxes.unbind(-1)
        return torch.stack([self.width - x2, y1, self.width - x1, y2], -1)


@torch.no_grad()
def detect_augmented(
    model: MaskRCNN,
    images: Sequence[Pixels],
    transform: Transform,
    augmentation: Augmentation,
    device: torch.device,
    precision: Precision = "fp32",
    size_divisor: int = 32,
    mirror_keypoints: Sequence[int] | None = None,
) -> list[ImageDetections]:
    """Detect objects in several views of each image.

    Boxes are merged by suppression and voting. Masks and keypoints of the merged boxes are predicted in every view and
    averaged within the box: masks as probabilities, keypoints as heatmaps of logits.

    Args:
        model: in evaluation mode, with RPN and box head.
        images: ``[H, W, 3]`` uint8.
        transform: how images are resized.
        augmentation: the views.
        device: the model's device.
        precision: precision of the arithmetic.
        size_divisor: the sides of the canvas are multiples of this.
        mirror_keypoints: for each keypoint, the index of its counterpart in a mirror image.

    Returns:
        For each image its detections, in pixels of the image.

    Raises:
        UserError: the model has no RPN or no box head.
    """
    if model.box_head is None or model.rpn is None:
        raise UserError(
            "test-time augmentation merges detections: it needs a model with an RPN and a box head"
        )
    model.eval()
    sizes = [image.shape[:2] for image in images]
    with autocast(precision, device):
        views = [
            _view(samples, mirrored, size_divisor, device)
            for samples, mirrored in _samples(images, transform, augmentation)
        ]
        features = [model.features(view.images) for view in views]
        found = [model.detect_boxes(maps, v.images) for maps, v in zip(features, views, strict=True)]
        merged = _merge(found, views, model.box_head.nms_iou, model.box_head.num_detections, augmentation)
        within = [
            _within(model, maps, view, merged, mirror_keypoints)
            for maps, view in zip(features, views, strict=True)
        ]
    masks, heatmaps = zip(*within, strict=True)
    if model.mask_head is not None:
        merged = replace(merged, masks=torch.stack(masks).mean(0))
    if model.keypoint_head is not None:
        merged = replace(merged, keypoints=points_of(torch.stack(heatmaps).mean(0), merged.boxes))
    merged = merged.to("cpu")
    return [
        image_detections(merged, row, torch.tensor(size, dtype=torch.float32), (size[0], size[1]))
        for row, size in enumerate(sizes)
    ]


def _samples(
    images: Sequence[Pixels], transform: Transform, augmentation: Augmentation
) -> list[tuple[list[Sample], bool]]:
    """The images of each view, and whether it is flipped."""
    plain = [prepared(image, transform) for image in images]
    views = []
    for scale, mirrored in product(augmentation.scales, (False, True) if augmentation.flip else (False,)):
        resized = []
        for image, sample in zip(images, plain, strict=True):
            side = max(round(min(sample.picture.size) * scale), 1)
            own = replace(transform, short_side=side, max_size=augmentation.max_size)
            resized.append(prepared(image, replace(own, horizontal_flip=float(mirrored))))
        views.append((resized, mirrored))
    return views


def _view(samples: Sequence[Sample], mirrored: bool, size_divisor: int, device: torch.device) -> _View:
    batch = batch_images([sample.picture for sample in samples], Canvas(size_divisor)).to(device)
    files = torch.tensor([sample.original_size for sample in samples], dtype=torch.float32, device=device)
    factor = (batch.sizes / files).flip(-1).repeat(1, 2)  # [N, 4]: x, y, x, y
    return _View(batch, factor[:, None], batch.sizes[:, 1:], mirrored)


def _merge(
    found: Sequence[Detections], views: Sequence[_View], nms_iou: float, most: int, augmentation: Augmentation
) -> Detections:
    """Merge the detections ``[N, D]`` of all views, in pixels of the files, at most ``most`` per image."""
    boxes = torch.cat([view.to_files(d.boxes.float()) for d, view in zip(found, views, strict=True)], 1)
    scores, labels, valid = (
        torch.cat([getattr(d, name) for d in found], 1) for name in ("scores", "labels", "valid")
    )
    scores = scores.float().masked_fill(~valid, -torch.inf)
    keep = batched_nms(boxes, scores, labels, nms_iou)
    best, order = scores.masked_fill(~keep, -torch.inf).topk(min(most, scores.shape[1]))
    kept = best > -torch.inf
    shown = int(kept.sum(1).max()) if kept.numel() else 0
    order, best, kept = order[:, :shown], best[:, :shown], kept[:, :shown]
    chosen, classes = take(boxes, order), labels.gather(1, order)
    votes = (box_ops.iou(chosen, boxes) >= augmentation.vote_iou) & (classes[..., None] == labels[:, None])
    weights = votes * scores.masked_fill(~valid, 0.0)[:, None]  # [N, D, K]
    total = weights.sum(-1, keepdim=True)
    with exactly(boxes.device):
        voted = torch.where(total > 0, weights @ boxes / total.clamp(min=1e-12), chosen)
    return Detections(voted, best.masked_fill(~kept, 0.0), classes, kept, masks=None)


def _within(
    model: MaskRCNN,
    features: dict[int, Tensor],
    view: _View,
    merged: Detections,
    mirror_keypoints: Sequence[int] | None,
) -> tuple[Tensor, Tensor]:
    """Predict mask probabilities ``[N, D, M, M]`` and heatmaps ``[N, D, J, M, M]`` within merged boxes.

    They are those of this view, and empty if the model has no such head.
    """
    boxes = view.from_files(merged.boxes)
    masks = heatmaps = merged.scores.new_zeros(0)
    if model.mask_head is not None:
        masks = model.mask_head.masks(features, boxes, merged.labels, merged.valid).float()
        masks = masks.flip(-1) if view.mirrored else masks
    if model.keypoint_head is not None:
        heatmaps = model.keypoint_head.heatmaps(features, boxes, merged.valid).float()
        if view.mirrored:
            order = list(range(heatmaps.shape[2])) if mirror_keypoints is None else list(mirror_keypoints)
            heatmaps = heatmaps.flip(-1)[:, :, order]
    return masks, heatmaps
