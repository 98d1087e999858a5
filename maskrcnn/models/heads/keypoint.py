"""Keypoint head: locates each keypoint of a region's object (Mask R-CNN, section 5)."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.models.heads.trunks import initialise
from maskrcnn.models.losses import multiclass
from maskrcnn.models.precision import exactly, full_precision
from maskrcnn.models.roi_pooling import RoIPooler
from maskrcnn.models.sampling import take
from maskrcnn.structures import Detections, Images, Loss, Samples, Targets

_COARSE = 2  # positions per cell of a heatmap in the coarse search for its maximum
_PEAKS = 4  # number of the highest peaks that are refined
_FINE = 16  # positions on either side of a peak in the refinement
_CUBIC = -0.75  # coefficient of bicubic resizing in OpenCV and torch


class KeypointHead(nn.Module):
    """Predicts a heatmap for each keypoint of a region. The target is a single cell.

    A transposed convolution and bilinear resizing double the resolution twice: M = 4 P, for example 56 for P = 14.

    Args:
        pooler: pools the features of boxes to regions ``[R, C, P, P]``.
        trunk: ``[R, C, P, P]`` to ``[R, D, P, P]``. Its attribute ``out_channels`` is D. The paper has eight 3x3
            convolutions with 512 channels.
        num_keypoints: J, the same for every class.
    """

    def __init__(self, pooler: RoIPooler, trunk: nn.Module, num_keypoints: int) -> None:
        super().__init__()
        self.pooler, self.trunk, self.num_keypoints = pooler, trunk, num_keypoints
        dim: int = trunk.out_channels  # type: ignore[assignment]
        self.upsample = nn.ConvTranspose2d(dim, num_keypoints, 4, stride=2, padding=1)
        initialise(self.upsample)

    def heatmaps(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """Compute heatmaps.

        Args:
            features: maps by stride.
            boxes: ``[N, K, 4]`` in pixels of the network's input.
            valid: ``[N, K]`` bool.

        Returns:
            Logits ``[N, K, J, M, M]`` within the boxes, undefined for padding.
        """
        regions = self.pooler.regions(features, boxes, valid)
        maps = self.upsample(self.trunk(regions.pooled))
        maps = F.interpolate(full_precision(maps), scale_factor=2.0, mode="bilinear", align_corners=False)
        return regions.spread(maps)

    def losses(
        self, features: dict[int, Tensor], samples: Samples, targets: Targets, images: Images
    ) -> dict[str, Loss]:
        """Compute ``keypoint``: softmax cross entropy over the M^2 cells, summed over keypoints.

        Only labelled keypoints inside their region count.

        Args:
            features: maps by stride.
            samples: regions to train on, ``[N, K]``.
            targets: ground truth of the batch.
            images: the batch.
        """
        if targets.keypoints is None:
            raise ValueError("the keypoint head needs keypoints, but the targets have none")
        positives = samples.positives()
        logits = self.heatmaps(features, positives.boxes, positives.positive)
        keypoints = take(targets.keypoints, positives.matched)
        wanted, labelled = cells_of(keypoints, positives.boxes, logits.shape[-1])
        chosen = (labelled & positives.positive[..., None]).flatten()
        logits = logits.flatten(3).flatten(0, 2)  # [N K J, M M]
        return {"keypoint": multiclass(logits, wanted.flatten(), chosen, chosen.sum())}

    def detect(self, features: dict[int, Tensor], regions: Detections, images: Images) -> Detections:
        """Add keypoints ``[N, D, J, 3]`` to detections: x, y in pixels of the network's input, and score.

        Args:
            features: maps by stride.
            regions: detections ``[N, D]``.
            images: the batch.
        """
        heatmaps = self.heatmaps(features, regions.boxes, regions.valid)
        return replace(regions, keypoints=points_of(heatmaps, regions.boxes))


def cells_of(keypoints: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Find the cell of its box that each keypoint lies in.

    Args:
        keypoints: ``[N, K, J, 3]`` continuous x, y, visibility.
        boxes: ``[N, K, 4]``.
        size: M, cells per side.

    Returns:
        The cells ``[N, K, J]`` int64 in row-major order, 0 for none, and ``[N, K, J]`` bool: whether the keypoint is
        labelled and lies in the box. The far edges belong to the last cells.
    """
    corner, far = boxes[:, :, None, :2], boxes[:, :, None, 2:]
    points = keypoints[..., :2].to(boxes.dtype)
    cells = ((points - corner) * (size / (far - corner))).floor()
    cells = torch.where(points == far, size - 1, cells)
    inside = ((cells >= 0) & (cells < size)).all(-1) & (keypoints[..., 2] > 0)
    x, y = torch.where(inside[..., None], cells, 0).long().unbind(-1)
    return y * size + x, inside


def points_of(logits: Tensor, boxes: Tensor) -> Tensor:
    """Find the highest position of each heatmap after bicubic resizing to the box's pixels.

    The resized map is never computed. A coarse search evaluates two positions per cell (all pixels of boxes of up to 2
    M pixels); then all pixels around the highest peaks are evaluated. Shapes are therefore fixed. The result equals
    that of resizing if the highest pixel belongs to one of these peaks.

    Args:
        logits: ``[N, K, J, M, M]`` within the boxes.
        boxes: ``[N, K, 4]`` in pixels of the network's input.

    Returns:
        ``[N, K, J, 3]`` (x, y, score): the centre of the best pixel and its softmax probability over the M^2 cells.
    """
    size = logits.shape[-1]
    extent = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1).to(logits.dtype)  # [N, K, 2]: width, height
    pixels = extent.ceil()[..., None, :, None]  # [N, K, 1, 2, 1]
    looked_at = torch.arange(_COARSE * size, device=logits.device, dtype=logits.dtype) + 0.5
    coarse = (looked_at * (pixels / len(looked_at))).floor()
    values = _resized(logits, coarse, pixels).flatten(0, 2)
    is_peak = values == F.max_pool2d(values[:, None], 3, stride=1, padding=1)[:, 0]
    _, peaks = values.masked_fill(~is_peak, -torch.inf).flatten(1).topk(_PEAKS)  # [N K J, P]
    peaks = peaks.unflatten(0, logits.shape[:3])
    found = _chosen(coarse, peaks)  # [N, K, J, P, 2]

    around = torch.arange(-_FINE, _FINE + 1, device=logits.device, dtype=logits.dtype)
    pixels = pixels.unsqueeze(-3)  # [N, K, 1, 1, 2, 1]
    step = (pixels / (len(looked_at) * _FINE)).ceil()
    fine = torch.minimum((found[..., None] + around * step).clamp(min=0), pixels - 1)  # [N, K, J, P, 2, S]
    values, index = _resized(logits.unsqueeze(3), fine, pixels).flatten(-2).max(-1)  # [N, K, J, P]
    height, which = values.max(-1, keepdim=True)
    found = _chosen(fine, index[..., None]).squeeze(-2).gather(-2, which[..., None].expand(*which.shape, 2))
    places = boxes[..., None, :2] + (found.squeeze(-2) + 0.5) * (extent / extent.ceil())[..., None, :]
    score = (height.squeeze(-1) - logits.flatten(3).logsumexp(-1)).exp().clamp(max=1)
    return torch.cat([places, score[..., None]], -1)


def _resized(logits: Tensor, places: Tensor, pixels: Tensor) -> Tensor:
    """Values ``[..., S, S]`` of maps ``[..., M, M]`` after resizing to ``pixels`` ``[..., 2, 1]``.

    ``places`` ``[..., 2, S]`` are the columns and rows to evaluate.
    """
    x, y = _bicubic(places, pixels, logits.shape[-1]).unbind(-3)  # [..., S, M]
    with exactly(logits.device):
        return y @ logits @ x.transpose(-1, -2)


def _chosen(places: Tensor, index: Tensor) -> Tensor:
    """Positions (x, y) ``[..., P, 2]`` in the grid of columns and rows ``places`` ``[..., 2, S]``.

    ``index`` ``[..., P]`` is row-major.
    """
    count = places.shape[-1]
    chosen = torch.stack([index % count, index // count], -2)  # [..., 2, P]
    return places.expand(*index.shape[:-1], 2, count).gather(-1, chosen).transpose(-1, -2)


def _bicubic(places: Tensor, pixels: Tensor, size: int) -> Tensor:
    """Weights ``[..., S, size]`` of a line's cells in the pixels ``places`` ``[..., S]`` after resizing.

    ``pixels`` ``[..., 1]`` is the new length. The interpolation is Keys' (1981); beyond the ends, the end cells are
    repeated.
    """
    at = (places + 0.5) * (size / pixels) - 0.5
    first = at.floor()
    taps = torch.arange(-1, 3, device=at.device, dtype=at.dtype)
    distance = (at - first)[..., None] - taps
    d = distance.abs()
    near = ((_CUBIC + 2) * d - (_CUBIC + 3)) * d * d + 1
    far = ((_CUBIC * d - 5 * _CUBIC) * d + 8 * _CUBIC) * d - 4 * _CUBIC
    cells = (first[..., None] + taps).clamp(0, size - 1).long()
    weights = torch.zeros(*places.shape, size, device=at.device, dtype=at.dtype)
    return weights.scatter_add(-1, cells, torch.where(d <= 1, near, far))
