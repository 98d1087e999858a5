"""Keypoint head: where in a region is each joint of its object? (Mask R-CNN, section 5)"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.models.losses import full_precision, multiclass
from maskrcnn.models.matching import take
from maskrcnn.models.precision import exactly
from maskrcnn.models.roi_pooling import RoIPooler
from maskrcnn.structures import Detections, Images, Loss, Samples, Targets

_COARSE = 2  # places per cell of a heatmap at which its maximum is looked for first
_PEAKS = 4  # so many of its highest peaks are looked at closely
_FINE = 16  # places to either side of a peak
_CUBIC = -0.75  # the coefficient of bicubic resizing that OpenCV and torch use


class KeypointHead(nn.Module):
    """Predicts a heatmap for each keypoint of a region; its target is one-hot, a single cell.

    pooler: features and boxes to regions ``[R, C, P, P]``. trunk: ``[R, C, P, P]`` to ``[R, D, P, P]``, has
    ``out_channels`` D (the paper's: eight 3x3 convolutions of 512). num_keypoints: J, of every class the same.
    A transposed convolution and bilinear resizing then double the resolution twice: M = 4 P, 56 for P = 14.
    """

    def __init__(self, pooler: RoIPooler, trunk: nn.Module, num_keypoints: int) -> None:
        super().__init__()
        self.pooler, self.trunk, self.num_keypoints = pooler, trunk, num_keypoints
        dim: int = trunk.out_channels  # type: ignore[assignment]
        self.upsample = nn.ConvTranspose2d(dim, num_keypoints, 4, stride=2, padding=1)
        nn.init.kaiming_normal_(self.upsample.weight, mode="fan_out", nonlinearity="relu")
        assert self.upsample.bias is not None
        nn.init.zeros_(self.upsample.bias)

    def heatmaps(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """Logits ``[N, K, J, M, M]`` within boxes ``[N, K, 4]``; of no meaning where not ``valid`` ``[N, K]``."""
        regions = self.pooler.regions(features, boxes, valid)
        maps = self.upsample(self.trunk(regions.pooled))
        maps = F.interpolate(full_precision(maps), scale_factor=2.0, mode="bilinear", align_corners=False)
        return regions.spread(maps)

    def losses(
        self, features: dict[int, Tensor], samples: Samples, targets: Targets, images: Images
    ) -> dict[str, Loss]:
        """``keypoint``: softmax cross entropy over the M^2 cells, summed over labelled keypoints in their region.

        Arguments as in `BoxHead.losses`.
        """
        if targets.keypoints is None:
            raise ValueError("the keypoint head needs keypoints, but the targets have none")
        positives = samples.positives()
        logits = self.heatmaps(features, positives.boxes, positives.positive)
        wanted, labelled = cells_of(
            take(targets.keypoints, positives.matched), positives.boxes, logits.shape[-1]
        )
        chosen = (labelled & positives.positive[..., None]).flatten()
        return {
            "keypoint": multiclass(
                logits.flatten(3).flatten(0, 2), wanted.flatten(), chosen, count=chosen.sum()
            )
        }

    def detect(self, features: dict[int, Tensor], regions: Detections, images: Images) -> Detections:
        """The detections ``regions`` with keypoints ``[N, D, J, 3]``: x, y in pixels of the network's input, score."""
        heatmaps = self.heatmaps(features, regions.boxes, regions.valid)
        return replace(regions, keypoints=points_of(heatmaps, regions.boxes))


def cells_of(keypoints: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Which of the M x M cells of its box each keypoint lies in, and whether it is labelled and lies in one.

    keypoints: ``[N, K, J, 3]`` continuous x, y, visibility. boxes: ``[N, K, 4]``. size: M. Returns the cells
    ``[N, K, J]`` int64, row by row, 0 where there is none, and ``[N, K, J]`` bool. The far edges belong to the last
    cells.
    """
    corner, far = boxes[:, :, None, :2], boxes[:, :, None, 2:]
    points = keypoints[..., :2].to(boxes.dtype)
    cells = ((points - corner) * (size / (far - corner))).floor()
    cells = torch.where(points == far, size - 1, cells)
    inside = ((cells >= 0) & (cells < size)).all(-1) & (keypoints[..., 2] > 0)
    x, y = torch.where(inside[..., None], cells, 0).long().unbind(-1)
    return y * size + x, inside


def points_of(logits: Tensor, boxes: Tensor) -> Tensor:
    """The keypoints that heatmaps show: the highest place after bicubic resizing to the box's whole pixels.

    logits: ``[N, K, J, M, M]`` of the box's cells. boxes: ``[N, K, 4]``. Returns ``[N, K, J, 3]`` (x, y, score); x and
    y are the centre of the best pixel, the score its softmax probability over the M^2 cells.

    The resized map is never made: its pixels are looked at twice per cell (all of them in boxes of up to 2 M pixels),
    and then all around the highest peaks of these. So shapes are fixed, and the result is that of resizing wherever the
    highest pixel belongs to one of these peaks.
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
    """Values ``[..., S, S]`` of maps ``[..., M, M]``, resized to ``pixels`` ``[..., 2, 1]``, in the columns and rows
    ``places`` ``[..., 2, S]``."""
    x, y = _bicubic(places, pixels, logits.shape[-1]).unbind(-3)  # [..., S, M]
    with exactly(logits.device):
        return y @ logits @ x.transpose(-1, -2)


def _chosen(places: Tensor, index: Tensor) -> Tensor:
    """(x, y) ``[..., P, 2]``: columns and rows ``places`` ``[..., 2, S]`` at ``index`` ``[..., P]``, by rows."""
    count = places.shape[-1]
    chosen = torch.stack([index % count, index // count], -2)  # [..., 2, P]
    return places.expand(*index.shape[:-1], 2, count).gather(-1, chosen).transpose(-1, -2)


def _bicubic(places: Tensor, pixels: Tensor, size: int) -> Tensor:
    """Weights ``[..., S, size]`` of a line's cells in the pixels ``places`` ``[..., S]`` of the line resized to
    ``pixels`` ``[..., 1]`` (Keys 1981; beyond the ends the end cells repeat)."""
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
